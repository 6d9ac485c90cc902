//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	wanRTT  = 20 * time.Millisecond
	wanRate = 25_000_000 // bytes a second: 200 Mbit
	wanFlow = 6_250_000  // of one connection where that is capped: 50 Mbit
	// wanChunk is what the link takes at once; wanWindow is what a new connection may have under way, as TCP's initial window.
	wanChunk  = 16 << 10
	wanWindow = 14_480
)

// A link is a TCP proxy in front of the registry that behaves like a distant one: what passes it is delayed by half a round
// trip and shares the rate of the line, a connection opens in one round trip and starts slowly.
type link struct {
	listener net.Listener
	to       string
	line     pacer
	flow     float64 // bytes a second of one connection; 0: as much as the line has
	wg       sync.WaitGroup
	mu       sync.Mutex
	conns    map[net.Conn]bool

	delivered atomic.Int64 // bytes that the client's side has taken
}

// wanSlack is the time that a pacer makes up for: a sleep that lasts too long must not cost rate.
const wanSlack = 10 * time.Millisecond

// A pacer grants bytes at a rate.
type pacer struct {
	mu   sync.Mutex
	rate float64
	next time.Time
}

// take is when n bytes more have passed.
func (p *pacer) take(n int) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if late := time.Now().Add(-wanSlack); p.next.Before(late) {
		p.next = late
	}
	p.next = p.next.Add(time.Duration(float64(n) / p.rate * float64(time.Second)))
	return p.next
}

// startLink serves a link to the address until Close.
func startLink(ctx context.Context, to string, flow float64) (*link, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	k := &link{listener: l, to: to, line: pacer{rate: wanRate}, flow: flow, conns: map[net.Conn]bool{}}
	k.wg.Go(k.serve)
	return k, nil
}

func (k *link) serve() {
	for {
		near, err := k.listener.Accept()
		if err != nil {
			return // closed
		}
		far, err := net.Dial("tcp", k.to) //nolint:noctx // it ends with the link
		if err != nil {
			_ = near.Close() // the client sees the failure
			continue
		}
		if !k.keep(near, far) {
			return
		}
		k.wg.Go(func() { k.pass(far, near, wanRTT*3/2, nil) }) // its connection took a round trip too
		k.wg.Go(func() { k.pass(near, far, wanRTT/2, &k.line) })
	}
}

// keep remembers connections for Close; false: the link is closed.
func (k *link) keep(conns ...net.Conn) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range conns {
		if k.conns == nil {
			_ = c.Close() // nobody uses it
			continue
		}
		k.conns[c] = true
	}
	return k.conns != nil
}

// parcel is what is under way on the link.
type parcel struct {
	data []byte
	due  time.Time
}

// pass hands on what it reads, the first bytes after the delay first, then after half a round trip; line is nil for what is not
// worth pacing.
func (k *link) pass(to, from net.Conn, first time.Duration, line *pacer) {
	under := make(chan parcel, 2*int(wanRate*wanRTT.Seconds())/wanChunk+64)
	k.wg.Go(func() {
		for p := range under {
			time.Sleep(time.Until(p.due))
			n, err := to.Write(p.data)
			if err != nil {
				_ = from.Close() // ends the reading
			}
			if line != nil {
				k.delivered.Add(int64(n))
			}
		}
		_ = to.Close() // nothing follows
	})
	defer close(under)
	most := 2.0 * wanRate
	if k.flow > 0 {
		most = k.flow
	}
	flow := pacer{rate: wanWindow / wanRTT.Seconds()}
	delay, started := first, time.Now()
	for {
		b := make([]byte, wanChunk)
		n, err := from.Read(b)
		if n > 0 && line != nil {
			time.Sleep(time.Until(flow.take(n)))
			time.Sleep(time.Until(line.take(n)))
			if time.Since(started) >= wanRTT && flow.rate < most {
				flow.rate, started = min(2*flow.rate, most), time.Now()
			}
		}
		if n > 0 {
			under <- parcel{b[:n], time.Now().Add(delay)}
			delay = wanRTT / 2
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				_ = from.Close() // broken already
			}
			return
		}
	}
}

