package remote

import "strings"

// maxWarnings is how many different warnings a client passes on.
const maxWarnings = 20

// warn passes on what a registry warns its users of, each warning once: the
// Warning headers of an answer that are as the distribution specification says.
func (c *Client) warn(host string, headers []string) {
	for _, h := range headers {
		text, is := strings.CutPrefix(h, `299 - "`)
		text, closed := strings.CutSuffix(text, `"`)
		if !is || !closed {
			continue
		}
		text = printable(strings.NewReplacer(`\\`, `\`, `\"`, `"`).Replace(text))
		c.mu.Lock()
		known := c.warned[host+" "+text] || len(c.warned) == maxWarnings
		if !known {
			c.warned[host+" "+text] = true
		}
		c.mu.Unlock()
		if !known {
			c.opts.Log.Warn("the registry warns: "+text, "registry", host)
		}
	}
}
