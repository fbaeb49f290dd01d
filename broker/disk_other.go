//go:build !linux && !darwin && !freebsd && !windows

package broker

import "errors"

// DiskSpace is not known here.
func DiskSpace(string) (free, size uint64, err error) { return 0, 0, errors.ErrUnsupported }
