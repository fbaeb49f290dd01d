//go:build linux || darwin || freebsd

package broker

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// DiskSpace returns how much of the file system that holds dir is free for this process,
// and how much there is, in bytes.
func DiskSpace(dir string) (free, size uint64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, 0, fmt.Errorf("ask for the free space of %s: %w", dir, err)
	}
	block := uint64(s.Bsize)
	return uint64(max(0, s.Bavail)) * block, uint64(s.Blocks) * block, nil // below zero where only root has room left
}
