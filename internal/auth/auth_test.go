package auth

import (
	"context"
	"database/sql"
	"fmt"
	"testing"

	"strake/internal/sqldb"
)

func TestRoleOf(t *testing.T) { engines(t, testRoleOf) }

func testRoleOf(t *testing.T, db *sqldb.DB) {
	const ann, bob, org, cid = 1, 2, 3, 4
	err := db.Update(t.Context(), func(tx *sql.Tx) error {
		for _, q := range []string{
			`INSERT INTO accounts (id, name, organization, created) VALUES (1, 'ann', 0, 1), (2, 'bob', 0, 1), (3, 'org', 1, 1), (4, 'cid', 0, 1)`,
			`INSERT INTO members (organization, account, owner) VALUES (3, 1, 1), (3, 2, 0)`,
			`INSERT INTO repositories (id, name, namespace, public) VALUES (1, 'ann/app', 'ann', 0), (2, 'ann/site', 'ann', 1), (3, 'org/api', 'org', 0), (4, 'alone', '', 1)`,
			`INSERT INTO teams (id, organization, name) VALUES (1, 3, 'devs')`,
			`INSERT INTO team_members (team, account) VALUES (1, 2)`,
			`INSERT INTO grants (repository, account, team, role) VALUES (1, 4, NULL, 1), (3, NULL, 1, 2)`,
		} {
			if _, err := tx.ExecContext(t.Context(), q); err != nil {
				return fmt.Errorf("%s: %w", q, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	user := func(n int64) Identity { return Identity{Account: n} }
	for _, c := range []struct {
		id   Identity
		repo string
		want Role
	}{
		{Identity{}, "ann/app", None},
		{Identity{}, "ann/site", Read},
		{Identity{}, "", None},
		{Identity{}, "alone", Read},
		{Identity{System: true}, "alone", Admin},
		{Identity{Account: 9, Admin: true}, "ann/app", Admin},
		{user(ann), "ann/app", Admin},
		{user(ann), "ann/new", Admin},
		{user(ann), "annex/new", None},
		{user(ann), "alone", Read},
		{user(ann), "new", None},
		{user(ann), "org/api", Admin}, // owns the organization
		{user(bob), "org/api", Write}, // by the team
		{user(bob), "org/new", None},
		{user(cid), "ann/app", Read},
		{user(cid), "org/api", None},
		{user(org), "org/api", Admin},
		{user(ann).WithScopes([]Scope{{"ann/*", Read}}), "ann/app", Read},
		{user(ann).WithScopes([]Scope{{"ann/app", Write}}), "ann/app", Write},
		{user(ann).WithScopes([]Scope{{"ann/app", Write}}), "ann/new", None},
		{user(ann).WithScopes([]Scope{{"ann/app", Write}}).WithScopes([]Scope{{"ann/app", Admin}}), "ann/app", Write},
		{user(ann).WithScopes(nil), "ann/app", None},
		{Identity{Account: 9, Admin: true}.WithScopes([]Scope{{"x/*", Admin}}), "ann/app", None},
	} {
		var got Role
		err := db.View(t.Context(), func(tx *sql.Tx) (err error) {
			got, err = RoleOf(t.Context(), tx, c.id, c.repo)
			return err
		})
		if err != nil || got != c.want {
			t.Errorf("%+v, %q: %v, %v, want %v", c.id, c.repo, got, err, c.want)
		}
	}
	if id := From(With(context.Background(), user(ann))); id.Account != ann {
		t.Errorf("from the context: %+v", id)
	}
}
