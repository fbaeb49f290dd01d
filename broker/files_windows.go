package broker

import (
	"os"

	"golang.org/x/sys/windows"
)

// lockFile takes the file for this process, until that ends, or fails at once.
func lockFile(f *os.File) error {
	return windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, new(windows.Overlapped))
}

// syncDir does nothing: Windows has no way to sync a folder.
func syncDir(string) error { return nil }
