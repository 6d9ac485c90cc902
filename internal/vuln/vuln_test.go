package vuln_test

import (
	"archive/zip"
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"strake/internal/conformance"
	"strake/internal/pgdb"
	"strake/internal/scan"
	"strake/internal/sqldb"
	"strake/internal/vuln"
)

// openVulns is an empty database of vulnerabilities.
func openVulns(t *testing.T) *sqldb.DB {
	t.Helper()
	db, err := sqldb.Open(t.Context(), sqldb.Options{Path: filepath.Join(t.TempDir(), "vulns.db")})
	return migrated(t, db, err)
}

// migrated makes the tables in a database that was opened, and closes it with the test.
func migrated(t *testing.T, db *sqldb.DB, err error) *sqldb.DB {
	t.Helper()
	if err == nil {
		err = db.Migrate(t.Context(), vuln.Migrations())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// databases calls test with a SQLite and a PostgreSQL database.
func databases(t *testing.T, test func(t *testing.T, db *sqldb.DB)) {
	t.Run("sqlite", func(t *testing.T) { test(t, openVulns(t)) })
	t.Run("postgres", func(t *testing.T) {
		db, err := pgdb.Open(t.Context(), conformance.PostgreSQL(t))
		test(t, migrated(t, db, err))
	})
}

// record is a record of OSV's with one package and one range of events, and whatever else.
func record(id, ecosystem, name, events, more string) string {
	return fmt.Sprintf(`{"schema_version": "1.6.0", "id": %q, "modified": "2024-05-01T00:00:00Z", "published": "2023-10-03T00:00:00Z", "summary": "what %s is",
		"affected": [{"package": {"ecosystem": %q, "name": %q}, "ranges": [{"type": "ECOSYSTEM", "events": [%s]}]}]%s}`, id, id, ecosystem, name, events, more)
}

func between(introduced, fixed string) string {
	if fixed == "" {
		return fmt.Sprintf(`{"introduced": %q}`, introduced)
	}
	return fmt.Sprintf(`{"introduced": %q}, {"fixed": %q}`, introduced, fixed)
}

func dump(t *testing.T, records ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for i, r := range records {
		w, err := z.Create(fmt.Sprint(i, ".json"))
		if err == nil {
			_, err = w.Write([]byte(r))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func importDump(t *testing.T, db *sqldb.DB, records ...string) vuln.Imported {
	t.Helper()
	name := filepath.Join(t.TempDir(), "all.zip")
	if err := os.WriteFile(name, dump(t, records...), 0o600); err != nil {
		t.Fatal(err)
	}
	result, err := vuln.Import(t.Context(), db, vuln.ImportOptions{From: name})
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func deb(name, source, version string) scan.Package {
	return scan.Package{Type: scan.TypeDeb, Ecosystem: "Debian:12", Name: name, Version: version, Source: source, SourceVersion: version}
}

func pkg(kind, ecosystem, name, version string) scan.Package {
	return scan.Package{Type: kind, Ecosystem: ecosystem, Name: name, Version: version}
}

// found are findings, each as one text.
func found(t *testing.T, db *sqldb.DB, packages ...scan.Package) []string {
	t.Helper()
	r, err := vuln.Match(t.Context(), db, packages)
	if err != nil {
		t.Fatal(err)
	}
	list := []string{}
	for _, f := range r.Findings {
		list = append(list, strings.TrimSpace(fmt.Sprintf("%s %s %s %s%s %s", f.Package.Name, f.Package.Version, f.ID, f.Severity, f.Score, f.Fixed)))
	}
	return list
}

const (
	high   = `, "severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:L/AC:L/PR:L/UI:N/S:U/C:H/I:H/A:H"}]`
	lodash = `, "aliases": ["CVE-2021-23337"], "severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:H/UI:N/S:U/C:H/I:H/A:H"}], "database_specific": {"severity": "HIGH"}`
)

// Records as OSV has them of real vulnerabilities, and versions of real packages.
func TestMatch(t *testing.T) {
	databases(t, func(t *testing.T, db *sqldb.DB) {
		importDump(
			t, db,
			record("DEBIAN-CVE-2023-4911", "Debian:12", "glibc", between("0", "2.36-9+deb12u3"), `, "upstream": ["CVE-2023-4911"]`+high),
			record("DSA-5514-1", "Debian:12", "glibc", between("0", "2.36-9+deb12u3"), `, "upstream": ["CVE-2023-4911", "CVE-2023-4527"]`),
			record("DEBIAN-CVE-2023-4527", "Debian:12", "glibc", between("0", "2.36-9+deb12u2"), `, "upstream": ["CVE-2023-4527"]`),
			record("DSA-1-1", "Debian:12", "zlib", between("0", "1:1.2.14"), `, "upstream": ["CVE-1-1", "CVE-1-2"]`),
			record("DEBIAN-CVE-2024-1", "Debian:11", "glibc", between("0", ""), ""),
			`{"id": "DEBIAN-CVE-2005-2541", "affected": [{"package": {"ecosystem": "Debian:12", "name": "tar"}, "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}], "ecosystem_specific": {"urgency": "unimportant"}}],
			  "upstream": ["CVE-2005-2541"], "severity": [{"type": "CVSS_V2", "score": "AV:N/AC:L/Au:N/C:C/I:C/A:C"}], "details": "Tar 1.13.25 does not properly warn\nof setuid"}`,
			record("GHSA-35jh-r3h4-6jhm", "npm", "lodash", between("0", "4.17.21"), lodash),
			record("GHSA-withdrawn", "npm", "lodash", between("0", ""), `, "withdrawn": "2024-01-01T00:00:00Z"`),
			`{"id": "MAL-2024-1", "affected": [{"package": {"ecosystem": "npm", "name": "evil"}, "versions": ["1.0.0", "1.0.1"]}]}`,
			record("GHSA-jfh8-c2jp-5v3q", "Maven", "org.apache.logging.log4j:log4j-core", between("2.13.0", "2.15.0")+", "+between("2.4", "2.12.2"),
				`, "aliases": ["CVE-2021-44228"], "severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H/E:H"}]`),
			record("PYSEC-2021-66", "PyPI", "Jinja2", between("0", "2.11.3"), `, "aliases": ["CVE-2020-28493", "SNYK-X"]`),
			record("GHSA-g3rq-g295-4j3m", "PyPI", "jinja2", between("0", "2.11.3"), `, "aliases": ["CVE-2020-28493"], "database_specific": {"severity": "MODERATE"}`),
			record("GO-2023-1840", "Go", "stdlib", between("0", "1.19.10")+", "+between("1.20.0-0", "1.20.5"), `, "aliases": ["CVE-2023-29403"]`),
			record("GHSA-last", "RubyGems", "rack", `{"introduced": "2.0.0"}, {"last_affected": "2.2.3"}`, ""),
			record("GHSA-limit", "crates.io", "smallvec", `{"introduced": "0"}, {"limit": "1.6.1"}`, `, "severity": [{"type": "CVSS_V4", "score": "CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N"}]`),
			record("ALPINE-CVE-2023-42366", "Alpine:v3.19", "busybox", between("0", "1.36.1-r16"), `, "upstream": ["CVE-2023-42366"]`),
			record("UBUNTU-CVE-2016-2781", "Ubuntu:22.04:LTS", "coreutils", between("0", ""), `, "upstream": ["CVE-2016-2781"], "severity": [{"type": "Ubuntu", "score": "low"}, {"type": "CVSS_V3", "score": "CVSS:3.1/AV:L/AC:L/PR:L/UI:N/S:U/C:H/I:H/A:H"}]`),
			"not a record", `{"id": "a b"}`,
		)
		for _, c := range []struct {
			p    scan.Package
			want string
		}{
			{deb("libc6", "glibc", "2.36-9+deb12u1"), "libc6 2.36-9+deb12u1 CVE-2023-4911 high7.8 2.36-9+deb12u3; libc6 2.36-9+deb12u1 CVE-2023-4527 unknown 2.36-9+deb12u2"},
			{deb("libc6", "glibc", "2.36-9+deb12u2"), "libc6 2.36-9+deb12u2 CVE-2023-4911 high7.8 2.36-9+deb12u3"},
			{deb("libc6", "glibc", "2.36-9+deb12u3"), ""},
			{deb("glibc", "other", "1"), ""},
			{deb("zlib1g", "zlib", "1:1.2.13.dfsg-1"), "zlib1g 1:1.2.13.dfsg-1 DSA-1-1 unknown 1:1.2.14"},
			{deb("tar", "tar", "1.34"), "tar 1.34 CVE-2005-2541 negligible10.0"},
			{pkg(scan.TypeNPM, "npm", "lodash", "4.17.20"), "lodash 4.17.20 CVE-2021-23337 high7.2 4.17.21"},
			{pkg(scan.TypeNPM, "npm", "lodash", "4.17.21"), ""},
			{pkg(scan.TypeNPM, "npm", "evil", "1.0.1"), "evil 1.0.1 MAL-2024-1 unknown"},
			{pkg(scan.TypeNPM, "npm", "evil", "1.0.2"), ""},
			{pkg(scan.TypeMaven, "Maven", "org.apache.logging.log4j:log4j-core", "2.14.1"), "org.apache.logging.log4j:log4j-core 2.14.1 CVE-2021-44228 critical10.0 2.15.0"},
			{pkg(scan.TypeMaven, "Maven", "org.apache.logging.log4j:log4j-core", "2.12.1"), "org.apache.logging.log4j:log4j-core 2.12.1 CVE-2021-44228 critical10.0 2.12.2"},
			{pkg(scan.TypeMaven, "Maven", "org.apache.logging.log4j:log4j-core", "2.12.2"), ""},
			{pkg(scan.TypePyPI, "PyPI", "jinja2", "2.11.2"), "jinja2 2.11.2 CVE-2020-28493 medium 2.11.3"},
			{pkg(scan.TypeGo, "Go", "stdlib", "1.20.4"), "stdlib 1.20.4 CVE-2023-29403 unknown 1.20.5"},
			{pkg(scan.TypeGo, "Go", "stdlib", "1.19.10"), ""},
			{pkg(scan.TypeGem, "RubyGems", "rack", "2.2.3"), "rack 2.2.3 GHSA-last unknown"},
			{pkg(scan.TypeGem, "RubyGems", "rack", "2.2.4"), ""},
			{pkg(scan.TypeGem, "RubyGems", "rack", "1.9"), ""},
			{pkg(scan.TypeCargo, "crates.io", "smallvec", "1.6.0"), "smallvec 1.6.0 GHSA-limit critical9.3"},
			{pkg(scan.TypeCargo, "crates.io", "smallvec", "1.6.1"), ""},
			{scan.Package{Type: scan.TypeAPK, Ecosystem: "Alpine:v3.19", Name: "ssl_client", Version: "1.36.1-r15", Source: "busybox"}, "ssl_client 1.36.1-r15 CVE-2023-42366 unknown 1.36.1-r16"},
			{scan.Package{Type: scan.TypeDeb, Ecosystem: "Ubuntu:22.04:LTS", Name: "coreutils", Version: "8.32-4.1ubuntu1"}, "coreutils 8.32-4.1ubuntu1 CVE-2016-2781 low"},
		} {
			if got := strings.Join(found(t, db, c.p), "; "); got != c.want {
				t.Errorf("%s %s: %q, want %q", c.p.Name, c.p.Version, got, c.want)
			}
		}
		r, err := vuln.Match(t.Context(), db, []scan.Package{
			pkg(scan.TypePyPI, "PyPI", "jinja2", "2.11.2"), pkg(scan.TypeNuGet, "NuGet", "x", "1"), {Type: scan.TypeDeb, Name: "x", Version: "1"}, deb("libc6", "glibc", "2.36-9+deb12u1"),
		})
		if err != nil {
			t.Fatal(err)
		}
		f := r.Findings[1]
		if diff := cmp.Diff([]string{"GHSA-g3rq-g295-4j3m", "PYSEC-2021-66", "SNYK-X"}, f.Aliases); diff != "" || f.Summary != "what GHSA-g3rq-g295-4j3m is" || f.Published != "2023-10-03T00:00:00Z" {
			t.Errorf("%+v", f)
		}
		if diff := cmp.Diff(map[vuln.Severity]int{vuln.High: 1, vuln.Medium: 1, vuln.Unknown: 1}, r.Counts()); diff != "" {
			t.Error(diff)
		}
		if len(r.Sources) != 2 || r.Sources[0].Name != "Debian" || r.Sources[0].Records != 6 || fmt.Sprint(r.Missing) != "[NuGet]" || r.Unknown != 1 {
			t.Errorf("%+v %v %d", r.Sources, r.Missing, r.Unknown)
		}
	})
}

// More packages than one query asks about, of a release and of all of them.
func TestMatchMany(t *testing.T) {
	databases(t, func(t *testing.T, db *sqldb.DB) {
		var records, want []string
		var packages []scan.Package
		for i := range 130 {
			name, ecosystem := fmt.Sprintf("p%03d", i), []string{"Debian:12", "Debian", "Debian:11", "npm"}[i%4]
			records = append(records, record("CVE-1-"+name, ecosystem, name, between("0", "2"), ""))
			packages = append(packages, deb(name, name, "1"), deb(name+"-doc", name, "2"))
			if i%4 < 2 {
				want = append(want, name+" 1 CVE-1-"+name+" unknown 2")
			}
		}
		importDump(t, db, records...)
		if diff := cmp.Diff(want, found(t, db, packages...)); diff != "" {
			t.Error(diff)
		}
		if db.Dialect() != sqldb.PostgreSQL {
			return
		}
		var rows float64 // as the planner knows; less than 0: it was never told
		if err := db.Get(t.Context(), "SELECT reltuples FROM pg_class WHERE relname = 'vuln_affected'", nil, &rows); err != nil || rows != 130 {
			t.Errorf("the planner counts %v rows: %v", rows, err)
		}
	})
}

// An import is seen all at once, writes what changed alone, and leaves other ecosystems as they are.
func TestImport(t *testing.T) {
	databases(t, func(t *testing.T, db *sqldb.DB) {
		a, b := record("A", "npm", "a", between("0", ""), ""), record("B", "npm", "b", between("0", ""), "")
		check := func(got vuln.Imported, records, changed int, want string) {
			t.Helper()
			if got.Records != records || got.Changed != changed {
				t.Errorf("%d records, %d changed, want %d and %d", got.Records, got.Changed, records, changed)
			}
			list := found(t, db, pkg(scan.TypeNPM, "npm", "a", "1.0.0"), pkg(scan.TypeNPM, "npm", "b", "1.0.0"), pkg(scan.TypeGo, "Go", "c", "1.0.0"))
			if text := strings.Join(list, "; "); text != want {
				t.Errorf("%q, want %q", text, want)
			}
		}
		touched := func(source string, since int64) (list []string, known bool) {
			t.Helper()
			err := db.View(t.Context(), func(tx *sql.Tx) (err error) {
				known, err = vuln.Touched(t.Context(), tx, source, since, func(ecosystem, name string) error {
					list = append(list, ecosystem+" "+name)
					return nil
				})
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return list, known
		}
		check(importDump(t, db, a, b, record("C", "Go", "c", between("0", ""), "")), 3, 3, "a 1.0.0 A unknown; b 1.0.0 B unknown; c 1.0.0 C unknown")
		check(importDump(t, db, a, b), 2, 0, "a 1.0.0 A unknown; b 1.0.0 B unknown; c 1.0.0 C unknown")
		check(importDump(t, db, a, record("B", "npm", "b", between("0", "0.9.0"), "")), 2, 1, "a 1.0.0 A unknown; c 1.0.0 C unknown")
		if list, known := touched("npm", 1); !known || fmt.Sprint(list) != "[npm b]" {
			t.Errorf("%q %v", list, known)
		}
		check(importDump(t, db, b), 1, 2, "b 1.0.0 B unknown; c 1.0.0 C unknown")
		if list, known := touched("npm", 2); !known || len(list) != 2 {
			t.Errorf("%q %v", list, known)
		}
		if list, known := touched("npm", 1); known || len(list) > 0 {
			t.Errorf("%q %v: what changed before the last generation is not known", list, known)
		}
		// One record adds to the others.
		name := filepath.Join(t.TempDir(), "A.json")
		if err := os.WriteFile(name, []byte(a), 0o600); err != nil {
			t.Fatal(err)
		}
		one, err := vuln.Import(t.Context(), db, vuln.ImportOptions{From: name})
		if err != nil {
			t.Fatal(err)
		}
		check(one, 1, 1, "a 1.0.0 A unknown; b 1.0.0 B unknown; c 1.0.0 C unknown")
		// An import that breaks off changes nothing, and does not stand in the way of the next.
		ctx, cancel := context.WithCancel(t.Context())
		many := []string{}
		for i := range 1500 {
			many = append(many, record(fmt.Sprint("M", i), "npm", "b", between("0", ""), ""))
		}
		broken := filepath.Join(t.TempDir(), "all.zip")
		if err := os.WriteFile(broken, dump(t, many...), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := vuln.Import(ctx, db, vuln.ImportOptions{From: broken, Progress: func(string, int) { cancel() }}); err == nil {
			t.Error("an import that was cancelled ended well")
		}
		check(one, 1, 1, "a 1.0.0 A unknown; b 1.0.0 B unknown; c 1.0.0 C unknown")
		check(importDump(t, db, a), 1, 1, "a 1.0.0 A unknown; c 1.0.0 C unknown")
	})
}

// Records that are as they were by a dump's directory are not unpacked, and those that are not are.
func TestImportUnpacks(t *testing.T) {
	databases(t, func(t *testing.T, db *sqldb.DB) {
		name := filepath.Join(t.TempDir(), "all.zip")
		write := func(fixed string, damaged bool) {
			t.Helper()
			var b bytes.Buffer
			z := zip.NewWriter(&b)
			for _, r := range []struct{ id, text string }{{"A", record("A", "npm", "a", between("0", "2"), "")}, {"B", record("B", "npm", "b", between("0", fixed), "")}} {
				w, err := z.CreateHeader(&zip.FileHeader{Name: r.id + ".json"})
				if err == nil {
					_, err = w.Write([]byte(r.text))
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := z.Close(); err != nil {
				t.Fatal(err)
			}
			all := b.Bytes()
			if damaged {
				all = bytes.Replace(all, []byte("what A is"), []byte("what ? is"), 1)
			}
			if err := os.WriteFile(name, all, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		imports := func(changed int, want string) {
			t.Helper()
			got, err := vuln.Import(t.Context(), db, vuln.ImportOptions{From: name})
			if err != nil || got.Records != 2 || got.Changed != changed {
				t.Errorf("%+v, want 2 records and %d changed: %v", got, changed, err)
			}
			list := found(t, db, pkg(scan.TypeNPM, "npm", "a", "1.0.0"), pkg(scan.TypeNPM, "npm", "b", "1.0.0"))
			if text := strings.Join(list, "; "); text != want {
				t.Errorf("%q, want %q", text, want)
			}
		}
		write("3", true)
		if _, err := vuln.Import(t.Context(), db, vuln.ImportOptions{From: name}); !errors.Is(err, zip.ErrChecksum) {
			t.Errorf("a damaged record: %v", err)
		}
		write("3", false)
		imports(2, "a 1.0.0 A unknown 2; b 1.0.0 B unknown 3")
		write("3", true)
		imports(0, "a 1.0.0 A unknown 2; b 1.0.0 B unknown 3")
		write("4", true) // as long
		imports(1, "a 1.0.0 A unknown 2; b 1.0.0 B unknown 4")
	})
}

// While one import goes on another of the same ecosystem has to wait.
func TestConcurrentImports(t *testing.T) {
	databases(t, func(t *testing.T, db *sqldb.DB) {
		many := []string{}
		for i := range 1000 {
			many = append(many, record(fmt.Sprint("M", i), "npm", "b", between("0", ""), ""))
		}
		name := filepath.Join(t.TempDir(), "all.zip")
		if err := os.WriteFile(name, dump(t, many...), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := vuln.Import(t.Context(), db, vuln.ImportOptions{From: name, Progress: func(string, int) {
			_, err := vuln.Import(t.Context(), db, vuln.ImportOptions{From: name})
			if !errdefs.IsUnavailable(err) {
				t.Errorf("%v, want that another import goes on", err)
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		if got := len(found(t, db, pkg(scan.TypeNPM, "npm", "b", "1.0.0"))); got != 1000 {
			t.Errorf("%d findings", got)
		}
	})
}

// A mirror is asked for each ecosystem's dump, and no more than whether it changed when it did not.
func TestMirror(t *testing.T) {
	databases(t, func(t *testing.T, db *sqldb.DB) {
		var whole, same atomic.Int64
		b := dump(t, record("A", "npm", "a", between("0", ""), ""), record("G", "Go", "x", between("0", ""), ""))
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Path == "/osv/link/all.zip":
				http.Redirect(w, r, "http://169.254.169.254/all.zip", http.StatusFound)
			case r.URL.Path != "/osv/npm/all.zip":
				http.NotFound(w, r)
			case r.Header.Get("If-None-Match") == `"1"`:
				same.Add(1)
				w.WriteHeader(http.StatusNotModified)
			default:
				whole.Add(1)
				w.Header().Set("ETag", `"1"`)
				_, _ = w.Write(b)
			}
		}))
		defer server.Close()
		for range 2 {
			if _, err := vuln.Import(t.Context(), db, vuln.ImportOptions{From: server.URL + "/osv", Ecosystems: []string{"npm", "PyPI"}}); err != nil {
				t.Fatal(err)
			}
		}
		if whole.Load() != 1 || same.Load() != 1 {
			t.Errorf("%d dumps and %d times nothing new, want one of each", whole.Load(), same.Load())
		}
		list, err := vuln.Sources(t.Context(), db)
		if err != nil || len(list) != 1 || list[0].Name != "npm" || list[0].Origin != server.URL+"/osv/npm/all.zip" || list[0].Modified.Year() != 2024 {
			t.Errorf("%+v %v", list, err)
		}
		if _, err := vuln.Import(t.Context(), db, vuln.ImportOptions{From: server.URL + "/osv", Ecosystems: []string{"PyPI"}}); !errdefs.IsNotFound(err) {
			t.Errorf("%v, want that there is no dump", err)
		}
		// CVE-2026-10517: where a dump is from leads to no cloud's credentials.
		for _, from := range []string{server.URL + "/osv/link/all.zip", "http://169.254.169.254/all.zip", "http://[fe80::1]/all.zip"} {
			if _, err := vuln.Import(t.Context(), db, vuln.ImportOptions{From: from}); err == nil || !strings.Contains(err.Error(), "link-local") {
				t.Errorf("%s: %v", from, err)
			}
		}
	})
}

func TestHostileDumps(t *testing.T) {
	db := openVulns(t)
	long := strings.Repeat("9", 1<<20)
	importDump(
		t, db, strings.Repeat("[", 1<<20), `{"id": "`+long+`", "affected": []}`, record("V", "npm", "a", between(long, long), ""), record("W", "npm", "a", `{"introduced": "0"}`, `, "severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/`+long+`"}]`),
		`{"id": "X", "affected": [{"package": {"ecosystem": "npm", "name": "`+long+`"}}]}`, record("Y", "npm", "a\x7f", between("0", ""), `, "severity": "none", "details": 1`), strings.Repeat(" ", 17<<20),
	)
	if got := fmt.Sprint(found(t, db, pkg(scan.TypeNPM, "npm", "a", "1.0.0"), pkg(scan.TypeNPM, "npm", "a", long))); strings.Contains(got, "V") || !strings.Contains(got, "a 1.0.0 W unknown") {
		t.Error(got)
	}
	if _, err := vuln.Import(t.Context(), db, vuln.ImportOptions{From: filepath.Join(t.TempDir(), "none")}); err == nil {
		t.Error("nothing was imported")
	}
}

// Dumps that are made to cost more than they are worth: each is refused, or its
// record is passed over, and what is in the others counts.
func TestHostileArchives(t *testing.T) {
	db := openVulns(t)
	good := func(id string) string { return record(id, "npm", "a", between("0", ""), "") }
	member := func(z *zip.Writer, name string, parts ...string) {
		w, err := z.Create(name)
		for _, part := range parts {
			if err == nil {
				_, err = w.Write([]byte(part))
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	many := func(part string, n int) []string { return slices.Repeat([]string{part}, n) }
	head := `{"id": "R", "affected": [{"package": {"ecosystem": "npm", "name": "a"}, "ranges": [`
	for _, c := range []struct {
		name     string
		fill     func(z *zip.Writer)
		unusable int
	}{
		{"a record of 1 GB", func(z *zip.Writer) { member(z, "B.json", many(strings.Repeat(" ", 1<<20), 1<<10)...) }, 1},
		{"a million ranges", func(z *zip.Writer) {
			member(z, "R.json", append(append([]string{head}, many(`{"events":[]},`, 1_000_000)...), `{}]}]}`)...)
		}, 1},
		{"a million packages", func(z *zip.Writer) {
			member(z, "R.json", append(append([]string{`{"id": "R", "affected": [`}, many(`{},`, 1_000_000)...), `{}]}`)...)
		}, 1},
		{"depth", func(z *zip.Writer) { member(z, "D.json", many(strings.Repeat("[", 1<<20), 15)...) }, 1},
		{"names that lead elsewhere", func(z *zip.Writer) {
			for _, name := range []string{"../../P.json", "/etc/P.json", `..\\P.json`, "P.json/", "a\x00b.json", "P.json"} {
				member(z, name)
			}
		}, 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			var b bytes.Buffer
			z := zip.NewWriter(&b)
			c.fill(z)
			member(z, "G.json", good("G-"+strings.ReplaceAll(c.name, " ", "-")))
			if err := z.Close(); err != nil {
				t.Fatal(err)
			}
			name := filepath.Join(dir, "all.zip")
			if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			result, err := vuln.Import(t.Context(), db, vuln.ImportOptions{From: name})
			runtime.ReadMemStats(&after)
			if err != nil || result.Unusable != c.unusable || len(result.Sources) != 1 {
				t.Errorf("%+v, %v", result, err)
			}
			if spent := after.TotalAlloc - before.TotalAlloc; spent > 200<<20 {
				t.Errorf("it took %d MB of memory", spent>>20)
			}
			if got := found(t, db, pkg(scan.TypeNPM, "npm", "a", "1.0.0")); len(got) != 1 || !strings.Contains(got[0], "G-") {
				t.Error(got)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
				t.Error(left, err)
			}
		})
	}
}

// TestOverlappingFiles imports a zip whose files are the same bytes: a small one from which much comes out.
func TestOverlappingFiles(t *testing.T) {
	db := openVulns(t)
	good := func(id string) string { return record(id, "npm", "a", between("0", ""), "") }
	overlapping := dump(t, good("A"), good("B"))
	at := bytes.LastIndex(overlapping, []byte("PK\x01\x02"))
	offset := overlapping[at+42 : at+46] // of the second file's header
	copy(offset, []byte{0, 0, 0, 0})
	copy(overlapping[at+20:at+24], []byte{0xff, 0xff, 0xff, 0}) // its size
	name := filepath.Join(t.TempDir(), "all.zip")
	if err := os.WriteFile(name, overlapping, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := vuln.Import(t.Context(), db, vuln.ImportOptions{From: name}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("files that overlap: %v", err)
	}
}

func TestSeverity(t *testing.T) {
	for _, s := range vuln.Severities() {
		b, err := json.Marshal(s)
		var again vuln.Severity
		if err == nil {
			err = json.Unmarshal(b, &again)
		}
		if err != nil || again != s {
			t.Errorf("%v: %s %v", s, b, err)
		}
	}
	if err := new(vuln.Severity).UnmarshalText([]byte("bad")); err == nil {
		t.Error("bad is a severity")
	}
}
