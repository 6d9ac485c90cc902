// Package network gives containers their networks, without a daemon.
//
// A network is a row of the store's database and, where its driver is bridge, a
// bridge device of the host. An endpoint is what a container has of a network: a
// pair of veth devices, one end a port of the bridge, the other an interface in
// the container's network namespace, with addresses. A sandbox is that namespace
// with all of its endpoints, the ports that are published for it, and the server
// that resolves names in it. It belongs to a process, the container's monitor: the
// sockets are the process's, and the devices die with the namespace.
//
// The rows say what is; the rules of the host's packet filter, in one table of our
// own, follow from them and are made again when they change. Whoever changes rows
// holds the lock file of the store's networks, and first drops the rows of
// containers that are dead. So a process that is killed leaves rows and rules
// behind that the next command removes, and nothing else.
//
// Each store has its own table, named after its root where that is not the default
// one, its own default bridge and its own lock: stores do not disturb each other.
package network

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/moby/moby/api/types/network"

	"strake/internal/flock"
	"strake/internal/sqldb"
)

// The drivers, and the names of the networks that are always there.
const (
	driverBridge = "bridge"
	driverHost   = "host"
	driverNull   = "null"

	nameBridge = network.NetworkBridge
	nameHost   = network.NetworkHost
	nameNone   = network.NetworkNone
)

// Labels of docker's bridge driver that are heeded in a network's options.
const (
	optionBridge     = "com.docker.network.bridge.name"
	optionICC        = "com.docker.network.bridge.enable_icc"
	optionMasquerade = "com.docker.network.bridge.enable_ip_masquerade"
	optionHostIP     = "com.docker.network.bridge.host_binding_ipv4"
	optionMTU        = "com.docker.network.driver.mtu"
)

// defaultRoot is the root of the store whose bridge is strake0, and whose table is
// defaultTable.
const (
	defaultRoot  = "/var/lib/strake"
	defaultTable = "strake"
)

// lockFile is the file in the store's root that who changes networks locks.
const lockFile = "networks.lock"

// Options say whose networks to work on.
type Options struct {
	DB   *sqldb.DB
	Root string // the store's directory
	// Alive reports whether a container runs, or is about to: whether it may have
	// endpoints. It is called without a transaction.
	Alive func(ctx context.Context, id string) bool
	// Event, when not nil, writes an event of a network in the transaction that makes it so; container is "" or who it is about.
	Event func(ctx context.Context, tx *sql.Tx, action string, nw network.Network, container string) error
	Log   func(text string) // told what a sandbox cannot tell anybody else; nil drops it
}

// Networks are the networks of a store. Its methods are safe for concurrent use, in
// one process and across processes.
type Networks struct {
	rows
	machine
	opts Options
}

// machine is what the networks of a store are on the host.
type machine struct {
	table string // of the packet filter
	first string // the default network's bridge
	root  string // the store's directory
}

// New returns the networks of a store. It touches nothing.
func New(opts Options) *Networks {
	if opts.Event == nil {
		opts.Event = func(context.Context, *sql.Tx, string, network.Network, string) error { return nil }
	}
	if opts.Log == nil {
		opts.Log = func(string) {}
	}
	n := &Networks{rows{opts.DB}, machine{table: defaultTable, first: "strake0", root: opts.Root}, opts}
	if root := filepath.Clean(opts.Root); root != defaultRoot {
		sum := sha256.Sum256([]byte(root))
		n.table = "strake-" + hex.EncodeToString(sum[:4])
		n.first = n.table
	}
	return n
}

// refusal is an error whose text is docker's, with its kind.
type refusal struct {
	kind error
	text string
}

func (r refusal) Error() string { return r.text }

func (r refusal) Unwrap() error { return r.kind }

func refuse(kind error, format string, args ...any) error {
	return refusal{kind, fmt.Sprintf(format, args...)}
}

// locked calls fn with the lock of the store's networks and all rows, those of dead containers
// dropped before and the predefined networks made.
func (n *Networks) locked(ctx context.Context, fn func(st *state) error) (err error) {
	f, err := os.OpenFile(filepath.Join(n.opts.Root, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("lock networks: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := flock.Wait(ctx, f, flock.Exclusive); err != nil {
		return fmt.Errorf("lock networks: %w", err)
	}
	st, err := n.read(ctx)
	if err != nil {
		return err
	}
	if err := n.reap(ctx, &st); err != nil {
		return err
	}
	if err := n.predefine(ctx, &st); err != nil {
		return err
	}
	return fn(&st)
}

// Reap drops what containers have left behind that died with nobody to clean up. It
// writes nothing where there is nothing to drop.
func (n *Networks) Reap(ctx context.Context) error {
	all, err := n.sandboxes(ctx)
	if err != nil || len(n.dead(ctx, all)) == 0 {
		return err
	}
	return n.locked(ctx, func(st *state) error { return n.enforceState(*st) })
}

// reap drops the rows of dead containers, also from st, under the lock.
func (n *Networks) reap(ctx context.Context, st *state) error {
	dead := n.dead(ctx, st.sandboxes)
	if len(dead) == 0 {
		return nil
	}
	st.drop(dead)
	return n.forget(ctx, dead)
}

// dead lists those of the sandboxes whose containers are dead.
func (n *Networks) dead(ctx context.Context, all []sandbox) (ids []string) {
	for _, s := range all {
		if !n.opts.Alive(ctx, s.id) {
			ids = append(ids, s.id)
		}
	}
	return ids
}

// newID returns a new ID of a network or an endpoint.
func newID() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// short is the ID as people are shown it.
func short(id string) string { return id[:min(len(id), 12)] }
