package network

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/moby/moby/api/types/network"
)

// lookup asks in a box, by UDP and by TCP: what is answered, or why not.
func lookup(b *box, name, rrtype string) string {
	b.t.Helper()
	var answers []string
	for _, proto := range []string{"udp", "tcp"} {
		q := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.StringToType[rrtype])
		var reply *dns.Msg
		err := b.do(func() error {
			client := dns.Client{Net: proto, Timeout: time.Second}
			conn, err := client.Dial("127.0.0.11:53")
			if err != nil {
				return err
			}
			defer conn.Close()
			reply, _, err = client.ExchangeWithConnContext(context.Background(), q, conn)
			return err
		})
		if err != nil {
			return err.Error()
		}
		answer := dns.RcodeToString[reply.Rcode]
		var list []string
		for _, rr := range reply.Answer {
			switch r := rr.(type) {
			case *dns.A:
				list = append(list, r.A.String())
			case *dns.AAAA:
				list = append(list, r.AAAA.String())
			case *dns.PTR:
				list = append(list, r.Ptr)
			}
		}
		if slices.Sort(list); len(list) > 0 {
			answer = strings.Join(list, " ")
		}
		answers = append(answers, answer)
	}
	if answers[0] != answers[1] {
		return strings.Join(answers, " by UDP, by TCP ")
	}
	return answers[0]
}

// serveOutside is the name server of the host, of those that only the host reaches.
func serveOutside(t *testing.T) {
	t.Helper()
	upstream := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		reply := new(dns.Msg).SetRcode(q, dns.RcodeNameError)
		if q.Question[0].Name == "outside.example." {
			reply = new(dns.Msg).SetReply(q)
			rr, err := dns.NewRR("outside.example. 60 IN A 192.0.2.7")
			if err != nil {
				t.Error(err)
			}
			reply.Answer = []dns.RR{rr}
		}
		if err := w.WriteMsg(reply); err != nil {
			t.Error(err)
		}
	})
	for _, proto := range []string{"udp", "tcp"} {
		started := make(chan struct{})
		s := &dns.Server{Addr: "127.0.0.53:53", Net: proto, Handler: upstream, NotifyStartedFunc: func() { close(started) }}
		go func() { _ = s.ListenAndServe() }()
		<-started
		t.Cleanup(func() { _ = s.Shutdown() })
	}
}

func TestNames(t *testing.T) {
	h := newHost(t)
	serveOutside(t)
	yes := true
	h.create(network.CreateRequest{Name: "one", EnableIPv6: &yes})
	h.create(network.CreateRequest{Name: "two"})
	h.create(network.CreateRequest{Name: "inner", Internal: true})
	boxes := map[string]*box{}
	members := map[string]Member{}
	var sandboxes []*Sandbox
	for name, networks := range map[string][]string{"web": {"one"}, "db": {"one", "two"}, "far": {"two"}, "deep": {"inner"}} {
		boxes[name] = newBox(t)
		m := h.member(boxes[name], name, networks...)
		m.Hostname = name + "-host"
		m.DNS = []netip.Addr{netip.MustParseAddr("127.0.0.53")}
		m.Networks[networks[0]] = &network.EndpointSettings{Aliases: []string{"any", name + ".alias"}}
		if name == "web" {
			m.Networks["one"].Links = []string{"db:database"}
		}
		members[name] = m
		sandboxes = append(sandboxes, h.join(m))
	}
	if s := string(sandboxes[0].Resolv); !strings.Contains(s, "nameserver 127.0.0.11\n") || !strings.Contains(s, "ndots:0") {
		t.Errorf("resolv.conf: %s", s)
	}
	ip := func(name, nw string) string { return h.settings(members[name], nw).IPAddress.String() }
	reverse, err := dns.ReverseAddr(ip("db", "one"))
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range []struct{ from, name, rrtype, want string }{
		{"web", "db", "A", ip("db", "one")},
		{"web", "DB.one", "A", ip("db", "one")},
		{"web", "database", "A", ip("db", "one")},
		{"db", "database", "A", "NXDOMAIN"},
		{"web", "web", "A", ip("web", "one")},
		{"web", "db.alias", "A", ip("db", "one")},
		{"web", short(members["db"].ID), "A", ip("db", "one")},
		{"web", "db-host", "A", ip("db", "one")},
		{"web", "db", "AAAA", h.settings(members["db"], "one").GlobalIPv6Address.String()},
		{"far", "db", "AAAA", "NOERROR"},
		{"far", "db", "A", ip("db", "two")},
		{"web", "far", "A", "NXDOMAIN"},
		{"web", reverse, "PTR", "db.one."},
		{"far", "outside.example", "A", "192.0.2.7"},
		{"deep", "outside.example", "A", "SERVFAIL"},
		{"deep", "deep", "A", ip("deep", "inner")},
	} {
		if got := lookup(boxes[q.from], q.name, q.rrtype); got != q.want {
			t.Errorf("%s asks for %s %s: %q, not %q", q.from, q.name, q.rrtype, got, q.want)
		}
	}
	if got := strings.Fields(lookup(boxes["web"], "any", "A")); len(got) != 2 {
		t.Errorf("any is %q", got)
	}
	if err := h.Rename(t.Context(), members["db"].ID, "store"); err != nil {
		t.Fatal(err)
	}
	if got := lookup(boxes["web"], "store", "A"); got != ip("db", "one") {
		t.Errorf("renamed, it is %q", got)
	}
	h.mu.Lock()
	h.dead[members["db"].ID] = true
	h.mu.Unlock()
	if got := lookup(boxes["web"], "store", "A"); got != "NXDOMAIN" {
		t.Errorf("dead, it is %q", got)
	}
}
