package network

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/miekg/dns"
	"github.com/moby/moby/api/types/network"
)

// resolverAddress is where containers of user networks ask for names, as docker has it.
var resolverAddress = netip.AddrFrom4([4]byte{127, 0, 0, 11}) //nolint:gochecknoglobals // a constant

// Bounds of a resolver.
const (
	maxForwarded   = 256             // questions that wait for the host's servers
	forwardTimeout = 4 * time.Second // for one server
	answerTTL      = 600             // seconds, as docker's
)

// resolver answers the questions of one container. Names of containers it finds in the
// rows, as they are when it is asked; others it passes on, from the host's namespace.
type resolver struct {
	networks *Networks
	id       string
	upstream []netip.Addr // in place of the host's
	udp, tcp int          // its ports
	servers  []*dns.Server
	waiting  chan struct{}
}

// newResolver opens its sockets in the namespace of a container and serves them. Its
// ports are any: 53 is the container's to use, packets for it are redirected.
func (n *Networks) newResolver(ns *os.File, m Member) (*resolver, error) {
	r := &resolver{networks: n, id: m.ID, upstream: m.DNS, waiting: make(chan struct{}, maxForwarded)}
	var packets *net.UDPConn
	var streams *net.TCPListener
	err := inside(ns, func() (err error) {
		if err := raiseLoopback(); err != nil {
			return err
		}
		if packets, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(resolverAddress, 0))); err != nil {
			return err
		}
		if streams, err = net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(netip.AddrPortFrom(resolverAddress, 0))); err != nil {
			return errors.Join(err, packets.Close())
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("resolve names: %w", err)
	}
	r.udp, r.tcp = portOf(packets.LocalAddr()), portOf(streams.Addr())
	r.servers = []*dns.Server{{PacketConn: packets, Handler: r}, {Listener: streams, Handler: r}}
	for _, s := range r.servers {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go func() {
			if err := s.ActivateAndServe(); err != nil {
				n.opts.Log(fmt.Sprintf("resolve names: %v", err))
			}
		}()
		<-started
	}
	return r, nil
}

// portOf is the port of a socket's address.
func portOf(a net.Addr) int {
	at, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return 0
	}
	return int(at.Port())
}

// Close ends it.
func (r *resolver) Close() error {
	var errs []error
	for _, s := range r.servers {
		errs = append(errs, s.Shutdown())
	}
	return errors.Join(errs...)
}

// ServeDNS implements dns.Handler.
func (r *resolver) ServeDNS(w dns.ResponseWriter, req *dns.Msg) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*forwardTimeout)
	defer cancel()
	reply := r.answer(ctx, w.LocalAddr().Network(), req)
	_ = w.WriteMsg(reply) // who asks asks again
}

func (r *resolver) answer(ctx context.Context, transport string, req *dns.Msg) *dns.Msg {
	reply := new(dns.Msg)
	if len(req.Question) != 1 || req.Opcode != dns.OpcodeQuery {
		return reply.SetRcode(req, dns.RcodeNotImplemented)
	}
	st, err := r.networks.read(ctx)
	if err != nil {
		r.networks.opts.Log(err.Error())
		return reply.SetRcode(req, dns.RcodeServerFailure)
	}
	q := req.Question[0]
	reply.SetReply(req)
	reply.RecursionAvailable = true
	if q.Qclass == dns.ClassINET {
		if q.Qtype == dns.TypePTR {
			reply.Answer = r.byAddress(ctx, &st, q.Name)
		} else if found := r.byName(ctx, &st, strings.ToLower(strings.TrimSuffix(q.Name, "."))); len(found) > 0 {
			reply.Answer = addresses(found, q)
			return reply
		}
	}
	if len(reply.Answer) > 0 {
		return reply
	}
	// From an internal network nothing gets out, questions neither.
	if _, out := gateway(st.of(r.id), &st); !out {
		return reply.SetRcode(req, dns.RcodeServerFailure)
	}
	return r.forward(ctx, transport, req)
}

// peers calls fn for each endpoint of a network with names that the container is in,
// too, until it returns false.
func (r *resolver) peers(st *state, fn func(mine endpoint, nw *network.Network, peer endpoint) bool) {
	for _, mine := range st.of(r.id) {
		nw := st.byID(mine.network)
		if nw == nil || nw.Driver != driverBridge || predefined(*nw) {
			continue
		}
		for _, peer := range st.endpoints {
			if peer.network == mine.network && !fn(mine, nw, peer) {
				return
			}
		}
	}
}

