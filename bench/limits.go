//go:build linux

package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"time"

	"strake/internal/archive"
)

// limits are the costs that no pull of the big image can avoid, on one core of this machine.
type limits struct {
	// Inflate is the time to inflate the larger layer, Total to inflate both and hash their compressed and plain bytes.
	Inflate, Total time.Duration
}

// describe says the limits in the report.
func (l limits) describe() string {
	return fmt.Sprintf("Limits of a pull on one core here: inflating the larger layer %s; inflating and hashing everything once %s",
		round(l.Inflate), round(l.Total))
}

// measureLimits takes the faster of two runs of each.
func measureLimits(ctx context.Context, in *inputs) (limits, error) {
	var l limits
	for range 2 {
		var total, inflate time.Duration
		for _, layer := range in.Layers {
			start := time.Now()
			if err := inflateFile(ctx, layer.Path); err != nil {
				return l, err
			}
			took := time.Since(start)
			inflate, total = max(inflate, took), total+took
			start = time.Now()
			if err := hashBytes(ctx, sha256.New(), layer.Size+layer.TarSize); err != nil {
				return l, err
			}
			total += time.Since(start)
		}
		if l.Total == 0 || total < l.Total {
			l = limits{inflate, total}
		}
	}
	return l, nil
}

func inflateFile(ctx context.Context, name string) (err error) {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	r, _, err := archive.Decompress(f)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r)
	return errors.Join(err, r.Close(), ctx.Err())
}

func hashBytes(ctx context.Context, h hash.Hash, n int64) error {
	buf := make([]byte, 64<<10)
	for ; n > 0; n -= int64(len(buf)) {
		if _, err := h.Write(buf[:min(n, int64(len(buf)))]); err != nil {
			return err
		}
	}
	return ctx.Err()
}
