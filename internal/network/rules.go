package network

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"github.com/moby/moby/api/types/network"
)

// The chains of our table.
const (
	chainForward = "forward" // what may pass between networks
	chainGuard   = "guard"   // keeps a host that forwards only because of us from forwarding anything else
	chainPre     = "prerouting"
	chainOut     = "output"
	chainPost    = "postrouting"
	chainPorts   = "ports" // published ports, for what is addressed to the host
	marker       = "made-of-"
)

// rule is a rule of a chain, and for whom it is there.
type rule struct {
	chain   string
	comment string
	exprs   []expr.Any
}

// enforce makes the rules what the rows say. It does nothing where they are so
// already: an empty chain's name says which rows they were made of. The caller holds
// the lock.
func (n *Networks) enforce(ctx context.Context) error {
	s, err := n.read(ctx)
	if err != nil {
		return err
	}
	return n.enforceState(s)
}

func (h machine) enforceState(s state) error {
	return h.host(func() error { return h.filter(s) })
}

// filter is enforceState in the namespace of the bridges.
func (h machine) filter(s state) error {
	conn, err := nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error {
		const room = 16 << 20 // of a transaction of thousands of rules, and of its answers
		_, _ = c.SetWriteBuffer(room), c.SetReadBuffer(room)
		return nil
	}))
	if err != nil {
		return fmt.Errorf("packet filter: %w", err)
	}
	chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return fmt.Errorf("packet filter: %w", err)
	}
	chains = slices.DeleteFunc(chains, func(c *nftables.Chain) bool { return c.Table.Name != h.table })
	if len(s.endpoints) == 0 {
		if len(chains) == 0 || h.table == defaultTable {
			return nil // not before the first container; and the next one finds all there
		}
		return h.dismantle(conn, s)
	}
	if err := h.admit(s); err != nil {
		return fmt.Errorf("packet filter: %w", err)
	}
	forwarding, err := forward()
	if err != nil {
		return err
	}
	guarded := !forwarding || slices.ContainsFunc(chains, func(c *nftables.Chain) bool { return c.Name == chainGuard })
	rules := h.rules(s, guarded)
	mark := marker + digest(rules)
	if slices.ContainsFunc(chains, func(c *nftables.Chain) bool { return c.Name == mark }) {
		return nil
	}
	table := conn.AddTable(&nftables.Table{Name: h.table, Family: nftables.TableFamilyINet})
	for _, c := range h.chains(table, guarded) {
		conn.AddChain(c)
		conn.FlushChain(c)
	}
	for _, c := range chains {
		if strings.HasPrefix(c.Name, marker) {
			conn.DelChain(c)
		}
	}
	conn.AddChain(&nftables.Chain{Name: mark, Table: table})
	for _, r := range rules {
		made := &nftables.Rule{Table: table, Chain: &nftables.Chain{Name: r.chain, Table: table}, Exprs: r.exprs}
		if r.comment != "" {
			made.UserData = userdata.AppendString(nil, userdata.TypeComment, r.comment)
		}
		conn.AddRule(made)
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("packet filter: %w", err)
	}
	return nil
}

// dismantle removes what a store other than the default one has on the host, when
// nothing of it runs any more: such stores come and go.
func (h machine) dismantle(conn *nftables.Conn, s state) error {
	conn.DelTable(&nftables.Table{Name: h.table, Family: nftables.TableFamilyINet})
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("packet filter: %w", err)
	}
	for _, nw := range s.networks {
		if bridge := h.bridgeOf(nw); bridge != "" {
			if err := removeBridge(bridge); err != nil {
				return fmt.Errorf("remove bridge %s: %w", bridge, err)
			}
		}
	}
	return h.admit(state{})
}

// forward lets the host forward, and reports whether it did before.
func forward() (before bool, err error) {
	before, err = isOn("ipv4/ip_forward")
	if err != nil || before {
		return before, err
	}
	return false, sysctl("ipv4/ip_forward", "1", true)
}

