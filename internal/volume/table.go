package volume

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"strake/internal/sqldb"
)

// Table is the volumes of a store: rows and directories. Its methods are safe for concurrent use, in one process and across
// processes.
type Table struct {
	DB   *sqldb.DB
	Root string // the store's directory
	// Event writes an event of a volume in a transaction.
	Event func(ctx context.Context, tx *sql.Tx, action, name string) error
}

// Path is where the volume's files are.
func (t *Table) Path(name string) string { return filepath.Join(Dir(t.Root), name, data) }

// Create makes a volume, durably, or does nothing where there is one of that name.
func (t *Table) Create(ctx context.Context, v Volume) error {
	err := t.DB.Update(ctx, func(tx *sql.Tx) error { return t.Insert(ctx, tx, v) })
	if err != nil {
		return err
	}
	return t.Make(v.Name)
}

// Insert is Create in a transaction. Make follows it.
func (t *Table) Insert(ctx context.Context, tx *sql.Tx, v Volume) error {
	if err := errors.Join(CheckName(v.Name), checkOptions(v.Name, v.Options)); err != nil {
		return err
	}
	if v.Created.IsZero() {
		v.Created = time.Now()
	}
	labels, err := encode(v.Labels)
	if err != nil {
		return err
	}
	options, err := encode(v.Options)
	if err != nil {
		return err
	}
	res, err := tx.ExecContext(ctx, `INSERT INTO volumes (name, created, labels, options) VALUES ($1, $2, $3, $4) ON CONFLICT (name) DO NOTHING`,
		v.Name, v.Created.UnixNano(), labels, options)
	if err != nil {
		return fmt.Errorf("create %s: %w", v.Name, err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return err
	}
	return t.Event(ctx, tx, "create", v.Name)
}

// Make makes the directory of a volume where it is missing.
func (t *Table) Make(name string) error {
	path := t.Path(name)
	err := os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		err = os.Mkdir(path, 0o700)
	}
	if err == nil {
		err = os.Chmod(path, 0o755) //nolint:gosec // in a closed directory; any user of a container may be meant to read it
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("error while creating volume root path '%s': %w", filepath.Dir(path), err)
	}
	return nil
}

// Get returns a volume, or fails with errdefs.ErrNotFound.
func (t *Table) Get(ctx context.Context, name string) (Volume, error) {
	if name == "" {
		return Volume{}, missing(name)
	}
	list, err := t.list(ctx, name)
	if err == nil && len(list) == 0 {
		err = missing(name)
	}
	if err != nil {
		return Volume{}, err
	}
	return list[0], nil
}

func missing(name string) error {
	return errorText{fmt.Sprintf("get %s: no such volume", name), errdefs.ErrNotFound}
}

// List returns all volumes by name.
func (t *Table) List(ctx context.Context) ([]Volume, error) { return t.list(ctx, "") }

