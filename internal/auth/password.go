package auth

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"runtime"
	"strings"
	"unicode/utf8"

	"github.com/containerd/errdefs"
	"golang.org/x/crypto/argon2"
)

// The cost of a password's hash: argon2id with OWASP's parameters, 19 MiB and
// some 30 ms each.
const (
	argonMemory = 19 * 1024 // KiB
	argonTime   = 2
	argonLanes  = 1
	argonKey    = 32
	argonSalt   = 16
)

// Bounds on passwords, in characters and in bytes.
const (
	minPassword = 10
	maxPassword = 1024
)

// hashing bounds how many hashes are computed at once, and so the memory that
// logins take; maxWaiting how many wait for it.
var (
	hashing = make(chan struct{}, max(1, runtime.GOMAXPROCS(0)))
	waiting = make(chan struct{}, 256)
)

// inTurn calls fn when there is room for another hash. It fails with
// errdefs.ErrUnavailable when too many wait already.
func inTurn(ctx context.Context, fn func() error) error {
	select {
	case waiting <- struct{}{}:
		defer func() { <-waiting }()
	default:
		return fmt.Errorf("too many logins at once: %w", errdefs.ErrUnavailable)
	}
	select {
	case hashing <- struct{}{}:
		defer func() { <-hashing }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return fn()
}

// CheckPassword fails with errdefs.ErrInvalidArgument for a password that is
// too short, too long or no text. How it looks is its owner's affair.
func CheckPassword(password string) error {
	if !utf8.ValidString(password) || utf8.RuneCountInString(password) < minPassword || len(password) > maxPassword {
		return fmt.Errorf("a password has %d characters at least and %d bytes at most: %w", minPassword, maxPassword, errdefs.ErrInvalidArgument)
	}
	return nil
}

// hashPassword returns the hash of a password in the PHC form.
func hashPassword(ctx context.Context, password string) (string, error) {
	if err := CheckPassword(password); err != nil {
		return "", err
	}
	salt := make([]byte, argonSalt)
	_, _ = rand.Read(salt) // never fails
	var hash string
	err := inTurn(ctx, func() error {
		hash = standard.phc(salt, standard.derive(password, salt))
		return nil
	})
	return hash, err
}

// cost is what a hash was made with.
type cost struct {
	memory, time uint32
	lanes        uint8
}

// standard is the cost of new hashes; old ones keep theirs.
var standard = cost{argonMemory, argonTime, argonLanes}

func (c cost) derive(password string, salt []byte) []byte {
	return argon2.IDKey([]byte(password), salt, c.time, c.memory, c.lanes, argonKey)
}

func (c cost) phc(salt, key []byte) string {
	b64 := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, c.memory, c.time, c.lanes, b64(salt), b64(key))
}

// parsePHC parses what phc wrote.
func parsePHC(hash string) (c cost, salt, key []byte, ok bool) {
	parts := strings.Split(hash, "$")
	if len(parts) != 6 {
		return standard, nil, nil, false
	}
	_, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &c.memory, &c.time, &c.lanes)
	salt, err1 := base64.RawStdEncoding.DecodeString(parts[4])
	key, err2 := base64.RawStdEncoding.DecodeString(parts[5])
	if err != nil || err1 != nil || err2 != nil || c.phc(salt, key) != hash || len(key) != argonKey || c.memory > 1<<20 || c.time == 0 || c.lanes == 0 {
		return standard, nil, nil, false
	}
	return c, salt, key, true
}

// samePassword reports whether password has the hash. It takes the same time
// where there is none.
func samePassword(hash, password string) bool {
	c, salt, key, ok := parsePHC(hash)
	if !ok {
		salt, key = make([]byte, argonSalt), make([]byte, argonKey)
	}
	if len(password) > maxPassword {
		password, ok = "", false
	}
	return subtle.ConstantTimeCompare(c.derive(password, salt), key) == 1 && ok
}

// NewPassword makes a password that nobody guesses: 120 bits, to be typed.
func NewPassword() string {
	text := strings.ToLower(rand.Text()[:24])
	return text[:6] + "-" + text[6:12] + "-" + text[12:18] + "-" + text[18:]
}
