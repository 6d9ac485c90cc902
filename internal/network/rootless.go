package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"strake/internal/userns"
)

// What an ordinary user's container has: he may make no devices of the host's, so a
// program of his, pasta or slirp4netns, does in its own name what comes from there.
const (
	userAddress = "10.0.2.100"
	userGateway = "10.0.2.2"
	userBits    = 24
	userDevice  = "eth0"
	userWait    = 10 * time.Second // for the program to be ready
)

// userPrograms are the programs, with their arguments: the namespace is descriptor 3.
func userPrograms() [][]string {
	return [][]string{
		{
			"pasta", "--config-net", "--netns", "/proc/self/fd/3", "--netns-only", "-I", userDevice, "-a", userAddress, "-n", fmt.Sprint(userBits),
			"-g", userGateway, "-t", "none", "-u", "none", "-T", "none", "-U", "none", "--no-map-gw", "-f", "-q", "-e",
		},
		{"slirp4netns", "--configure", "--mtu=65520", "--disable-host-loopback", "--netns-type=path", "/proc/self/fd/3", userDevice},
	}
}

// Usable fails where an ordinary user's containers cannot have a network of their own.
func Usable() error {
	if userns.IDs() == 0 {
		return nil
	}
	if unix.Access("/dev/net/tun", unix.R_OK|unix.W_OK) != nil {
		return refuse(errdefs.ErrFailedPrecondition, "an ordinary user may not open /dev/net/tun")
	}
	for _, args := range userPrograms() {
		if _, err := exec.LookPath(args[0]); err == nil {
			return nil
		}
	}
	return errNoProgram()
}

func errNoProgram() error {
	return refuse(errdefs.ErrFailedPrecondition, "neither pasta (package passt) nor slirp4netns is in PATH, and an ordinary user's container needs one for its network")
}

// asUser makes of an endpoint what an ordinary user can have.
func asUser(e *endpoint) {
	if userns.IDs() == 0 || e.iface == "" {
		return
	}
	e.link, e.iface = "", userDevice
	e.settings.IPAddress, e.settings.IPPrefixLen = netip.MustParseAddr(userAddress), userBits
	e.settings.Gateway, e.settings.MacAddress = netip.MustParseAddr(userGateway), nil
}

// joinAsUser connects the container of an ordinary user to the outside.
func (s *Sandbox) joinAsUser(ctx context.Context, ns *os.File, row sandbox) error {
	for _, args := range userPrograms() {
		path, err := exec.LookPath(args[0])
		if errors.Is(err, exec.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		p, err := startProgram(path, args, ns)
		if err != nil {
			return err
		}
		s.serve = append(s.serve, p)
		if err := p.await(ctx, ns); err != nil {
			return err
		}
		return redirectNames(ns, row)
	}
	return errNoProgram()
}

// program is a program that serves one sandbox, and dies with the process.
type program struct {
	cmd   *exec.Cmd
	said  bytes.Buffer // to be read when it has ended
	ended chan struct{}
}

func startProgram(path string, args []string, ns *os.File) (*program, error) {
	p := &program{cmd: &exec.Cmd{Path: path, Args: args, ExtraFiles: []*os.File{ns}, Dir: "/"}, ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.said, &p.said
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // whose death is the signal
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait() // what it said tells more
			close(p.ended)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", args[0], err)
	}
	return p, nil
}

// await waits until the namespace has the device with its address.
func (p *program) await(ctx context.Context, ns *os.File) error {
	late := time.After(userWait)
	for {
		ready := false
		err := inside(ns, func() error {
			link, err := netlink.LinkByName(userDevice)
			if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
				return nil
			}
			if err != nil {
				return err
			}
			list, err := netlink.AddrList(link, netlink.FAMILY_V4)
			routes, routesErr := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Dst: nil}, netlink.RT_FILTER_DST)
			ready = len(list) > 0 && len(routes) > 0 && link.Attrs().Flags&net.FlagUp != 0
			return errors.Join(err, routesErr)
		})
		if err != nil || ready {
			return err
		}
		select {
		case <-p.ended:
			return fmt.Errorf("%s: %s", p.cmd.Args[0], lastLine(p.said.String()))
		case <-late:
			return fmt.Errorf("%s: not ready after %s: %w", p.cmd.Args[0], userWait, errdefs.ErrUnavailable)
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Millisecond):
		}
	}
}

func lastLine(text string) string {
	text = strings.TrimSpace(text)
	return text[strings.LastIndexByte(text, '\n')+1:]
}

// Close ends the program.
func (p *program) Close() error {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.ended
	return nil
}
