package broker

import (
	"fmt"

	"golang.org/x/sys/windows"
)

// DiskSpace returns how much of the file system that holds dir is free for this process,
// and how much there is, in bytes.
func DiskSpace(dir string) (free, size uint64, err error) {
	name, err := windows.UTF16PtrFromString(dir)
	if err == nil {
		err = windows.GetDiskFreeSpaceEx(name, &free, &size, nil)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("ask for the free space of %s: %w", dir, err)
	}
	return free, size, nil
}
