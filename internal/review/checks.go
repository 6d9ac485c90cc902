package review

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/docker/go-units"

	"strake/internal/auth"
	"strake/internal/secret"
)

// DefaultChecks are the checks of a Hub of which nothing else is said.
func DefaultChecks() []Check {
	return []Check{Vulnerabilities{}, Secrets{}, ConfigSense{}, LookAlike{}, Licence{}, Description{}}
}

// one is a single result.
func one(v Verdict, format string, args ...any) []Result {
	return []Result{{Verdict: v, Message: fmt.Sprintf(format, args...)}}
}

// Vulnerabilities fails images with grave vulnerabilities that an update mends.
type Vulnerabilities struct{}

// Name implements Check.
func (Vulnerabilities) Name() string { return "vulnerabilities" }

// Run implements Check.
func (Vulnerabilities) Run(_ context.Context, f *Facts) ([]Result, error) {
	if !f.IsImage {
		return nil, nil
	}
	if !f.Scan.Matched {
		return one(Warn, "there is no vulnerability data to look into"), nil
	}
	count, results := map[string]int{}, []Result{}
	for _, v := range f.Scan.Vulnerabilities {
		if v.Severity == "critical" && v.Fixed != "" {
			results = append(results, Result{Verdict: Fail, Message: fmt.Sprintf("%s of %s is critical and mended in %s", v.ID, v.Package, v.Fixed)})
		}
		count[v.Severity]++
	}
	if n := count["critical"] - len(results); n > 0 {
		results = append(results, Result{Verdict: Warn, Message: fmt.Sprintf("%d critical vulnerabilities that nothing mends yet", n)})
	}
	if n := count["high"]; n > 0 {
		results = append(results, Result{Verdict: Warn, Message: fmt.Sprintf("%d high vulnerabilities", n)})
	}
	if len(results) == 0 {
		results = one(Pass, "no grave vulnerability among %d", len(f.Scan.Vulnerabilities))
	}
	return results, nil
}

// Secrets fails images with secrets in layers, history, environment or labels.
type Secrets struct{}

// Name implements Check.
func (Secrets) Name() string { return "secrets" }

// Run implements Check.
func (Secrets) Run(_ context.Context, f *Facts) ([]Result, error) {
	if !f.IsImage {
		return nil, nil
	}
	var results []Result
	add := func(where string, found []secret.Finding) {
		for _, s := range found {
			results = append(results, Result{Verdict: Fail, Message: fmt.Sprintf("%s in %s", s.What, where)})
		}
	}
	for i, h := range f.Config.History {
		add(fmt.Sprintf("step %d of the history", i+1), secret.Config([]byte(h.CreatedBy)))
		add(fmt.Sprintf("step %d of the history", i+1), secret.Text([]byte(h.Comment)))
	}
	for _, e := range f.Config.Config.Env {
		name, value, _ := strings.Cut(e, "=")
		add("the variable "+name, secret.Value(name, value))
	}
	for name, value := range f.Config.Config.Labels {
		add("the label "+name, secret.Value(name, value))
	}
	for _, s := range f.Scan.Secrets {
		results = append(results, Result{Verdict: Fail, Message: fmt.Sprintf("%s in /%s", s.What, s.File)})
	}
	for _, s := range f.Scan.Skipped {
		results = append(results, Result{Verdict: Warn, Message: "not looked at: " + s})
	}
	slices.SortStableFunc(results, func(a, b Result) int {
		return strings.Compare(string(a.Verdict)+a.Message, string(b.Verdict)+b.Message)
	})
	if len(results) == 0 {
		results = one(Pass, "none found")
	}
	return results, nil
}

// ConfigSense looks for what is odd in an image's configuration and size.
type ConfigSense struct{}

// Name implements Check.
func (ConfigSense) Name() string { return "config" }

// What is more than an image usually has.
const (
	manyPorts  = 20
	manyLayers = 100
	hugeLayer  = 2 << 30  // bytes, compressed
	hugeImage  = 10 << 30 // bytes, compressed
)

// fetched matches a start-up command that runs what it downloads.
var fetched = regexp.MustCompile(`(?i)\b(curl|wget)\b[^|;&]*\|\s*(sudo\s+)?(ba|da|z)?sh\b`)