// list returns the volume of that name, or all for "".
func (t *Table) list(ctx context.Context, name string) (list []Volume, err error) {
	err = t.DB.View(ctx, func(tx *sql.Tx) error {
		users, err := users(ctx, tx)
		if err != nil {
			return err
		}
		const query = "SELECT name, created, labels, options FROM volumes WHERE $1 = '' OR name = $1 ORDER BY name"
		list, err = sqldb.Collect(ctx, tx, query, []any{name}, func(rows *sql.Rows, v *Volume) error {
			var created int64
			var labels, options []byte
			if err := rows.Scan(&v.Name, &created, &labels, &options); err != nil {
				return err
			}
			if err := errors.Join(json.Unmarshal(labels, &v.Labels), json.Unmarshal(options, &v.Options)); err != nil {
				return fmt.Errorf("volume %s: %w", v.Name, err)
			}
			v.Created, v.Users = time.Unix(0, created), users[v.Name]
			return nil
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read volumes: %w", err)
	}
	return list, nil
}

// users are the containers that use each volume.
func users(ctx context.Context, tx *sql.Tx) (map[string][]string, error) {
	all := map[string][]string{}
	err := sqldb.Each(ctx, tx, "SELECT volume, container_id FROM volume_users ORDER BY container_id", nil, func(rows *sql.Rows) error {
		var name, container string
		err := rows.Scan(&name, &container)
		all[name] = append(all[name], container)
		return err
	})
	return all, err
}

// Use notes in a transaction that a container uses a volume.
func (t *Table) Use(ctx context.Context, tx *sql.Tx, name, container string) error {
	_, err := tx.ExecContext(ctx, "INSERT INTO volume_users (volume, container_id) VALUES ($1, $2) ON CONFLICT DO NOTHING", name, container)
	return err
}

// Forget ends in a transaction what Use began for a container.
func (t *Table) Forget(ctx context.Context, tx *sql.Tx, container string) error {
	_, err := tx.ExecContext(ctx, "DELETE FROM volume_users WHERE container_id = $1", container)
	return err
}

// Remove removes a volume and its files. It fails with errdefs.ErrNotFound where there is none, and with errdefs.ErrConflict where a
// container uses it. When the row is gone the files are no volume's any more; a crash then leaves them to Sweep.
func (t *Table) Remove(ctx context.Context, name string) error {
	aside := filepath.Join(Dir(t.Root), dead+rand.Text())
	dir := filepath.Join(Dir(t.Root), name)
	moved := false
	err := t.DB.Update(ctx, func(tx *sql.Tx) error {
		all, err := users(ctx, tx)
		if err != nil {
			return err
		}
		if ids := all[name]; len(ids) > 0 {
			return errorText{fmt.Sprintf("remove %s: volume is in use - [%s]", name, strings.Join(ids, ", ")), errdefs.ErrConflict}
		}
		res, err := tx.ExecContext(ctx, "DELETE FROM volumes WHERE name = $1", name)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, missing(name))
		}
		if err := t.Event(ctx, tx, "destroy", name); err != nil {
			return err
		}
		if err := os.Rename(dir, aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		moved = true
		return nil
	})
	if err != nil {
		if _, isText := errors.AsType[errorText](err); isText {
			return err
		}
		if moved {
			err = errors.Join(err, os.Rename(aside, dir))
		}
		return fmt.Errorf("remove %s: %w", name, err)
	}
	if err := os.RemoveAll(aside); err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}

// Sweep removes what a crash in Remove left. It may run at any time.
func (t *Table) Sweep() error {
	left, err := filepath.Glob(filepath.Join(Dir(t.Root), dead+"*"))
	for _, path := range left {
		err = errors.Join(err, os.RemoveAll(path))
	}
	return err
}

// A Size is what the files of a volume have and take.
type Size struct {
	Files int64 // bytes in them, which is what docker tells
	Disk  int64 // bytes on the disk, with the directories, which is what du tells
}

// Sizes measures each volume, by name.
func (t *Table) Sizes() (map[string]Size, error) {
	entries, err := os.ReadDir(Dir(t.Root))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("measure volumes: %w", err)
	}
	sizes := make(map[string]Size, len(entries))
	for _, e := range entries {
		if sizes[e.Name()], err = measure(filepath.Join(Dir(t.Root), e.Name())); err != nil {
			return nil, fmt.Errorf("measure volumes: %w", err)
		}
	}
	return sizes, nil
}

// measure adds up what is below a directory in which others may write, each file once.
func measure(dir string) (size Size, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return size, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	seen := map[[2]uint64]bool{}
	err = fs.WalkDir(root.FS(), ".", func(_ string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		}
		if err != nil {
			return err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok || seen[[2]uint64{uint64(st.Dev), st.Ino}] {
			return nil
		}
		seen[[2]uint64{uint64(st.Dev), st.Ino}] = true
		size.Disk += st.Blocks * 512
		if !info.IsDir() {
			size.Files += st.Size
		}
		return nil
	})
	return size, err
}

// encode returns a map as JSON: null for an empty one, as docker's API shows it.
func encode(m map[string]string) (string, error) {
	if len(m) == 0 {
		return "null", nil
	}
	b, err := json.Marshal(m)
	return string(b), err
}
