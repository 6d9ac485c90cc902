package content

import (
	"os"

	"golang.org/x/sys/unix"
)

// startFlush lets the kernel begin to write n bytes at offset of f to the disk,
// so that the fsync at the end has little left to wait for. It is a hint: an
// error shows again in fsync.
func startFlush(f *os.File, offset, n int64) {
	_ = unix.SyncFileRange(int(f.Fd()), offset, n, unix.SYNC_FILE_RANGE_WRITE)
}
