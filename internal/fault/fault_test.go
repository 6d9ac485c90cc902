package fault

import (
	"errors"
	"fmt"
	"testing"
)

func TestFault(t *testing.T) {
	wrong := errors.New("wrong")
	name := In("name", fmt.Errorf("name: %w", wrong))
	for _, c := range []struct {
		err  error
		want string
	}{
		{nil, ""},
		{wrong, ""},
		{name, "name"},
		{fmt.Errorf("add: %w", name), "name"},
		{In("other", name), "name"},
		{errors.Join(nil, name, In("email", wrong)), "name"},
	} {
		got := ""
		if e := Of(c.err); e != nil {
			got = e.Field
		}
		if got != c.want {
			t.Errorf("%v: field %q, want %q", c.err, got, c.want)
		}
	}
	if In("name", nil) != nil || !errors.Is(name, wrong) || name.Error() != "name: wrong" {
		t.Errorf("%v", name)
	}
}
