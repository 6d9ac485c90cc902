package auth

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"strake/internal/sqldb"
)

const secret = "correct horse battery"

// world is a Hub with sam, who administers it, ann, bob and cid; ann owns the
// organization org, bob is a member and of its team devs, which may write to
// org/api. ann/app is private, ann/site public.
type world struct {
	*testing.T
	db *sqldb.DB
}

func newWorld(t *testing.T, db *sqldb.DB) world {
	t.Helper()
	w := world{t, db}
	system := With(t.Context(), Identity{System: true})
	for _, name := range []string{"sam", "ann", "bob", "cid"} {
		w.ok(AddUser(system, db, NewUser{Name: name, Password: "", Admin: name == "sam"}))
	}
	hash, err := hashPassword(t.Context(), secret)
	w.ok(err)
	w.exec(`UPDATE accounts SET password = $1`, hash)
	w.exec(`INSERT INTO repositories (id, name, namespace, public) VALUES (1, 'ann/app', 'ann', 0), (2, 'ann/site', 'ann', 1), (4, 'alone', '', 1)`)
	ann := w.as("ann")
	w.ok(AddOrganization(ann, db, "org", "The organization"))
	w.exec(`INSERT INTO repositories (id, name, namespace, public) VALUES (3, 'org/api', 'org', 0)`)
	w.ok(SetMember(ann, db, "org", "bob", false))
	w.ok(AddTeam(ann, db, "org", "devs"))
	w.ok(AddTeamMember(ann, db, "org", "devs", "bob"))
	w.ok(SetGrant(ann, db, "org/api", Grant{"org/devs", Write}))
	return w
}

func (w world) exec(query string, args ...any) {
	w.Helper()
	w.ok(w.db.Update(w.Context(), func(tx *sql.Tx) error {
		_, err := tx.ExecContext(w.Context(), query, args...)
		return err
	}))
}

func (w world) ok(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w world) fails(err, kind error) {
	w.Helper()
	if !errors.Is(err, kind) {
		w.Errorf("got %v, want %v", err, kind)
	}
}

// as returns a context of who logged in by password, without the cost of it.
func (w world) as(name string) context.Context {
	w.Helper()
	if name == "" {
		return With(w.Context(), Identity{Address: "192.0.2.1:1"})
	}
	var row int64
	w.ok(w.db.Get(w.Context(), `SELECT id FROM accounts WHERE name = $1`, []any{name}, &row))
	r, err := readIdentity(w.Context(), w.db, row, "")
	w.ok(err)
	r.id.Address = "192.0.2.1:1"
	return With(w.Context(), r.id)
}

// role is what a context's identity may do with a repository.
func (w world) role(ctx context.Context, repo string) (role Role) {
	w.Helper()
	w.ok(w.db.View(ctx, func(tx *sql.Tx) (err error) {
		role, err = RoleOf(ctx, tx, From(ctx), repo)
		return err
	}))
	return role
}

