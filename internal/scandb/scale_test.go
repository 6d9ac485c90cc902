package scandb_test

import (
	"archive/zip"
	"bufio"
	"bytes"
	"compress/flate"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"strake/internal/conformance"
	"strake/internal/hubdb"
	"strake/internal/scandb"
	"strake/internal/sqldb"
	"strake/internal/vuln"
)

// ecosystem is a part of a generated dump, shaped as OSV's is.
type ecosystem struct {
	name     string
	prefix   string // of IDs
	records  int
	packages int      // different ones
	releases []string // "" is an ecosystem without any
	versions int      // that a record lists, at most
	semver   bool
}

// size is how much of the ecosystems' records are generated, and of 1,000 images.
var size = flag.Float64("size", 0.04, "of BenchmarkVulnerabilities; 1 is what OSV has")

// ecosystems are 250,000 records.
var ecosystems = []ecosystem{
	{"Debian", "DEBIAN-CVE-", 60_000, 8_000, []string{":11", ":12", ":13", ":14"}, 6, false},
	{"Alpine", "ALPINE-CVE-", 15_000, 2_000, []string{":v3.17", ":v3.18", ":v3.19", ":v3.20", ":v3.21", ":v3.22"}, 4, false},
	{"npm", "MAL-", 100_000, 80_000, []string{""}, 10, true},
	{"PyPI", "PYSEC-", 25_000, 8_000, []string{""}, 60, true},
	{"Go", "GO-", 15_000, 4_000, []string{""}, 0, true},
	{"Maven", "GHSA-m", 25_000, 6_000, []string{""}, 60, true},
	{"crates.io", "RUSTSEC-", 10_000, 4_000, []string{""}, 0, true},
}