// Run implements Check.
func (ConfigSense) Run(_ context.Context, f *Facts) ([]Result, error) {
	if !f.IsImage {
		return nil, nil
	}
	var results []Result
	warn := func(when bool, format string, args ...any) {
		if when {
			results = append(results, one(Warn, format, args...)...)
		}
	}
	c, start := f.Config.Config, slices.Concat(f.Config.Config.Entrypoint, f.Config.Config.Cmd)
	if f.Config.OS == "" || f.Config.Architecture == "" {
		results = append(results, one(Fail, "the config names no platform")...)
	}
	if fetched.MatchString(strings.Join(start, " ")) {
		results = append(results, one(Fail, "the start-up command runs what it downloads: %.200q", strings.Join(start, " "))...)
	}
	user, _, _ := strings.Cut(c.User, ":")
	warn(user == "" || user == "0" || user == "root", "it runs as root; USER names somebody else")
	warn(len(start) == 0, "it has neither ENTRYPOINT nor CMD")
	warn(len(start) > 0 && strings.TrimSpace(start[0]) == "", "the start-up command is empty")
	warn(len(c.ExposedPorts) > manyPorts, "it exposes %d ports", len(c.ExposedPorts))
	for port := range c.ExposedPorts {
		number, _, _ := strings.Cut(port, "/")
		warn(number == "22" || number == "23" || number == "2375", "it exposes port %s, for which there is seldom a good reason", port)
	}
	for _, e := range c.Env {
		name, _, _ := strings.Cut(e, "=")
		warn(name == "LD_PRELOAD" || name == "LD_LIBRARY_PATH" && strings.Contains(e, "=/tmp"), "it sets %s for every process", name)
	}
	for v := range c.Volumes {
		warn(v == "/" || strings.HasPrefix(v, "/etc") || strings.HasPrefix(v, "/proc") || strings.HasPrefix(v, "/var/run/docker"), "it declares %s a volume", v)
	}
	total := int64(0)
	for i, l := range f.Manifest.Layers {
		total += l.Size
		warn(l.Size > hugeLayer, "layer %d has %s", i+1, units.BytesSize(float64(l.Size)))
		warn(len(l.URLs) > 0, "layer %d is to be had elsewhere, not here", i+1)
	}
	warn(total > hugeImage, "all layers have %s", units.BytesSize(float64(total)))
	warn(len(f.Manifest.Layers) > manyLayers, "it has %d layers", len(f.Manifest.Layers))
	if len(results) == 0 {
		return one(Pass, "nothing odd"), nil
	}
	return results, nil
}

// LookAlike fails names that can be mistaken for others.
type LookAlike struct{}

// Name implements Check.
func (LookAlike) Name() string { return "look-alike" }

// wellKnown are names that impostors like.
var wellKnown = strings.Fields(`alpine amazonlinux bitnami busybox caddy cassandra centos clickhouse composer consul couchbase couchdb debian
	docker drupal elasticsearch fedora fluentd ghost golang gradle grafana haproxy httpd influxdb jenkins joomla kafka kibana kong kubernetes
	logstash mariadb maven memcached minio mongo mongodb mysql nats neo4j nextcloud nginx node nodejs openjdk opensearch oracle percona perl
	phpmyadmin portainer postgres postgresql prometheus pypy python rabbitmq redis redmine registry rockylinux ruby rust sonarqube swarm
	tensorflow pytorch tomcat traefik ubuntu vault wordpress zookeeper ansible terraform hashicorp microsoft google amazon github gitlab`)

// skeleton is a name as a hurried eye reads it.
func skeleton(s string) string {
	s = strings.NewReplacer("rn", "m", "vv", "w", "cl", "d", "0", "o", "1", "l", "i", "l", "3", "e", "5", "s", "8", "b", "-", "", "_", "", ".", "").Replace(s)
	return s
}

