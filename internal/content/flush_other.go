//go:build !linux

package content

import "os"

// startFlush does nothing here.
func startFlush(*os.File, int64, int64) {}