// write writes an ecosystem's records to a dump; of those of a later edition one in a hundred is another.
func (e ecosystem) write(z *zip.Writer, edition int) error {
	for i := range sized(e.records) {
		rnd := rand.New(rand.NewPCG(uint64(i), uint64(len(e.name))))
		if i%100 == 0 {
			rnd = rand.New(rand.NewPCG(uint64(i), uint64(len(e.name)+1000*edition)))
		}
		id := fmt.Sprintf("%s%d-%d", e.prefix, 2010+i%16, i)
		w, err := z.Create(id + ".json")
		if err == nil {
			_, err = io.WriteString(w, e.record(id, i, rnd))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// record is one record: details in prose, references, and for each release of each package ranges and versions.
func (e ecosystem) record(id string, i int, rnd *rand.Rand) string {
	var b strings.Builder
	fmt.Fprintf(&b, `{"schema_version":"1.7.0","id":%q,"modified":"2025-%02d-%02dT00:00:00Z","published":"20%02d-01-01T00:00:00Z","aliases":["CVE-%d-%d"],"summary":"A flaw in %s number %d",`,
		id, 1+rnd.IntN(12), 1+rnd.IntN(28), 10+i%16, 2010+i%16, 100_000+i, e.name, i)
	b.WriteString(`"details":"`)
	for range 50 + rnd.IntN(200) {
		fmt.Fprintf(&b, "%s ", proseWords[rnd.IntN(len(proseWords))])
	}
	b.WriteString(`","severity":[{"type":"CVSS_V3","score":"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:L/A:N"}],"references":[`)
	for k := range 3 {
		fmt.Fprintf(&b, `{"type":"WEB","url":"https://example.com/%s/%d/%d"},`, id, k, rnd.Uint32())
	}
	b.WriteString(`{"type":"ADVISORY","url":"https://example.com"}],"affected":[`)
	name := fmt.Sprintf("package-%d", i%sized(e.packages))
	for k, release := range e.releases {
		if k > 0 {
			b.WriteString(",")
		}
		kind := "ECOSYSTEM"
		if e.semver {
			kind = "SEMVER"
		}
		fmt.Fprintf(&b, `{"package":{"ecosystem":%q,"name":%q,"purl":"pkg:generic/%s"},"ranges":[{"type":%q,"events":[{"introduced":"0"},{"fixed":"%d.%d.%d"}]}],"versions":[`,
			e.name+release, name, name, kind, 1+rnd.IntN(3), rnd.IntN(20), rnd.IntN(20))
		for v := range rnd.IntN(e.versions + 1) {
			if v > 0 {
				b.WriteString(",")
			}
			fmt.Fprintf(&b, `"0.%d.%d"`, v, rnd.IntN(9))
		}
		b.WriteString(`],"ecosystem_specific":{"urgency":"not yet assigned"}}`)
	}
	b.WriteString("]}")
	return b.String()
}

var proseWords = strings.Fields(`a vulnerability in the parser of this library allows remote attackers to cause denial service via crafted
	input that is not validated before memory allocated for header fields may be exhausted when versions prior are used with default
	configuration users should upgrade there no known workaround`)

// dumps writes ROOT/EDITION/ECOSYSTEM/all.zip, as OSV has them.
func dumps(b *testing.B, root string, edition int) string {
	b.Helper()
	dir := filepath.Join(root, strconv.Itoa(edition))
	deflate, err := flate.NewWriter(nil, flate.BestSpeed)
	if err != nil {
		b.Fatal(err)
	}
	for _, e := range ecosystems {
		name := filepath.Join(dir, e.name, "all.zip")
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			b.Fatal(err)
		}
		f, err := os.Create(name)
		if err != nil {
			b.Fatal(err)
		}
		buffer := bufio.NewWriterSize(f, 1<<20)
		z := zip.NewWriter(buffer)
		z.RegisterCompressor(zip.Deflate, func(w io.Writer) (io.WriteCloser, error) { // one for all records: making it is slow
			deflate.Reset(w)
			return deflate, nil
		})
		if err := errors.Join(e.write(z, edition), z.Close(), buffer.Flush(), f.Close()); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}

// sized is n of the real size.
func sized(n int) int { return int(*size * float64(n)) }

// BenchmarkVulnerabilities imports records from dumps and from a mirror, then those
// of a day later of which one in a hundred is another, and matches images of 150
// packages again, twice: the second time they have what they had. It says how much the processors worked, those of
// PostgreSQL's connections too, and how much memory the process had at most.
func BenchmarkVulnerabilities(b *testing.B) {
	root := b.TempDir()
	old, later := dumps(b, root, 0), dumps(b, root, 1)
	b.Run("sqlite", func(b *testing.B) {
		benchmarkVulnerabilities(b, old, later, func(name string) string { return filepath.Join(b.TempDir(), name) })
	})
	b.Run("postgres", func(b *testing.B) {
		benchmarkVulnerabilities(b, old, later, func(string) string { return conformance.PostgreSQL(b) })
	})
}

func benchmarkVulnerabilities(b *testing.B, old, later string, database func(name string) string) {
	mirror := httptest.NewServer(http.FileServer(http.Dir(filepath.Dir(old))))
	defer mirror.Close()
	records := 0
	for _, e := range ecosystems {
		records += sized(e.records)
	}
	for _, from := range []struct{ name, old, later string }{
		{"zip", old, later},
		{"mirror", mirror.URL + "/0", mirror.URL + "/1"},
	} {
		db, err := hubdb.Open(b.Context(), database(from.name))
		if err != nil {
			b.Fatal(err)
		}
		defer db.Close()
		s := &scandb.Scanner{DB: db}
		refresh := func(from string, records, changed int) {
			got, err := s.Refresh(b.Context(), vuln.ImportOptions{From: from, Ecosystems: names()})
			if err != nil || got.Records != records || got.Changed != changed {
				b.Fatalf("%+v %v, want %d records, %d changed", got, err, records, changed)
			}
		}
		measure(b, db, from.name+"/all", func() { refresh(from.old, records, records) })
		images := generateImages(b, db, sized(1000))
		measure(b, db, from.name+"/same", func() { refresh(from.old, records, 0) })
		measure(b, db, from.name+"/one in a hundred", func() { refresh(from.later, records, records/100) })
		for _, name := range []string{"images", "images again"} {
			measure(b, db, from.name+"/"+name, func() {
				for _, image := range images {
					if r, err := s.Match(b.Context(), image); err != nil || len(r.Findings) == 0 {
						b.Fatal(len(r.Findings), err)
					}
				}
			})
		}
	}
}

func names() (list []string) {
	for _, e := range ecosystems {
		list = append(list, e.name)
	}
	return list
}

// generateImages writes images of 150 packages of Debian and npm.
func generateImages(b *testing.B, db *sqldb.DB, n int) (images []digest.Digest) {
	b.Helper()
	rnd := rand.New(rand.NewPCG(5, 6))
	err := db.Update(b.Context(), func(tx *sql.Tx) error {
		for i := range n {
			image := digest.FromString(strconv.Itoa(i))
			images = append(images, image)
			if _, err := tx.ExecContext(b.Context(), "INSERT INTO scan_images (image, scanned) VALUES ($1, 1)", image.String()); err != nil {
				return err
			}
			for k := range 150 {
				kind, eco, name := "deb", "Debian:12", fmt.Sprintf("package-%d", rnd.IntN(sized(8_000)))
				if k%3 == 0 {
					kind, eco, name = "npm", "npm", fmt.Sprintf("package-%d", rnd.IntN(sized(80_000)))
				}
				if _, err := tx.ExecContext(b.Context(), `INSERT INTO scan_packages (image, number, type, name, version, ecosystem, key) VALUES ($1, $2, $3, $4, $5, $6, $4)`,
					image.String(), int64(k), kind, name, fmt.Sprintf("%d.%d.1", rnd.IntN(4), rnd.IntN(20)), eco); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	return images
}

// measure runs do once, as a benchmark of its own.
func measure(b *testing.B, db *sqldb.DB, name string, do func()) {
	b.Helper()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil { // the peak begins anew
		b.Fatal(err)
	}
	before, start := conformance.ProcessorTime(b, db), time.Now()
	do()
	took, worked := time.Since(start), conformance.ProcessorTime(b, db)-before
	b.Run(name, func(b *testing.B) {
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(took.Seconds(), "s")
		b.ReportMetric(worked.Seconds(), "cpu-s")
		b.ReportMetric(peakMemory(b), "MB")
	})
}

// peakMemory is the most memory that the process had at once, in megabytes.
func peakMemory(b *testing.B) float64 {
	b.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	_, text, _ := bytes.Cut(status, []byte("VmHWM:"))
	kb, err := strconv.Atoi(string(bytes.Fields(text)[0]))
	if err != nil {
		b.Fatal(err)
	}
	return float64(kb) / 1024
}