// Run implements Check.
func (LookAlike) Run(_ context.Context, f *Facts) ([]Result, error) {
	if f.Kind != "community" {
		return one(Pass, "it is %s", f.Kind), nil
	}
	var results []Result
	for _, part := range strings.Split(f.Repository, "/") {
		for _, name := range f.Known {
			if auth.Namespace(name) == auth.Namespace(f.Repository) && strings.Contains(name, "/") {
				continue
			}
			for _, other := range strings.Split(name, "/") {
				if v, how := resembles(part, other); how != "" {
					results = append(results, Result{Verdict: v, Message: fmt.Sprintf("%q %s %q of %s", part, how, other, name)})
				}
			}
		}
	}
	slices.SortFunc(results, func(a, b Result) int {
		return strings.Compare(string(a.Verdict)+a.Message, string(b.Verdict)+b.Message)
	})
	results = slices.Compact(results)
	if len(results) > 10 {
		results = results[:10]
	}
	if len(results) == 0 {
		return one(Pass, "like no name that is known"), nil
	}
	return results, nil
}

// resembles tells how a part of a name can be mistaken for another; "" is not.
// The same name in another namespace is no deception.
func resembles(a, b string) (v Verdict, how string) {
	const short = 4 // characters: names as short as that are like very many
	switch {
	case a == b || len(b) < short:
		return "", ""
	case skeleton(a) == skeleton(b):
		return Fail, "looks like"
	case len(b) > short && distance(a, b) == 1:
		return Warn, "is one letter from"
	}
	return "", ""
}

// distance is how many letters are inserted, deleted, changed or swapped with the
// next between a and b; what is more than 1 is 2.
func distance(a, b string) int {
	if len(a) > len(b) {
		a, b = b, a
	}
	if len(b)-len(a) > 1 {
		return 2
	}
	i := 0
	for i < len(a) && a[i] == b[i] {
		i++
	}
	switch {
	case a == b:
		return 0
	case len(a) < len(b):
		if a[i:] == b[i+1:] {
			return 1
		}
	case a[i+1:] == b[i+1:]:
		return 1
	case i+1 < len(a) && a[i] == b[i+1] && a[i+1] == b[i] && a[i+2:] == b[i+2:]:
		return 1
	}
	return 2
}

// Licence warns of images that do not say what licence they are under.
type Licence struct{}

// Name implements Check.
func (Licence) Name() string { return "licence" }

// licenceLabel is the label of the image specification, an SPDX expression.
const licenceLabel = "org.opencontainers.image.licenses"

var spdx = regexp.MustCompile(`^[A-Za-z0-9.+()-]+(?: (?:AND|OR|WITH) [A-Za-z0-9.+()-]+)*$`)

// Run implements Check.
func (Licence) Run(_ context.Context, f *Facts) ([]Result, error) {
	if !f.IsImage {
		return nil, nil
	}
	label := f.Config.Config.Labels[licenceLabel]
	if label == "" {
		label = f.Manifest.Annotations[licenceLabel]
	}
	switch {
	case label == "":
		return one(Warn, "the label %s is not set", licenceLabel), nil
	case !spdx.MatchString(label):
		return one(Warn, "%.100q is no SPDX licence expression", label), nil
	}
	return one(Pass, "%s", label), nil
}

// Description warns of descriptions that sell something else than the image.
type Description struct{}

// Name implements Check.
func (Description) Name() string { return "description" }

var (
	links = regexp.MustCompile(`(?i)https?://([a-z0-9.-]+)`)
	sales = regexp.MustCompile(`(?i)\b(casino|viagra|crack(ed)?|keygen|warez|free download|full movie|watch online|torrent|escort|betting|torrents?|essay writing|forex)\b`)
)

// Run implements Check.
func (Description) Run(_ context.Context, f *Facts) ([]Result, error) {
	text := f.Description + "\n" + f.Readme
	if strings.TrimSpace(text) == "" {
		return one(Warn, "the repository has no description"), nil
	}
	if words := sales.FindAllString(text, -1); len(words) > 2 {
		return one(Fail, "the description reads like advertisement: %q", slices.Compact(words[:min(len(words), 5)])), nil
	}
	const many = 20
	hosts := map[string]int{}
	for _, m := range links.FindAllStringSubmatch(text, -1) {
		if hosts[m[1]]++; hosts[m[1]] == many && !strings.Contains(m[1], "github") {
			return one(Warn, "the description links to %s more than %d times", m[1], many-1), nil
		}
	}
	return one(Pass, "it describes"), nil
}
