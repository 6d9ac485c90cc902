package engine

import (
	"strings"
	"testing"
)

func TestReadInventory(t *testing.T) {
	a, b := "sha256:"+strings.Repeat("a", 64), "sha256:"+strings.Repeat("b", 64)
	list, err := ReadInventory(strings.NewReader(inventoryHeader + "\n" + a + "\n" + b + "\n" + a + "\n"))
	if err != nil || len(list) != 2 {
		t.Errorf("%v, %v", list, err)
	}
	for name, text := range map[string]string{
		"empty": "", "no header": a + "\n", "another version": "# strake inventory 2\n" + a + "\n",
		"no digest": inventoryHeader + "\nsha256:../../x\n", "empty line": inventoryHeader + "\n\n",
		"endless line": inventoryHeader + "\n" + strings.Repeat("a", 1<<20),
	} {
		if list, err := ReadInventory(strings.NewReader(text)); err == nil {
			t.Errorf("%s: %v", name, list)
		}
	}
}