// byName finds the live endpoints that have a name, for this container.
func (r *resolver) byName(ctx context.Context, st *state, name string) (found []endpoint) {
	r.peers(st, func(mine endpoint, nw *network.Network, peer endpoint) bool {
		wanted := name
		for _, l := range mine.settings.Links {
			if target, alias := link(l); strings.EqualFold(alias, name) {
				wanted = strings.ToLower(target)
			}
		}
		has := func(dnsName string) bool {
			return strings.EqualFold(dnsName, wanted) || strings.EqualFold(dnsName+"."+nw.Name, wanted)
		}
		if slices.ContainsFunc(peer.settings.DNSNames, has) && r.networks.opts.Alive(ctx, peer.container) {
			found = append(found, peer)
		}
		return true
	})
	return found
}

// byAddress answers which container has an address.
func (r *resolver) byAddress(ctx context.Context, st *state, question string) (answer []dns.RR) {
	r.peers(st, func(_ endpoint, nw *network.Network, peer endpoint) bool {
		for _, a := range []netip.Addr{peer.settings.IPAddress, peer.settings.GlobalIPv6Address} {
			if !a.IsValid() || len(peer.settings.DNSNames) == 0 {
				continue
			}
			reverse, err := dns.ReverseAddr(a.String())
			if err == nil && strings.EqualFold(reverse, question) && r.networks.opts.Alive(ctx, peer.container) {
				answer = []dns.RR{&dns.PTR{Hdr: header(question, dns.TypePTR), Ptr: dns.Fqdn(peer.settings.DNSNames[0] + "." + nw.Name)}}
			}
		}
		return answer == nil
	})
	return answer
}

// addresses are the records of endpoints that answer a question, in any order.
func addresses(found []endpoint, q dns.Question) (list []dns.RR) {
	for _, e := range found {
		switch {
		case q.Qtype == dns.TypeA && e.settings.IPAddress.IsValid():
			list = append(list, &dns.A{Hdr: header(q.Name, dns.TypeA), A: e.settings.IPAddress.AsSlice()})
		case q.Qtype == dns.TypeAAAA && e.settings.GlobalIPv6Address.IsValid():
			list = append(list, &dns.AAAA{Hdr: header(q.Name, dns.TypeAAAA), AAAA: e.settings.GlobalIPv6Address.AsSlice()})
		}
	}
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] }) //nolint:gosec // to spread load
	return list
}

func header(name string, rrtype uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: answerTTL}
}

// forward asks the host's servers, one after the other, as the question came.
func (r *resolver) forward(ctx context.Context, transport string, req *dns.Msg) *dns.Msg {
	failed := new(dns.Msg).SetRcode(req, dns.RcodeServerFailure)
	select {
	case r.waiting <- struct{}{}:
		defer func() { <-r.waiting }()
	default:
		return failed
	}
	servers := r.upstream
	if len(servers) == 0 {
		host, err := hostConf(hostResolv)
		if err != nil {
			r.networks.opts.Log(fmt.Sprintf("resolve names: %v", err))
		}
		servers = host.servers
	}
	client := dns.Client{Net: transport, Timeout: forwardTimeout, UDPSize: dns.MaxMsgSize}
	for _, s := range servers {
		reply, _, err := client.ExchangeContext(ctx, req, netip.AddrPortFrom(s, 53).String())
		if err != nil || reply == nil {
			continue
		}
		if reply.Rcode != dns.RcodeServerFailure && reply.Rcode != dns.RcodeRefused {
			return reply
		}
		failed = reply
	}
	return failed
}

// redirectNames leads what a container asks 127.0.0.11 at port 53 to its resolver, in
// the container's namespace.
func redirectNames(ns *os.File, row sandbox) error {
	if err := inside(ns, func() error { return redirect(row) }); err != nil {
		return fmt.Errorf("redirect questions for names: %w", err)
	}
	return nil
}

// redirect does it in the namespace of the thread.
func redirect(row sandbox) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	table := conn.AddTable(&nftables.Table{Name: "strake-names", Family: nftables.TableFamilyINet})
	chain := conn.AddChain(&nftables.Chain{
		Name: chainOut, Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest,
	})
	conn.FlushChain(chain) // of an earlier life
	at := dest(netip.PrefixFrom(resolverAddress, 32), expr.CmpOpEq)
	for proto, port := range map[network.IPProtocol]int{network.UDP: row.dnsUDP, network.TCP: row.dnsTCP} {
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: slices.Concat(at, toPort(proto, 53), translate(resolverAddress, uint16(port)))})
	}
	return conn.Flush()
}
