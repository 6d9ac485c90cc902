package container

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/go-digest"

	"strake/internal/flock"
	"strake/internal/sqldb"
)

// Table is the containers of a store: rows and directories. Its methods are safe for concurrent use, in one process and across
// processes.
type Table struct {
	DB   *sqldb.DB
	Root string // the store's directory
	// Gate keeps the store from removing directories without rows, until what it returns is closed.
	Gate func(ctx context.Context) (io.Closer, error)
	// Event writes an event of a container in a transaction.
	Event func(ctx context.Context, tx *sql.Tx, action, id string, attributes map[string]string) error
	// Reap ends what is left of containers whose monitors died, before their state is written.
	Reap func(ctx context.Context) error
	// Created and Removed are called in the transactions that make and remove the row of a container, Gone when one that is to
	// be removed with its volumes was.
	Created, Removed func(ctx context.Context, tx *sql.Tx, c *Container) error
	Gone             func(ctx context.Context, c *Container) error
}

// Path is where the container's files are.
func (t *Table) Path(id string) string { return filepath.Join(Dir(t.Root), id) }

// NewID makes an ID.
func NewID() (string, error) {
	var b [32]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("name container: %w", err)
	}
	return hex.EncodeToString(b[:]), nil
}

// Create makes the row and the directory of c, whose lock the caller gets if hold is set, so that nobody else starts it. It
// fails with a *NameError where the name is taken, and with errdefs.ErrNotFound where the image is gone. Where hold is set a
// power failure may lose the container.
func (t *Table) Create(ctx context.Context, c *Container, hold bool) (lock *os.File, err error) {
	gate, err := t.Gate(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, gate.Close()) }()
	dir := t.Path(c.ID)
	if err := makeDir(dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	update := t.DB.Update
	if hold {
		update = t.DB.Note
		if lock, err = flock.TryOpen(dir, flock.Exclusive); err != nil {
			return nil, err
		}
		defer func() {
			if err != nil {
				err, lock = errors.Join(err, lock.Close()), nil
			}
		}()
	}
	c.State.Status = container.StateCreated
	return lock, update(ctx, func(tx *sql.Tx) error { return t.insert(ctx, tx, c) })
}

// makeDir makes the directory of a container.
func makeDir(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return fmt.Errorf("make container: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make container: %w", err)
	}
	for _, name := range []string{"rootfs", "upper", "work"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil { //nolint:gosec // the upper directory is the container's root
			return fmt.Errorf("make container: %w", err)
		}
	}
	return nil
}

func (t *Table) insert(ctx context.Context, tx *sql.Tx, c *Container) error {
	if err := freeName(ctx, tx, c.Name); err != nil {
		return err
	}
	spec, err := encode(c.Spec)
	if err != nil {
		return err
	}
	state, err := encode(c.State)
	if err != nil {
		return err
	}
	res, err := tx.ExecContext(ctx, `INSERT INTO containers (id, name, image_id, manifest, created, status, spec, state)
		SELECT $1, $2, id, manifest, $3, $4, $5, $6 FROM images WHERE id = $7`,
		c.ID, c.Name, c.Created.UnixNano(), string(c.State.Status), spec, state, c.ImageID.String())
	if err != nil {
		return fmt.Errorf("record container: %w", err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return errors.Join(err, fmt.Errorf("image %s: %w", c.ImageID, errdefs.ErrNotFound))
	}
	if err := t.Created(ctx, tx, c); err != nil {
		return err
	}
	return t.event(ctx, tx, "create", c, nil)
}

// freeName fails with a *NameError where a container has the name.
func freeName(ctx context.Context, tx *sql.Tx, name string) error {
	var id string
	err := tx.QueryRowContext(ctx, "SELECT id FROM containers WHERE name = $1", name).Scan(&id)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil
	case err != nil:
		return err
	}
	return &NameError{name, id}
}

// event writes an event with the attributes that docker gives it.
func (t *Table) event(ctx context.Context, tx *sql.Tx, action string, c *Container, more map[string]string) error {
	attributes := map[string]string{}
	for key, value := range c.Spec.Config.Labels {
		attributes[key] = value
	}
	attributes["image"], attributes["name"] = c.Spec.Config.Image, c.Name
	for key, value := range more {
		attributes[key] = value
	}
	return t.Event(ctx, tx, action, c.ID, attributes)
}

// Tell writes an event that changes no row.
func (t *Table) Tell(ctx context.Context, action string, c *Container, more map[string]string) error {
	return t.DB.Note(ctx, func(tx *sql.Tx) error { return t.event(ctx, tx, action, c, more) })
}

const columns = "SELECT id, name, image_id, created, spec, state FROM containers "

func scan(scan func(...any) error) (*Container, error) {
	var c Container
	var created int64
	var image string
	var spec, state []byte
	if err := scan(&c.ID, &c.Name, &image, &created, &spec, &state); err != nil {
		return nil, err
	}
	c.ImageID, c.Created = digest.Digest(image), time.Unix(0, created).UTC()
	if err := json.Unmarshal(spec, &c.Spec); err != nil {
		return nil, fmt.Errorf("container %s: %w", c.ID, err)
	}
	if err := json.Unmarshal(state, &c.State); err != nil {
		return nil, fmt.Errorf("container %s: %w", c.ID, err)
	}
	if c.Spec.Config == nil || c.Spec.HostConfig == nil {
		return nil, fmt.Errorf("container %s: its record has no configuration: %w", c.ID, errdefs.ErrDataLoss)
	}
	return &c, nil
}

