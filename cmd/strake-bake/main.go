// Command strake-bake reads bake files for strake: see package bake.
package main

import (
	"fmt"
	"os"

	"strake/internal/bakefile"
)

func main() {
	if err := bakefile.Serve(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "strake-bake:", err)
		os.Exit(1)
	}
}
