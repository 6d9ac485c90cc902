package gate

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"database/sql"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// The life of keys. All replicas share them: a key that one makes the others
// read when they see its ID.
const (
	signFor = 30 * 24 * time.Hour // then a new one signs
	keepFor = 31 * 24 * time.Hour // then it is deleted
	readFor = time.Minute         // then it is read again: it may have been deleted
)

// key is a key that signs registry tokens.
type key struct {
	id      string
	private ed25519.PrivateKey
	created time.Time
	read    time.Time
}

// signer returns the key that signs now; it makes one where there is none or
// where the newest is old.
func (g *Gate) signer(ctx context.Context) (key, error) {
	g.mu.Lock()
	k := g.sign
	g.mu.Unlock()
	now := time.Now()
	if k.id != "" && now.Sub(k.read) < readFor && now.Sub(k.created) < signFor {
		return k, nil
	}
	k, err := g.readKey(ctx, `SELECT id, private, created FROM signing_keys ORDER BY created DESC, id LIMIT 1`)
	if errdefs.IsNotFound(err) || err == nil && now.Sub(k.created) >= signFor {
		if err := g.makeKey(ctx, now); err != nil {
			return key{}, err
		}
		k, err = g.readKey(ctx, `SELECT id, private, created FROM signing_keys ORDER BY created DESC, id LIMIT 1`)
	}
	if err != nil {
		return key{}, fmt.Errorf("signing key: %w", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sign = k
	return k, nil
}

// public returns the public half of a key by its ID, or fails with ErrNotFound.
func (g *Gate) public(ctx context.Context, id string) (ed25519.PublicKey, error) {
	g.mu.Lock()
	k, ok := g.keys[id]
	g.mu.Unlock()
	if !ok || time.Since(k.read) > readFor {
		var err error
		k, err = g.readKey(ctx, `SELECT id, private, created FROM signing_keys WHERE id = $1`, id)
		g.mu.Lock()
		defer g.mu.Unlock()
		if err != nil {
			delete(g.keys, id)
			return nil, err
		}
		g.keys[id] = k
	}
	pub, ok := k.private.Public().(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("signing key without a public half")
	}
	return pub, nil
}

func (g *Gate) readKey(ctx context.Context, query string, args ...any) (key, error) {
	var text string
	var created int64
	k := key{read: time.Now()}
	err := g.db.Get(ctx, query, args, &k.id, &text, &created)
	if errors.Is(err, sql.ErrNoRows) {
		return k, errdefs.ErrNotFound
	}
	if err != nil {
		return k, err
	}
	k.created = time.Unix(created, 0)
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return k, errors.New("a signing key is damaged")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return k, fmt.Errorf("a signing key is damaged: %w", err)
	}
	var ok bool
	if k.private, ok = parsed.(ed25519.PrivateKey); !ok {
		return k, errors.New("a signing key is of another kind")
	}
	return k, nil
}

// makeKey makes a key unless another replica has just done so, and drops old ones.
func (g *Gate) makeKey(ctx context.Context, now time.Time) error {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return g.db.Update(ctx, func(tx *sql.Tx) error {
		var newest int64
		if err := tx.QueryRowContext(ctx, `SELECT COALESCE(max(created), 0) FROM signing_keys`).Scan(&newest); err != nil {
			return err
		}
		if now.Sub(time.Unix(newest, 0)) < signFor {
			return nil
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM signing_keys WHERE created < $1`, now.Add(-keepFor).Unix()); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO signing_keys (id, private, created) VALUES ($1, $2, $3)`,
			strings.ToLower(rand.Text()), string(text), now.Unix())
		return err
	})
}
