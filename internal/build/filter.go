package build

import (
	"fmt"
	"path"

	"github.com/moby/patternmatcher"
)

// filtered is a tree of which a walk shows a part: what matches include, without
// what matches exclude, and the directories that lead there. Patterns are those
// of an ignore file, relative to where the walk begins; that itself is always
// shown.
type filtered struct {
	tree
	include []string // empty: everything
	exclude []string
}

// filterLevel is a directory on the way to the file that a walk is at.
type filterLevel struct {
	node             node
	shown            bool
	include, exclude patternmatcher.MatchInfo
}

func (t filtered) walk(name string, fn func(node) error) error {
	include, err := matcher(t.include)
	if err != nil {
		return err
	}
	exclude, err := matcher(t.exclude)
	if err != nil {
		return err
	}
	var way []filterLevel
	return t.tree.walk(name, func(n node) error {
		if n.path == name {
			way = append(way, filterLevel{node: n, shown: true})
			return fn(n)
		}
		for path.Dir(n.path) != way[len(way)-1].node.path {
			way = way[:len(way)-1]
		}
		rel, above := below(name, n.path), &way[len(way)-1]
		at := filterLevel{node: n, shown: true}
		if include != nil {
			if at.shown, at.include, err = include.MatchesUsingParentResults(rel, above.include); err != nil {
				return err
			}
		}
		if exclude != nil {
			var out bool
			if out, at.exclude, err = exclude.MatchesUsingParentResults(rel, above.exclude); err != nil {
				return err
			}
			at.shown = at.shown && !out
		}
		if at.shown {
			if err := showWay(way, fn); err != nil {
				return err
			}
		}
		if n.mode.IsDir() {
			way = append(way, at)
		}
		if !at.shown {
			return nil
		}
		return fn(n)
	})
}

// showWay shows the directories that no pattern named, and that something below
// them needs.
func showWay(way []filterLevel, fn func(node) error) error {
	for i := range way {
		if way[i].shown {
			continue
		}
		way[i].shown = true
		n := way[i].node
		n.implied = true
		if err := fn(n); err != nil {
			return err
		}
	}
	return nil
}

func matcher(patterns []string) (*patternmatcher.PatternMatcher, error) {
	if len(patterns) == 0 {
		return nil, nil
	}
	m, err := patternmatcher.New(patterns)
	if err == nil {
		_, err = m.MatchesOrParentMatches("x") // patterns are compiled when first matched
	}
	if err != nil {
		return nil, fmt.Errorf("invalid patterns %q: %w", patterns, err)
	}
	return m, nil
}
