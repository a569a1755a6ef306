// Command weft is the one binary of weft: the agent of a host, the command line of the fabric, and the lab. Flags in, calls
// out: what it does is in the packages it calls.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// version is set by the build.
var version = "dev"

func main() {
	os.Exit(run())
}

// run is main with an exit status, so that deferred work happens.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	a := newApp(os.Stdin, os.Stdout, os.Stderr)
	defer a.close()
	return a.exit(a.root().ExecuteContext(ctx))
}
