package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
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

// What an ordinary user's room has of the outside: a program, pasta or slirp4netns,
// does in the user's name what comes from there.
const (
	userAddress = "10.0.2.100"
	userGateway = "10.0.2.2"
	userBits    = 24
	userDevice  = "eth0"
	userWait    = time.Minute // for the program to be ready, on a machine that is busy
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

// Usable fails where an ordinary user's containers cannot have networks that lead outside.
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
	return refuse(errdefs.ErrFailedPrecondition, "neither pasta (package passt) nor slirp4netns is in PATH, and an ordinary user's containers need one for networks that lead outside")
}

// leadOut connects a room to the outside.
func leadOut(ctx context.Context, room *os.File) (*program, error) {
	for _, args := range userPrograms() {
		path, err := exec.LookPath(args[0])
		if errors.Is(err, exec.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		p, err := startProgram(path, args, room)
		if err != nil {
			return nil, err
		}
		if err := p.await(ctx, room); err != nil {
			return nil, errors.Join(err, p.Close())
		}
		return p, nil
	}
	return nil, errNoProgram()
}

// program is a program that leads out of a room, and dies with the process.
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

// await waits until the namespace has the device with its address. It looks the less often the longer that takes, to leave the processor to the program.
func (p *program) await(ctx context.Context, ns *os.File) error {
	began := time.Now()
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
		case <-time.After(min(max(time.Since(began)/8, time.Millisecond), 100*time.Millisecond)):
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