func TestCheckName(t *testing.T) {
	for name, good := range map[string]bool{
		"ann": true, "a1": true, "a-b-c": true, "0x": true, "a": false, "": false, "-a": false, "a-": false, "a--b": false, "Ann": false, "a.b": false, "a_b": false, "a/b": false,
		"änn": false, "admin": false, "library": false, "v2": false, "_catalog": false, "token": false, "api": false, "static": false,
		strings.Repeat("a", 39): true, strings.Repeat("a", 40): false, "a\n": false, "a'b": false,
	} {
		if err := CheckName(name); (err == nil) != good {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// CVE-2019-16097: nobody makes themselves an administrator, by no way.
func TestCVE_2019_16097_AdminRole(t *testing.T) { engines(t, testCVE_2019_16097_AdminRole) }

func testCVE_2019_16097_AdminRole(t *testing.T, db *sqldb.DB) {
	w, yes := newWorld(t, db), true
	for _, who := range []string{"", "ann", "bob"} {
		if err := AddUser(w.as(who), w.db, NewUser{Name: "eve", Password: secret, Admin: true}); err == nil {
			t.Errorf("%q made an administrator", who)
		}
	}
	ann := w.as("ann")
	for _, c := range []AccountChange{{Admin: &yes}, {Reviewer: &yes}, {Verified: &yes}, {Disabled: new(bool)}} {
		w.fails(ChangeAccount(ann, w.db, "ann", c), errdefs.ErrPermissionDenied)
		w.fails(ChangeAccount(ann, w.db, "org", c), errdefs.ErrPermissionDenied)
		w.fails(ChangeAccount(ann, w.db, "bob", c), errdefs.ErrNotFound)
	}
	text := "Ann"
	w.ok(ChangeAccount(ann, w.db, "ann", AccountChange{FullName: &text}))
	a, err := GetAccount(w.as("ann"), w.db, "ann")
	w.ok(err)
	if a.Admin || a.Reviewer || a.Verified || a.FullName != text {
		t.Errorf("ann is %+v", a)
	}
	w.ok(ChangeAccount(w.as("sam"), w.db, "ann", AccountChange{Admin: &yes}))
	if !From(w.as("ann")).IsAdmin() {
		t.Error("an administrator made none")
	}
	w.fails(ChangeAccount(w.as("sam"), w.db, "org", AccountChange{Admin: &yes}), errdefs.ErrInvalidArgument)
}

// Accounts that one has nothing to do with are as those that are not there.
func TestCVE_2019_19030_Enumeration(t *testing.T) { engines(t, testCVE_2019_19030_Enumeration) }

func testCVE_2019_19030_Enumeration(t *testing.T, db *sqldb.DB) {
	w := newWorld(t, db)
	cid := w.as("cid")
	for name, call := range map[string]func(account string) error{
		"GetAccount":    func(a string) error { _, err := GetAccount(cid, w.db, a); return err },
		"ChangeAccount": func(a string) error { return ChangeAccount(cid, w.db, a, AccountChange{}) },
		"DeleteAccount": func(a string) error { return DeleteAccount(cid, w.db, a) },
		"SetPassword":   func(a string) error { return SetPassword(cid, w.db, a, secret, secret) },
		"Members":       func(a string) error { _, err := Members(cid, w.db, a); return err },
		"Teams":         func(a string) error { _, err := Teams(cid, w.db, a); return err },
		"SetMember":     func(a string) error { return SetMember(cid, w.db, a, "cid", true) },
		"AddTeam":       func(a string) error { return AddTeam(cid, w.db, a, "mine") },
		"Tokens":        func(a string) error { _, err := Tokens(cid, w.db, a); return err },
		"RemoveToken":   func(a string) error { return RemoveToken(cid, w.db, a, "x") },
		"AddToken": func(a string) error {
			_, _, err := AddToken(cid, w.db, a, NewToken{Name: "ci", Robot: true, Scopes: []Scope{{"*", Read}}})
			return err
		},
	} {
		absent := call("absent")
		for _, there := range []string{"org", "ann"} {
			got := call(there)
			if got == nil || absent == nil || strings.ReplaceAll(got.Error(), there, "absent") != absent.Error() {
				t.Errorf("%s of %s: %v; of what is not there: %v", name, there, got, absent)
			}
		}
	}
	list, err := Accounts(cid, w.db, "", 100)
	if err != nil || len(list) != 1 || list[0].Name != "cid" {
		t.Errorf("cid sees %v, %v", list, err)
	}
	for _, repo := range []string{"ann/app", "ann/none"} {
		_, err := Grants(cid, w.db, repo)
		w.fails(err, errdefs.ErrNotFound)
		w.fails(SetGrant(cid, w.db, repo, Grant{"cid", Admin}), errdefs.ErrNotFound)
		_, err = AuditLog(cid, w.db, AuditFilter{Repository: repo, Limit: 1})
		w.fails(err, errdefs.ErrNotFound)
	}
}

func TestOrganizations(t *testing.T) { engines(t, testOrganizations) }

func testOrganizations(t *testing.T, db *sqldb.DB) {
	w := newWorld(t, db)
	ann, bob, root := w.as("ann"), w.as("bob"), w.as("sam")
	if got := w.role(bob, "org/api"); got != Write {
		t.Errorf("by the team: %v", got)
	}
	w.fails(SetMember(bob, w.db, "org", "bob", true), errdefs.ErrPermissionDenied)
	w.fails(SetGrant(bob, w.db, "org/api", Grant{"bob", Admin}), errdefs.ErrPermissionDenied)
	w.fails(AddTeamMember(ann, w.db, "org", "devs", "cid"), errdefs.ErrFailedPrecondition)
	w.fails(SetMember(ann, w.db, "org", "ann", false), errdefs.ErrFailedPrecondition)
	w.fails(RemoveMember(ann, w.db, "org", "ann"), errdefs.ErrFailedPrecondition)
	w.fails(DeleteAccount(ann, w.db, "org"), errdefs.ErrFailedPrecondition)
	w.fails(DeleteAccount(root, w.db, "ann"), errdefs.ErrFailedPrecondition)
	w.fails(DeleteAccount(root, w.db, "sam"), errdefs.ErrFailedPrecondition)
	w.fails(AddOrganization(bob, w.db, "org", ""), errdefs.ErrAlreadyExists)
	w.fails(AddOrganization(bob, w.db, "admin", ""), errdefs.ErrInvalidArgument)
	w.fails(AddTeam(ann, w.db, "org", "devs"), errdefs.ErrAlreadyExists)
	w.fails(SetGrant(ann, w.db, "ann/app", Grant{"org/devs", Read}), errdefs.ErrInvalidArgument)
	w.ok(SetGrant(ann, w.db, "ann/app", Grant{"bob", Read}))
	if got := w.role(bob, "ann/app"); got != Read {
		t.Errorf("by a grant: %v", got)
	}
	w.ok(SetGrant(ann, w.db, "ann/app", Grant{"bob", None}))
	if got := w.role(bob, "ann/app"); got != None {
		t.Errorf("after the grant was taken back: %v", got)
	}
	w.ok(SetGrant(ann, w.db, "org/api", Grant{"bob", Admin}))
	teams, err := Teams(bob, w.db, "org")
	if err != nil || len(teams) != 1 || len(teams[0].Members) != 1 {
		t.Errorf("teams: %v, %v", teams, err)
	}
	w.ok(RemoveMember(bob, w.db, "org", "bob")) // leaves
	if got := w.role(bob, "org/api"); got != None {
		t.Errorf("after leaving: %v", got)
	}
	w.ok(RemoveTeam(ann, w.db, "org", "devs"))
	grants, err := Grants(ann, w.db, "org/api")
	if err != nil || len(grants) != 0 {
		t.Errorf("grants: %v, %v", grants, err)
	}
	log, err := AuditLog(ann, w.db, AuditFilter{Repository: "org/api", Limit: 10})
	if err != nil || len(log) != 2 || log[0].Action != "grant.set" || log[0].Actor != "ann" || log[0].Address != "192.0.2.1:1" {
		t.Errorf("log: %+v, %v", log, err)
	}
	_, err = AuditLog(ann, w.db, AuditFilter{Limit: 10})
	w.fails(err, errdefs.ErrPermissionDenied)
	if log, err = AuditLog(root, w.db, AuditFilter{Action: "team.", Actor: "ann", Limit: 10}); err != nil || len(log) != 3 {
		t.Errorf("log of teams: %+v, %v", log, err)
	}
}

func TestTokens(t *testing.T) { engines(t, testTokens) }

func testTokens(t *testing.T, db *sqldb.DB) {
	w := newWorld(t, db)
	ann := w.as("ann")
	text, made, err := AddToken(ann, w.db, "ann", NewToken{Name: "laptop", Scopes: []Scope{{"ann/*", Write}}, Expires: time.Now().Add(time.Hour)})
	w.ok(err)
	id, err := Authenticate(w.as(""), w.db, "ann", text)
	w.ok(err)
	ctx := With(t.Context(), id)
	if w.role(ctx, "ann/app") != Write || w.role(ctx, "org/api") != None {
		t.Errorf("the token's roles: %v, %v", w.role(ctx, "ann/app"), w.role(ctx, "org/api"))
	}
	_, _, err = AddToken(ctx, w.db, "ann", NewToken{Name: "wider"})
	w.fails(err, errdefs.ErrPermissionDenied)
	w.fails(SetGrant(ctx, w.db, "ann/app", Grant{"bob", Admin}), errdefs.ErrPermissionDenied)
	w.fails(AddOrganization(ctx, w.db, "other", ""), errdefs.ErrPermissionDenied)
	if _, err := StartSession(ctx, w.db, id, "test"); err == nil {
		t.Error("a token opened a session")
	}
	for _, wrong := range []string{text[:len(text)-1] + "1", text[1:], text + "a", "sth_", strings.Replace(text, made.ID, "aaaaaaaaaaaa", 1)} {
		_, err := Authenticate(w.as(""), w.db, "ann", wrong)
		w.fails(err, errdefs.ErrUnauthenticated)
	}
	_, err = Authenticate(w.as(""), w.db, "bob", text)
	w.fails(err, errdefs.ErrUnauthenticated)
	list, err := Tokens(ann, w.db, "ann")
	if err != nil || len(list) != 1 || list[0].Used == nil || list[0].ID != made.ID {
		t.Errorf("tokens: %+v, %v", list, err)
	}
	w.exec(`UPDATE tokens SET expires = 1`)
	_, err = Authenticate(w.as(""), w.db, "ann", text)
	w.fails(err, errdefs.ErrUnauthenticated)

	robot, _, err := AddToken(ann, w.db, "org", NewToken{Name: "ci", Robot: true, Scopes: []Scope{{"org/*", Read}}})
	w.ok(err)
	if id, err = Authenticate(w.as(""), w.db, "org+ci", robot); err != nil || w.role(With(t.Context(), id), "org/api") != Read {
		t.Errorf("robot: %+v, %v", id, err)
	}
	yes := true
	w.ok(ChangeAccount(w.as("sam"), w.db, "org", AccountChange{Disabled: &yes}))
	_, err = Authenticate(w.as(""), w.db, "org+ci", robot)
	w.fails(err, errdefs.ErrUnauthenticated)

	for _, bad := range []NewToken{
		{Name: "A"},
		{Name: "ok", Robot: true},
		{Name: "ok", Expires: time.Unix(1, 0)},
		{Name: "ok", Scopes: []Scope{{"ann/ap*", Read}}},
		{Name: "ok", Scopes: []Scope{{"", Read}}},
		{Name: "ok", Scopes: []Scope{{"ann/app", None}}},
		{Name: "ok", Scopes: []Scope{{"ann/app", 9}}},
	} {
		_, _, err := AddToken(ann, w.db, "ann", bad)
		w.fails(err, errdefs.ErrInvalidArgument)
	}
}

func TestSessions(t *testing.T) { engines(t, testSessions) }

func testSessions(t *testing.T, db *sqldb.DB) {
	w := newWorld(t, db)
	cookie, err := StartSession(t.Context(), w.db, From(w.as("ann")), "test")
	w.ok(err)
	id, err := Session(t.Context(), w.db, cookie)
	if err != nil || id.Name != "ann" {
		t.Errorf("session: %+v, %v", id, err)
	}
	w.ok(SetPassword(w.as("ann"), w.db, "ann", secret, "another good secret"))
	_, err = Session(t.Context(), w.db, cookie)
	w.fails(err, errdefs.ErrUnauthenticated)
	w.fails(SetPassword(w.as("ann"), w.db, "ann", secret, "another good secret"), errdefs.ErrUnauthenticated)
	w.fails(SetPassword(w.as("ann"), w.db, "ann", "another good secret", "short"), errdefs.ErrInvalidArgument)
	if cookie, err = StartSession(t.Context(), w.db, From(w.as("bob")), "test"); err != nil {
		t.Fatal(err)
	}
	w.ok(EndSession(t.Context(), w.db, cookie))
	_, err = Session(t.Context(), w.db, cookie)
	w.fails(err, errdefs.ErrUnauthenticated)
}

// Browsers are listed to who is logged in by them, who ends them.
func TestListSessions(t *testing.T) { engines(t, testListSessions) }

func testListSessions(t *testing.T, db *sqldb.DB) {
	w := newWorld(t, db)
	at := func(name, address string) context.Context {
		id := From(w.as(name))
		id.Address = address
		return With(t.Context(), id)
	}
	one, err := StartSession(at("ann", "192.0.2.1:1"), w.db, From(w.as("ann")), "One/1\x00é")
	w.ok(err)
	two, err := StartSession(at("ann", "192.0.2.2:1"), w.db, From(w.as("ann")), strings.Repeat("x", 300))
	w.ok(err)
	_, err = StartSession(at("bob", "192.0.2.3:1"), w.db, From(w.as("bob")), "Bob/1")
	w.ok(err)
	if _, err := Session(at("ann", "192.0.2.9:1"), w.db, one); err != nil {
		t.Error(err)
	}
	list, err := Sessions(w.as("ann"), w.db, "ann", one)
	if err != nil || len(list) != 2 || !list[0].Current || list[0].Agent != "One/1" || list[0].Address != "192.0.2.9:1" || list[1].Current || len(list[1].Agent) != 200 {
		t.Fatalf("%+v, %v", list, err)
	}
	w.fails(EndSessions(w.as("bob"), w.db, "ann", list[1].ID, ""), errdefs.ErrNotFound)
	w.fails(EndSessions(w.as("ann"), w.db, "ann", list[1].ID[:4], ""), errdefs.ErrNotFound)
	w.fails(EndSessions(t.Context(), w.db, "ann", list[1].ID, ""), errdefs.ErrUnauthenticated)
	w.ok(EndSessions(w.as("ann"), w.db, "ann", list[1].ID, one))
	_, err = Session(t.Context(), w.db, two)
	w.fails(err, errdefs.ErrUnauthenticated)
	two, err = StartSession(at("ann", ""), w.db, From(w.as("ann")), "")
	w.ok(err)
	w.ok(EndSessions(w.as("ann"), w.db, "ann", "", one))
	_, err = Session(t.Context(), w.db, two)
	w.fails(err, errdefs.ErrUnauthenticated)
	_, err = Session(t.Context(), w.db, one)
	w.ok(err)
	if list, err = Sessions(w.as("sam"), w.db, "ann", ""); err != nil || len(list) != 1 || list[0].Current {
		t.Errorf("to an administrator: %+v, %v", list, err)
	}
	_, err = Sessions(w.as("bob"), w.db, "ann", "")
	w.fails(err, errdefs.ErrNotFound)
	w.ok(EndSessions(w.as("sam"), w.db, "ann", "", ""))
	_, err = Session(t.Context(), w.db, one)
	w.fails(err, errdefs.ErrUnauthenticated)
}

// Who guesses waits, wherever a name exists or not, and others do not.
func TestBruteForce(t *testing.T) { engines(t, testBruteForce) }

func testBruteForce(t *testing.T, db *sqldb.DB) {
	w := newWorld(t, db)
	for _, name := range []string{"ann", "absent"} {
		ctx := With(t.Context(), Identity{Address: "198.51.100.7:1"})
		for i := range freeByName {
			_, err := Authenticate(ctx, w.db, name, "wrong")
			if !errors.Is(err, errdefs.ErrUnauthenticated) {
				t.Fatalf("try %d: %v", i, err)
			}
		}
		var many *TooManyError
		if _, err := Authenticate(ctx, w.db, name, secret); !errors.As(err, &many) || many.Wait <= 0 || many.Wait > longestWait {
			t.Errorf("%s: after %d failures: %v", name, freeByName, err)
		}
	}
	if _, err := Authenticate(With(t.Context(), Identity{Address: "198.51.100.8:1"}), w.db, "ann", secret); err != nil {
		t.Errorf("from elsewhere: %v", err)
	}
	if _, err := Authenticate(With(t.Context(), Identity{Address: "198.51.100.7:1"}), w.db, "bob", secret); err != nil {
		t.Errorf("another name: %v", err)
	}
}

// Tries that come all at once gain nothing by it.
func TestBruteForceConcurrent(t *testing.T) { engines(t, testBruteForceConcurrent) }

func testBruteForceConcurrent(t *testing.T, db *sqldb.DB) {
	w := newWorld(t, db)
	ctx := With(t.Context(), Identity{Address: "[2001:db8::1]:9"})
	var mu sync.Mutex
	var wg sync.WaitGroup
	tried := 0
	for range 40 {
		wg.Go(func() {
			_, err := Authenticate(ctx, w.db, "ann", "wrong")
			mu.Lock()
			defer mu.Unlock()
			if errors.Is(err, errdefs.ErrUnauthenticated) {
				tried++
			}
		})
	}
	wg.Wait()
	if tried > freeByName+cap(hashing) {
		t.Errorf("%d tries were looked at", tried)
	}
}

// CVE-2023-20902 and user enumeration by time: names that are not there, that
// have no password and that are disabled cost the same hash.
func TestCVE_2023_20902_Timing(t *testing.T) {
	w := newWorld(t, openDatabase(t, filepath.Join(t.TempDir(), "hub.db")))
	w.exec(`UPDATE accounts SET password = '' WHERE name = 'cid'`)
	used := func() time.Duration { // of the processors, which others do not make longer
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			t.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	cheapest := func(name string) time.Duration {
		best := time.Hour
		for i := range 2 {
			start := used()
			_, err := Authenticate(With(t.Context(), Identity{Address: "203.0.113." + string(rune('1'+i)) + ":1"}), w.db, name, "wrong")
			w.fails(err, errdefs.ErrUnauthenticated)
			best = min(best, used()-start)
		}
		return best
	}
	there := cheapest("ann")
	for _, name := range []string{"absent", "cid", "org", strings.Repeat("x", 5000)} {
		if got := cheapest(name); got < there/8 { // without the hash it is a hundredth
			t.Errorf("%.10s takes %v, ann %v", name, got, there)
		}
	}
}

// CVE-2026-4404: there is no account before somebody made one, and none without
// a password of its own.
func TestCVE_2026_4404_NoDefaultPassword(t *testing.T) {
	engines(t, testCVE_2026_4404_NoDefaultPassword)
}

func testCVE_2026_4404_NoDefaultPassword(t *testing.T, db *sqldb.DB) {
	w := newWorld(t, db)
	w.exec(`UPDATE accounts SET password = ''`)
	for _, name := range []string{"sam", "ann", "admin", "operator", ""} {
		for _, password := range []string{"", "Harbor12345"} {
			ctx := With(t.Context(), Identity{Address: password + name})
			_, err := Authenticate(ctx, w.db, name, password)
			w.fails(err, errdefs.ErrUnauthenticated)
		}
	}
	if a, b := NewPassword(), NewPassword(); a == b || CheckPassword(a) != nil || len(a) != 27 {
		t.Errorf("passwords %s, %s", a, b)
	}
}
