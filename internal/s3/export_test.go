package s3

import (
	"context"
	"time"
)

// OpenAsleep opens a store whose writers do not renew their leases, as those of
// a process that is stopped.
func OpenAsleep(ctx context.Context, url string) (*Store, error) {
	s, err := Open(ctx, url)
	if err == nil {
		s.asleep = true
		s.lease = time.Second
	}
	return s, err
}

// SetLease says after how long a lease that is not renewed is free.
func (s *Store) SetLease(d time.Duration) { s.lease = d }