// digest names what rules say.
func digest(rules []rule) string {
	h := sha256.New()
	for _, r := range rules {
		fmt.Fprintf(h, "%s %s\n", r.chain, r.comment)
		for _, e := range r.exprs {
			b, err := expr.Marshal(byte(nftables.TableFamilyINet), e)
			fmt.Fprintf(h, "%T %x %v\n", e, b, err)
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// chains are the chains of the table but the mark.
func (h machine) chains(table *nftables.Table, guarded bool) []*nftables.Chain {
	list := []*nftables.Chain{
		{Name: chainPorts, Table: table},
		{Name: chainForward, Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter},
		{Name: chainPre, Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest},
		{Name: chainOut, Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest},
		{Name: chainPost, Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource},
	}
	if guarded {
		guard := nftables.Chain{Name: chainGuard, Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter}
		list = append(list, &guard)
	}
	return list
}

// rules are the rules that the rows ask for.
func (h machine) rules(s state, guarded bool) []rule {
	jump := []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chainPorts}}
	list := []rule{
		{chain: chainPre, exprs: slices.Concat(toHost(), jump)},
		// What the host itself sends to 127.0.0.0/8 is for the proxy: it could not come back.
		{chain: chainOut, exprs: slices.Concat(dest(netip.MustParsePrefix("127.0.0.0/8"), expr.CmpOpNeq), toHost(), jump)},
		{chain: chainForward, exprs: slices.Concat(ofState(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), verdict(expr.VerdictAccept))},
	}
	// What an internal one forbids comes first: nobody else may allow it.
	networks := slices.Clone(s.networks)
	slices.SortStableFunc(networks, func(a, b network.Network) int { return rank(a) - rank(b) })
	for _, nw := range networks {
		bridge := h.bridgeOf(nw)
		if bridge != "" {
			list = append(list, networkRules(nw, bridge)...)
		}
	}
	if guarded {
		for _, name := range []string{"strake", "br-"} {
			list = append(list, rule{chain: chainGuard, exprs: slices.Concat(device(expr.MetaKeyIIFNAME, expr.CmpOpEq, name, true), verdict(expr.VerdictAccept))},
				rule{chain: chainGuard, exprs: slices.Concat(device(expr.MetaKeyOIFNAME, expr.CmpOpEq, name, true), verdict(expr.VerdictAccept))})
		}
		list = append(list, rule{chain: chainGuard, exprs: slices.Concat(ofState(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), verdict(expr.VerdictAccept))},
			rule{chain: chainGuard, exprs: verdict(expr.VerdictDrop)})
	}
	for _, b := range s.sandboxes {
		to, ok := gateway(s.of(b.id), &s)
		if !ok || !to.settings.IPAddress.IsValid() {
			continue
		}
		list = append(list, portRules(b, to.settings.IPAddress, h.bridgeOf(*s.byID(to.network)))...)
	}
	return list
}

func rank(nw network.Network) int {
	if nw.Internal {
		return 0
	}
	return 1
}

// networkRules keep a network to itself: out it may, but for an internal one; in
// comes what it asked for, and what is published.
func networkRules(nw network.Network, bridge string) []rule {
	in := func(op expr.CmpOp) []expr.Any { return device(expr.MetaKeyIIFNAME, op, bridge, false) }
	out := func(op expr.CmpOp) []expr.Any { return device(expr.MetaKeyOIFNAME, op, bridge, false) }
	add := func(list []rule, chain string, parts ...[]expr.Any) []rule {
		return append(list, rule{chain: chain, comment: nw.Name, exprs: slices.Concat(parts...)})
	}
	among := verdict(expr.VerdictAccept)
	if !flag(nw, optionICC) {
		among = verdict(expr.VerdictDrop)
	}
	list := add(nil, chainForward, published(), out(expr.CmpOpEq), verdict(expr.VerdictAccept))
	if nw.Internal {
		list = nil
	}
	list = add(list, chainForward, in(expr.CmpOpEq), out(expr.CmpOpEq), among)
	list = add(list, chainForward, out(expr.CmpOpEq), verdict(expr.VerdictDrop))
	if nw.Internal {
		return add(list, chainForward, in(expr.CmpOpEq), verdict(expr.VerdictDrop))
	}
	for _, c := range nw.IPAM.Config {
		if flag(nw, optionMasquerade) {
			list = add(list, chainPost, source(c.Subnet), out(expr.CmpOpNeq), []expr.Any{&expr.Masq{}})
		}
	}
	return list
}

// portRules lead to a container what is addressed to its published ports. What comes
// from its own bridge is the proxy's: an answer would go straight to who asked, who
// does not expect it from there.
func portRules(b sandbox, to netip.Addr, bridge string) (list []rule) {
	ports := make([]network.Port, 0, len(b.ports))
	for p := range b.ports {
		ports = append(ports, p)
	}
	slices.SortFunc(ports, func(a, b network.Port) int { return strings.Compare(a.String(), b.String()) })
	for _, port := range ports {
		for _, binding := range b.ports[port] {
			number, err := strconv.ParseUint(binding.HostPort, 10, 16)
			if err != nil || !binding.HostIP.Is4() || binding.HostIP.IsLoopback() {
				continue // the proxy's
			}
			where := device(expr.MetaKeyIIFNAME, expr.CmpOpNeq, bridge, false)
			if !binding.HostIP.IsUnspecified() {
				where = append(where, dest(netip.PrefixFrom(binding.HostIP, 32), expr.CmpOpEq)...)
			}
			list = append(list, rule{chain: chainPorts, comment: short(b.id), exprs: slices.Concat(where, toPort(port.Proto(), uint16(number)), translate(to, port.Num()))})
		}
	}
	return list
}

// What follows are the expressions that rules are made of.

func verdict(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }

// device matches the name of a packet's device, or how it begins.
func device(key expr.MetaKey, op expr.CmpOp, name string, begins bool) []expr.Any {
	data := []byte(name)
	if !begins {
		data = make([]byte, 16) // IFNAMSIZ
		copy(data, name)
	}
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: data}}
}

