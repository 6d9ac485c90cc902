package remote

import (
	"context"
	"net"
	"net/http"
)

// DialWith makes the registries that c knows so far dial with dial.
func DialWith(c *Client, dial func(ctx context.Context, network, addr string) (net.Conn, error)) {
	for _, r := range c.registries {
		for _, t := range []*http.Transport{r.ways.own, r.ways.foreign, r.ways.proxied} {
			t.DialContext = dial
		}
	}
}
