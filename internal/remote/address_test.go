package remote

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestGGCR_2440_PrivateRealmByName is the rule that the dialler applies to the
// address that a name resolves to.
func TestGGCR_2440_PrivateRealmByName(t *testing.T) {
	for addr, want := range map[string][2]bool{ // allowed for a public and for a private registry
		"93.184.216.34":   {true, true},
		"10.1.2.3":        {false, true},
		"192.168.0.1":     {false, true},
		"100.64.0.1":      {false, true},
		"127.0.0.1":       {false, true},
		"::1":             {false, true},
		"::ffff:10.0.0.1": {false, true},
		"fd00::1":         {false, true},
		"64:ff9b::a00:1":  {false, true},
		"169.254.169.254": {false, false},
		"fe80::1":         {false, false},
		"0.0.0.0":         {false, false},
		"224.0.0.1":       {false, false},
	} {
		ip := netip.MustParseAddr(addr)
		got := [2]bool{checkAddress(ip, false) == nil, checkAddress(ip, true) == nil}
		if got != want {
			t.Errorf("%s: %v, want %v", addr, got, want)
		}
	}
}

func TestParseChallenges(t *testing.T) {
	for header, want := range map[string][]challenge{
		"": nil,
		`Bearer realm="https://a/b,c",service="s \"x\"",scope="repository:a:pull,push"`: {
			{"bearer", map[string]string{"realm": "https://a/b,c", "service": `s "x"`, "scope": "repository:a:pull,push"}},
		},
		`Basic realm=x, Bearer realm="y" , error = z`: {
			{"basic", map[string]string{"realm": "x"}},
			{"bearer", map[string]string{"realm": "y", "error": "z"}},
		},
		`Negotiate, NTLM`:       {{"negotiate", map[string]string{}}, {"ntlm", map[string]string{}}},
		`Bearer realm="open`:    {{"bearer", map[string]string{"realm": "open"}}},
		`Bearer realm="a\`:      {{"bearer", map[string]string{"realm": `a\`}}},
		`="x"`:                  nil,
		`Bearer realm=a b=c ==`: {{"bearer", map[string]string{"realm": "a", "b": "c"}}},
	} {
		if diff := cmp.Diff(want, parseChallenges(header), cmp.AllowUnexported(challenge{})); diff != "" {
			t.Errorf("%s: %s", header, diff)
		}
	}
}

func FuzzParseChallenges(f *testing.F) {
	f.Add(`Bearer realm="https://a/b",service="s",scope="x"`)
	f.Add(`Basic realm=x, Bearer realm="y\"`)
	f.Fuzz(func(t *testing.T, s string) {
		for _, c := range parseChallenges(s) {
			if c.scheme == "" {
				t.Errorf("%q: no scheme", s)
			}
		}
	})
}
