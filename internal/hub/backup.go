package hub

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"strake/internal/content"
	"strake/internal/sqldb"
)

const databaseFile = "hub.db"

// BackupResult is what a backup holds, or what was restored.
type BackupResult struct {
	Blobs int64 // that the database names
	Bytes int64 // that they have
	New   int64 // blobs that were copied or linked this time
}

// Backup makes dir a backup of the Hub in data, which may be serving, or renews
// the one that dir is: the database as of one moment, the blobs that it names,
// and the other files of data. Blobs are hard links where the file system has
// them, otherwise verified copies. Until all of it is there an older backup in
// dir stays good. It fails with errdefs.ErrUnavailable where blobs were deleted
// and collected meanwhile: to be done again.
func Backup(ctx context.Context, data, dir string) (BackupResult, error) {
	r, err := backup(ctx, data, dir)
	if err != nil {
		return r, fmt.Errorf("back up %q to %q: %w", data, dir, err)
	}
	return r, nil
}

func backup(ctx context.Context, data, dir string) (result BackupResult, err error) {
	if _, err := os.Stat(filepath.Join(data, databaseFile)); err != nil {
		return result, err
	}
	if inside(data, dir) {
		return result, fmt.Errorf("a backup inside of what it is of: %w", errdefs.ErrInvalidArgument)
	}
	to, err := content.NewDir(dir)
	if err != nil {
		return result, err
	}
	fresh := filepath.Join(dir, databaseFile+".new")
	if err := removeDatabase(fresh); err != nil {
		return result, err
	}
	db, err := sqldb.Open(ctx, sqldb.Options{Path: filepath.Join(data, databaseFile)})
	if err != nil {
		return result, err
	}
	if err := errors.Join(db.Backup(ctx, fresh), db.Close()); err != nil {
		return result, err
	}
	needed, err := result.copyBlobs(ctx, fresh, data, to)
	if err == nil {
		err = copyFiles(data, dir)
	}
	if err != nil {
		return result, err
	}
	if err := errors.Join(os.Rename(fresh, filepath.Join(dir, databaseFile)), removeDatabase(fresh), syncDir(dir)); err != nil {
		return result, err
	}
	return result, to.Walk(ctx, func(info content.Info) error { // what only the older backup needed
		if needed[info.Digest] {
			return nil
		}
		return to.Delete(ctx, info.Digest)
	})
}

// Restore makes data, which is not there or empty, the Hub of which dir is a
// backup. The backup stays as it is.
func Restore(ctx context.Context, dir, data string) (BackupResult, error) {
	r, err := restore(ctx, dir, data)
	if err != nil {
		return r, fmt.Errorf("restore %q from %q: %w", data, dir, err)
	}
	return r, nil
}

func restore(ctx context.Context, dir, data string) (result BackupResult, err error) {
	if _, err := os.Stat(filepath.Join(dir, databaseFile)); err != nil {
		return result, fmt.Errorf("no backup: %w", err)
	}
	entries, err := os.ReadDir(data)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return result, err
	}
	if len(entries) > 0 {
		return result, fmt.Errorf("the directory is not empty: %w", errdefs.ErrAlreadyExists)
	}
	to, err := content.NewDir(data)
	if err != nil {
		return result, err
	}
	fresh := filepath.Join(data, databaseFile+".new")
	if err := copyFile(filepath.Join(dir, databaseFile), fresh, nil); err != nil {
		return result, err
	}
	if _, err := result.copyBlobs(ctx, fresh, dir, to); err != nil {
		return result, err
	}
	if err := copyFiles(dir, data); err != nil {
		return result, err
	}
	return result, errors.Join(os.Rename(fresh, filepath.Join(data, databaseFile)), removeDatabase(fresh), syncDir(data))
}

// copyBlobs gives to what the database at path names, from the directory data.
func (r *BackupResult) copyBlobs(ctx context.Context, path, data string, to *content.Dir) (needed map[digest.Digest]bool, err error) {
	from, err := content.NewDir(data)
	if err != nil {
		return nil, err
	}
	db, err := sqldb.Open(ctx, sqldb.Options{Path: path})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	needed = map[digest.Digest]bool{}
	var missing []digest.Digest
	err = db.View(ctx, func(tx *sql.Tx) error {
		return sqldb.Each(ctx, tx, `SELECT digest, size FROM blobs UNION SELECT digest, size FROM manifests UNION SELECT digest, size FROM trash`, nil, func(rows *sql.Rows) error {
			var dgst digest.Digest
			var size int64
			if err := rows.Scan(&dgst, &size); err != nil {
				return err
			}
			if err := content.CheckDigest(dgst); err != nil {
				return err
			}
			needed[dgst] = true
			made, err := copyBlob(from.Path(dgst), to.Path(dgst), dgst, size)
			if errors.Is(err, fs.ErrNotExist) {
				missing = append(missing, dgst)
				return nil
			}
			if err == nil {
				r.Blobs++
				r.Bytes += size
			}
			if made {
				r.New++
			}
			return err
		})
	})
	if err == nil && len(missing) > 0 {
		err = fmt.Errorf("%d blobs that the database names are not there, the first is %s: %w", len(missing), missing[0], errdefs.ErrUnavailable)
	}
	return needed, err
}

// copyBlob links or copies a blob, unless it is there.
func copyBlob(from, to string, dgst digest.Digest, size int64) (made bool, err error) {
	if info, err := os.Stat(to); err == nil && info.Size() == size {
		return false, nil
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return false, err
	}
	if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) { // a damaged one
		return false, err
	}
	if err := os.Link(from, to); err == nil || errors.Is(err, fs.ErrNotExist) {
		return err == nil, err
	}
	part := to + ".part"
	if err := os.Remove(part); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	err = copyFile(from, part, func(r io.Reader) io.Reader { return content.NewReader(r, dgst, size) })
	if err == nil {
		err = os.Rename(part, to)
	}
	return err == nil, err
}

// copyFile copies a file, durably, through a reader if there is one.
func copyFile(from, to string, through func(io.Reader) io.Reader) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	r := io.Reader(src)
	if through != nil {
		r = through(src)
	}
	_, err = io.Copy(dst, r)
	return errors.Join(err, dst.Sync(), dst.Close())
}

// copyFiles copies what a Hub keeps in its directory besides the database and
// the content store, such as certificates.
func copyFiles(from, to string) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		top, _, _ := strings.Cut(rel, string(filepath.Separator))
		switch {
		case slices.Contains([]string{"blobs", "ingest"}, top):
			return fs.SkipDir
		case strings.HasPrefix(top, databaseFile):
			return nil
		case e.IsDir():
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		case e.Type().IsRegular():
			return copyFile(path, filepath.Join(to, rel), nil)
		}
		return nil
	})
}

// removeDatabase removes a database and the files beside it.
func removeDatabase(path string) error {
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// inside tells whether path is dir or in it.
func inside(dir, path string) bool {
	a, err1 := filepath.Abs(dir)
	b, err2 := filepath.Abs(path)
	rel, err3 := filepath.Rel(a, b)
	return errors.Join(err1, err2, err3) == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}

// syncDir makes the names in dir durable.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