// Close ends all connections.
func (k *link) Close() error {
	err := k.listener.Close()
	k.mu.Lock()
	for c := range k.conns {
		_ = c.Close() // may be closed already
	}
	k.conns = nil
	k.mu.Unlock()
	k.wg.Wait()
	return err
}

// wanGroup pulls an image of the second layer over a link; flow caps each connection.
func wanGroup(name, title string, flow float64, goals ...goal) group {
	return group{
		name: name, tools: []string{"strake", "dockerd", "podman", "skopeo"}, rounds: 3, peerRounds: 1, inputs: []string{inputImage},
		prepare: func(ctx context.Context, s *session) error {
			_, err := s.goFar(ctx, flow)
			return err
		},
		steps: []step{pullSmall(name, title, goals...)},
	}
}

// goFar puts a link between the session and the registry.
func (s *session) goFar(ctx context.Context, flow float64) (*link, error) {
	k, err := startLink(ctx, s.registry.addr, flow)
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, k)
	far := *s.registry
	far.addr = k.listener.Addr().String()
	s.registry = &far
	return k, nil
}

// pullSmall pulls the image of the second layer.
func pullSmall(name, title string, goals ...goal) step {
	return step{
		name: name, title: title, verb: "pull",
		args: func(s *session) []string { return []string{s.registry.ref(smallRepo)} },
		check: func(ctx context.Context, s *session) error {
			id, err := s.imageID(ctx, s.registry.ref(smallRepo))
			if err == nil && id != digestOf(s.in.Small) {
				err = fmt.Errorf("the pulled image is %s, not %s", id, digestOf(s.in.Small))
			}
			return err
		},
		goals: goals,
	}
}

// resumeGroup pulls over the link again what was killed when 90 % of the bytes had reached it. Of a daemon the client is killed.
func resumeGroup() group {
	return group{
		name: "resume", tools: []string{"strake", "dockerd", "podman", "skopeo"}, rounds: 3, peerRounds: 1, inputs: []string{inputImage},
		prepare: func(ctx context.Context, s *session) error {
			k, err := s.goFar(ctx, 0)
			if err != nil {
				return err
			}
			c := s.command(ctx, "pull", s.registry.ref(smallRepo))
			if err := c.Start(); err != nil {
				return err
			}
			ended := make(chan error, 1)
			go func() { ended <- c.Wait() }()
			for k.delivered.Load() < s.in.Layers[1].Size*9/10 {
				select {
				case err := <-ended:
					return fmt.Errorf("the pull ended before it was killed: %w", err)
				case <-time.After(time.Millisecond):
				}
			}
			err = syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
			<-ended //nolint:errcheck // killed
			return err
		},
		steps: []step{pullSmall("resume", "The pull that was killed at 90 % of its bytes, over the link again", ratioGoal(1),
			goal{"at most 15 % of the bytes", func(c comparison) bool { return c.strake.Wire*100 <= c.in.Layers[1].Size*15 }})},
	}
}

func wanGroups() []group {
	what := fmt.Sprintf("Pull of one layer over a simulated link of %v and %d Mbit", wanRTT, wanRate*8/1_000_000)
	limit := goal{"at most 1.1 times bytes/bandwidth + 3 round trips", func(c comparison) bool {
		limit := time.Duration(float64(c.in.Layers[1].Size)/wanRate*float64(time.Second)) + 3*wanRTT
		return c.strake.Wall*10 <= limit*11
	}}
	return []group{
		wanGroup("wan", what, 0, ratioGoal(1), limit),
		resumeGroup(),
		wanGroup("wan-capped", what+fmt.Sprintf(", %d Mbit for a connection", wanFlow*8/1_000_000), wanFlow, ratioGoal(2)),
	}
}