// list reads rows as they are.
func (t *Table) list(ctx context.Context, where string, args ...any) (found []*Container, err error) {
	err = t.DB.View(ctx, func(tx *sql.Tx) (err error) {
		found, err = sqldb.Collect(ctx, tx, columns+where, args, func(rows *sql.Rows, c **Container) (err error) {
			*c, err = scan(rows.Scan)
			return err
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read containers: %w", err)
	}
	return found, nil
}

// List returns all containers, the newest first, each settled.
func (t *Table) List(ctx context.Context) ([]*Container, error) {
	found, err := t.list(ctx, "ORDER BY created DESC, id")
	if err != nil {
		return nil, err
	}
	settled := found[:0]
	for _, c := range found {
		if c, err = t.settle(ctx, c); err != nil {
			return nil, err
		}
		if c != nil {
			settled = append(settled, c)
		}
	}
	return settled, nil
}

// Get returns the container that ref names, settled: its ID, its name, or what its ID alone begins with. It fails with
// errdefs.ErrNotFound, or errdefs.ErrInvalidArgument where several begin so.
func (t *Table) Get(ctx context.Context, ref string) (*Container, error) {
	name := ref
	if len(ref) > 1 && ref[0] == '/' {
		name = ref[1:]
	}
	found, err := t.list(ctx, "WHERE id = $1 OR name = $2 OR substr(id, 1, length($1)) = $1 LIMIT 1000", ref, name)
	if err != nil {
		return nil, err
	}
	best, rank, several := (*Container)(nil), 0, false
	for _, c := range found {
		r := 1
		switch {
		case c.ID == ref:
			r = 3
		case c.Name == name:
			r = 2
		}
		several = several || r == 1 && rank == 1
		if r > rank {
			best, rank = c, r
		}
	}
	missing := errorText{"No such container: " + ref, errdefs.ErrNotFound}
	switch {
	case best == nil || ref == "":
		return nil, missing
	case rank == 1 && several:
		return nil, errorText{"Multiple IDs found with provided prefix: " + ref, errdefs.ErrInvalidArgument}
	}
	c, err := t.settle(ctx, best)
	if err == nil && c == nil {
		err = missing
	}
	return c, err
}

// ByID reads a container again; nil where it is gone.
func (t *Table) ByID(ctx context.Context, id string) (*Container, error) {
	found, err := t.list(ctx, "WHERE id = $1", id)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return t.settle(ctx, found[0])
}

// Locked reads a container whose lock the caller holds.
func (t *Table) Locked(ctx context.Context, id string) (*Container, error) {
	found, err := t.list(ctx, "WHERE id = $1", id)
	if err == nil && len(found) == 0 {
		err = errorText{"No such container: " + id, errdefs.ErrNotFound}
	}
	if err != nil {
		return nil, err
	}
	return found[0], nil
}

// SetState writes the container's state, and an event of it. The caller holds the lock, and nobody misses it after a loss of
// power, when no container runs.
func (t *Table) SetState(ctx context.Context, c *Container, action string, attributes map[string]string) error {
	state, err := encode(c.State)
	if err != nil {
		return err
	}
	err = t.DB.Note(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "UPDATE containers SET status = $2, state = $3 WHERE id = $1", c.ID, string(c.State.Status), state)
		if err != nil || action == "" {
			return err
		}
		return t.event(ctx, tx, action, c, attributes)
	})
	if err != nil {
		return fmt.Errorf("write state of container %s: %w", c.ID, err)
	}
	return nil
}

// SetSpec changes what a container was created as.
func (t *Table) SetSpec(ctx context.Context, id string, change func(*Spec) error) error {
	return t.DB.Update(ctx, func(tx *sql.Tx) error {
		c, err := scan(tx.QueryRowContext(ctx, columns+"WHERE id = $1", id).Scan)
		if errors.Is(err, sql.ErrNoRows) {
			return errorText{"No such container: " + id, errdefs.ErrNotFound}
		}
		if err != nil {
			return err
		}
		if err := change(&c.Spec); err != nil {
			return err
		}
		spec, err := encode(c.Spec)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, "UPDATE containers SET spec = $2 WHERE id = $1", id, spec)
		return errors.Join(err, t.event(ctx, tx, "update", c, nil))
	})
}

// Rename gives a container another name. It fails with a *NameError where that is taken.
func (t *Table) Rename(ctx context.Context, c *Container, name string) error {
	return t.DB.Update(ctx, func(tx *sql.Tx) error {
		if err := freeName(ctx, tx, name); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, "UPDATE containers SET name = $2 WHERE id = $1", c.ID, name); err != nil {
			return err
		}
		old := c.Name
		c.Name = name
		return t.event(ctx, tx, "rename", c, map[string]string{"oldName": "/" + old})
	})
}

// Remove removes a container, whose lock the caller holds: its row, then its files. What a crash leaves of these has no row, and
// the store removes it; a row that a loss of power brings back has no files, and settle removes it. One that is gone stays so.
func (t *Table) Remove(ctx context.Context, c *Container) error {
	err := t.DB.Note(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, "DELETE FROM containers WHERE id = $1", c.ID)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return err
		}
		if err := t.Removed(ctx, tx, c); err != nil {
			return err
		}
		return t.event(ctx, tx, "destroy", c, nil)
	})
	if err == nil {
		err = os.RemoveAll(t.Path(c.ID))
	}
	if err == nil && c.Spec.HostConfig.AutoRemove {
		err = t.Gone(ctx, c)
	}
	if err != nil {
		return fmt.Errorf("remove container %s: %w", c.ID, err)
	}
	return nil
}
