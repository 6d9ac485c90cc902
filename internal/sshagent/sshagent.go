// Package sshagent lends SSH keys to builds.
//
// An agent signs with keys that it does not show. What is lent is the user's own agent, by its socket, or keys in files, by an
// agent in this process; who it is lent to can list the keys and have things signed, and nothing else.
package sshagent

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// DefaultID is the ID of a Source that has none.
const DefaultID = "default"

// Source says where the keys of one ID come from.
type Source struct {
	ID    string   // "" is DefaultID
	Paths []string // one socket of an agent, or files of keys; none: the socket that SSH_AUTH_SOCK names
}

// maxKey bounds a file of a key, in bytes, and dialTime how long an agent may take to answer.
const (
	maxKey   = 100 << 10
	dialTime = 2 * time.Second
)

// Agents are what can be lent, by ID. They are safe for concurrent use.
type Agents struct {
	byID map[string]lender
}

// lender connects to an agent. end ends the connection.
type lender func() (a agent.Agent, end func() error, err error)

// Open reads the keys and looks at the sockets.
func Open(sources []Source) (*Agents, error) {
	agents := &Agents{byID: map[string]lender{}}
	for _, s := range sources {
		if s.ID == "" {
			s.ID = DefaultID
		}
		if _, ok := agents.byID[s.ID]; ok {
			return nil, fmt.Errorf("ssh agent %q is given twice", s.ID)
		}
		l, err := s.open()
		if err != nil {
			return nil, fmt.Errorf("ssh agent %q: %w", s.ID, err)
		}
		agents.byID[s.ID] = l
	}
	return agents, nil
}

func (s Source) open() (lender, error) {
	paths := s.Paths
	if len(paths) == 0 {
		paths = []string{os.Getenv("SSH_AUTH_SOCK")}
		if paths[0] == "" {
			return nil, errors.New("invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set")
		}
	}
	keys, ok := agent.NewKeyring().(agent.ExtendedAgent)
	if !ok {
		return nil, fmt.Errorf("keys in memory: %w", errdefs.ErrNotImplemented)
	}
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if info.Mode().Type() == os.ModeSocket {
			if len(paths) > 1 {
				return nil, fmt.Errorf("%s is a socket: it cannot be given with others", path)
			}
			return socket(path), nil
		}
		if err := addKey(keys, path); err != nil {
			return nil, err
		}
	}
	return func() (agent.Agent, func() error, error) {
		return lent{keys}, func() error { return nil }, nil
	}, nil
}

// addKey adds the key in a file to an agent.
func addKey(keys agent.Agent, path string) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	text, err := io.ReadAll(io.LimitReader(f, maxKey))
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	key, err := ssh.ParseRawPrivateKey(text)
	if missing := (*ssh.PassphraseMissingError)(nil); errors.As(err, &missing) {
		return fmt.Errorf("%s has a passphrase: add it to an agent with ssh-add, and give the agent", path)
	}
	if err != nil {
		return fmt.Errorf("%s is no private key: %w", path, err)
	}
	if err := keys.Add(agent.AddedKey{PrivateKey: key}); err != nil {
		return fmt.Errorf("use the key %s: %w", path, err)
	}
	return nil
}

func socket(path string) lender {
	return func() (agent.Agent, func() error, error) {
		conn, err := (&net.Dialer{Timeout: dialTime}).Dial("unix", path) // the user names the socket
		if err != nil {
			return nil, nil, fmt.Errorf("connect to the ssh agent: %w", err)
		}
		return lent{agent.NewClient(conn)}, conn.Close, nil
	}
}

// Has reports whether there is an agent of this ID; "" is DefaultID.
func (a *Agents) Has(id string) bool {
	_, ok := a.find(id)
	return ok
}

func (a *Agents) find(id string) (lender, bool) {
	if a == nil {
		return nil, false
	}
	if id == "" {
		id = DefaultID
	}
	l, ok := a.byID[id]
	return l, ok
}

// Serve lends an agent to all who connect to l, until l is closed; it returns when the last of them has been served or cut off.
func (a *Agents) Serve(l net.Listener, id string) error {
	lend, ok := a.find(id)
	if !ok {
		return fmt.Errorf("ssh agent %q: %w", id, errdefs.ErrNotFound)
	}
	var all sync.WaitGroup
	defer all.Wait()
	var open connections
	defer open.close()
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("lend the ssh agent %q: %w", id, err)
		}
		open.add(conn)
		all.Go(func() {
			defer open.remove(conn)
			keys, end, err := lend()
			if err != nil {
				return // the other side sees that nobody answers
			}
			_ = agent.ServeAgent(keys, conn) // ends with the connection
			_ = end()
		})
	}
}

// connections are those that are open.
type connections struct {
	mu   sync.Mutex
	open map[net.Conn]bool
}

func (c *connections) add(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		c.open = map[net.Conn]bool{}
	}
	c.open[conn] = true
}

func (c *connections) remove(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, conn)
	_ = conn.Close() // the other side may have
}

func (c *connections) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.open {
		_ = conn.Close() // it ends its server
	}
}

// lent is an agent that only lists and signs.
type lent struct{ agent.ExtendedAgent }

func refused(what string) error {
	return fmt.Errorf("%s: an agent that is lent to a build only signs: %w", what, errdefs.ErrPermissionDenied)
}

// Add refuses.
func (lent) Add(agent.AddedKey) error { return refused("add a key") }

// Remove refuses.
func (lent) Remove(ssh.PublicKey) error { return refused("remove a key") }

// RemoveAll refuses.
func (lent) RemoveAll() error { return refused("remove the keys") }

// Lock refuses.
func (lent) Lock([]byte) error { return refused("lock the agent") }

// Unlock refuses.
func (lent) Unlock([]byte) error { return refused("unlock the agent") }

// Extension refuses.
func (lent) Extension(string, []byte) ([]byte, error) { return nil, agent.ErrExtensionUnsupported }
