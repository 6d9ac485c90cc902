// Command strake builds, stores, moves and runs container images.
package main

import (
	"context"
	"os"

	"strake/internal/cli"
)

func main() {
	os.Exit(cli.Main(context.Background(), os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
}
