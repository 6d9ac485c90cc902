package catalog

import (
	"context"
	"fmt"
)

// PostgreSQL's trigram index gives all the texts that have a word, in no order: for
// a word that many have, reading texts in their order until there are enough is
// less work. Which of both is known from the most popular ones.
const (
	sampled = 1000    // texts that are tried
	texts   = 100_000 // that there are about, where the choice matters
	// perHit is what one hit of the index costs, to read the text and sort it, in
	// texts that are read in their order.
	perHit = 2
)

// byTextPostgreSQL finds repositories in whose text the words are.
func (s *search) byTextPostgreSQL(ctx context.Context, words []string) (err error) {
	indexed, read := s.where(), s.where()
	for _, word := range words {
		indexed.add("text LIKE ?", "%"+word+"%")
		read.add("text || '' LIKE ?", "%"+word+"%") // by no index
	}
	common, err := s.common(ctx, read)
	if err != nil {
		return err
	}
	if !common {
		return s.amongTexts(ctx, indexed)
	}
	end, err := s.inOrder(ctx)
	if err != nil {
		return err
	}
	if err := s.amongTexts(ctx, read); err != nil {
		return err
	}
	return end()
}

// common tells whether the texts that fulfil hits are so many that they are rather
// read in their order.
func (s *search) common(ctx context.Context, hits *where) (bool, error) {
	n := 0
	err := s.tx.QueryRowContext(ctx, fmt.Sprintf(`SELECT count(*) FROM (SELECT * FROM repository_texts ORDER BY rowid LIMIT %d) AS t
		WHERE %s AND CAST($1 AS BIGINT) >= 0`, sampled, hits), hits.args...).Scan(&n)
	return perHit*texts*n*n > s.looked()*sampled*sampled, err
}

// inOrder has PostgreSQL read tables in the order of an index, until end.
func (s *search) inOrder(ctx context.Context) (end func() error, err error) {
	set := func(to string) error {
		_, err := s.tx.ExecContext(ctx, "SELECT set_config('enable_seqscan', $1, true), set_config('enable_sort', $1, true)", to)
		return err
	}
	return func() error { return set("on") }, set("off")
}
