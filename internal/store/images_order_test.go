package store

import (
	"testing"
	"time"
)

// The newest image is the first, one without a time the last; the ID decides between those of one time.
func TestNewestFirst(t *testing.T) {
	at := time.Unix(1700000000, 0)
	list := newestFirst([]Image{{ID: "c", Created: at}, {ID: "z"}, {ID: "a", Created: at}, {ID: "y", Created: time.Unix(-1e9, 0)}, {ID: "b", Created: at.Add(1)}})
	var got string
	for _, img := range list {
		got += img.ID.String()
	}
	if got != "bacyz" {
		t.Errorf("the order is %s", got)
	}
}
