package network

import (
	"errors"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// admit lets networks pass where somebody else, docker or ufw, made it the policy of
// the chain FORWARD to drop: what our table accepts, that chain would drop. It is
// made of rules that iptables could have made, at the chain's end: what others forbid
// stays forbidden, and iptables still reads the chain.
func (h machine) admit(s state) error {
	var errs []error
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		errs = append(errs, h.admitFamily(s, family))
	}
	return errors.Join(errs...)
}

func (h machine) admitFamily(s state, family nftables.TableFamily) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	chains, err := conn.ListChainsOfTableFamily(family)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(chains, func(c *nftables.Chain) bool {
		return c.Table.Name == "filter" && c.Name == "FORWARD" && c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop
	})
	if i < 0 {
		return nil
	}
	forward := chains[i]
	var want [][]expr.Any
	for _, nw := range s.networks {
		if bridge := h.bridgeOf(nw); bridge != "" {
			in, out := device(expr.MetaKeyIIFNAME, expr.CmpOpEq, bridge, false), device(expr.MetaKeyOIFNAME, expr.CmpOpEq, bridge, false)
			notDocker := device(expr.MetaKeyOIFNAME, expr.CmpOpNeq, "docker0", false) // whose ports are docker's to publish
			accept := append([]expr.Any{&expr.Counter{}}, verdict(expr.VerdictAccept)...)
			want = append(want, slices.Concat(in, notDocker, accept), slices.Concat(out, accept))
		}
	}
	var rules []rule
	for _, exprs := range want {
		rules = append(rules, rule{exprs: exprs})
	}
	begins := h.table + ":"
	mark := begins + digest(rules)
	have, err := conn.GetRules(forward.Table, forward)
	if errors.Is(err, unix.ENOENT) {
		return nil // gone since
	}
	if err != nil {
		return err
	}
	kept, stale := 0, false
	for _, r := range have {
		comment, _ := userdata.GetString(r.UserData, userdata.TypeComment)
		switch {
		case comment == mark:
			kept++
		case strings.HasPrefix(comment, begins):
			stale = true
			if err := conn.DelRule(r); err != nil {
				return err
			}
		}
	}
	if kept == len(want) {
		want = nil
	}
	if !stale && want == nil {
		return nil
	}
	for _, exprs := range want {
		conn.AddRule(&nftables.Rule{Table: forward.Table, Chain: forward, Exprs: exprs, UserData: userdata.AppendString(nil, userdata.TypeComment, mark)})
	}
	return conn.Flush()
}