// ofState matches packets of connections in one of the states.
func ofState(bits uint32) []expr.Any {
	return ctBits(expr.CtKeySTATE, bits)
}

// published matches packets of connections that a published port was translated for.
func published() []expr.Any {
	const statusDNAT = 1 << 5 // IPS_DST_NAT
	return ctBits(expr.CtKeySTATUS, statusDNAT)
}

func ctBits(key expr.CtKey, bits uint32) []expr.Any {
	zero := []byte{0, 0, 0, 0}
	return []expr.Any{
		&expr.Ct{Key: key, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: zero},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: zero},
	}
}

// toHost matches what is addressed to the host.
func toHost() []expr.Any {
	const local = 2 // RTN_LOCAL
	return []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(local)},
	}
}

func source(p netip.Prefix) []expr.Any {
	if p.Addr().Is4() {
		return addressIn(p, 12, expr.CmpOpEq)
	}
	return addressIn(p, 8, expr.CmpOpEq)
}

func dest(p netip.Prefix, op expr.CmpOp) []expr.Any {
	if p.Addr().Is4() {
		return addressIn(p, 16, op)
	}
	return addressIn(p, 24, op)
}

// addressIn matches packets of an address family whose address at an offset of
// their header is of a network, or is not.
func addressIn(p netip.Prefix, offset uint32, op expr.CmpOp) []expr.Any {
	proto := byte(nftables.TableFamilyIPv4)
	if p.Addr().Is6() {
		proto = byte(nftables.TableFamilyIPv6)
	}
	size := uint32(p.Addr().BitLen() / 8)
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()), Xor: make([]byte, size)},
		&expr.Cmp{Op: op, Register: 1, Data: p.Masked().Addr().AsSlice()},
	}
}

// toPort matches packets of IPv4 to a port.
func toPort(proto network.IPProtocol, port uint16) []expr.Any {
	number := byte(6)
	if proto == network.UDP {
		number = 17
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{byte(nftables.TableFamilyIPv4)}},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{number}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{byte(port >> 8), byte(port)}},
	}
}

// translate sends packets on to an address and a port.
func translate(to netip.Addr, port uint16) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: to.AsSlice()},
		&expr.Immediate{Register: 2, Data: []byte{byte(port >> 8), byte(port)}},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(nftables.TableFamilyIPv4), RegAddrMin: 1, RegProtoMin: 2},
	}
}
