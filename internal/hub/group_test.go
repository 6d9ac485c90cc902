package hub

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
)

// TestGroupParallel makes changes at once, some of which fail after they wrote:
// each is told its own error, and leaves nothing.
func TestGroupParallel(t *testing.T) {
	h, err := Open(t.Context(), Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}()
	bad := errors.New("bad")
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			err := h.changes.update(t.Context(), func(ctx context.Context, tx *sql.Tx) error {
				_, err := tx.ExecContext(ctx, `INSERT INTO uploads (id, repository, created) VALUES ($1, 'r', 0)`, fmt.Sprint(i))
				if err != nil {
					return err
				}
				switch i % 10 {
				case 1:
					return fmt.Errorf("change %d: %w", i, bad)
				case 2:
					panic("change")
				case 3: // a statement that fails
					_, err := tx.ExecContext(ctx, `INSERT INTO uploads (id, repository, created) VALUES ($1, 'r', 0)`, fmt.Sprint(i))
					return err
				}
				return nil
			})
			if want := i%10 >= 1 && i%10 <= 3; (err != nil) != want || errors.Is(err, bad) != (i%10 == 1) || want && i%10 == 2 && !strings.Contains(err.Error(), "panic") {
				t.Errorf("change %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	var n int
	if err := h.db.Get(t.Context(), `SELECT count(*) FROM uploads`, nil, &n); err != nil || n != 140 {
		t.Errorf("%d rows, %v, want 140", n, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := h.changes.update(ctx, func(context.Context, *sql.Tx) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
