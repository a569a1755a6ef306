package lab

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/weftnet/weft/fabric"
)

// Helper carries out the commands a lab runs its own program with, `weft lab pump …` and `weft lab hook …`; args are what
// follows `weft lab`. People have no use for them.
func Helper(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	switch {
	case len(args) == 2 && args[0] == "pump":
		return RunPump(ctx, args[1])
	case len(args) >= 2 && args[0] == "hook":
		return hook(ctx, args[1], args[2:], in, out)
	}
	return fmt.Errorf("weft lab %v: not a command of the lab's own", args)
}

func hook(ctx context.Context, name string, args []string, in io.Reader, out io.Writer) error {
	flags := flag.NewFlagSet("weft lab hook "+name, flag.ContinueOnError)
	flags.SetOutput(os.Stderr)
	dir := flags.String("dir", "", "the lab's directory")
	host := flags.String("host", "", "the host the hook runs on")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if name == "cable" {
		delay, err := time.ParseDuration(flags.Arg(0))
		if err != nil {
			return err
		}
		return RunCable(ctx, delay)
	}
	l, err := OpenDir(*dir)
	if err != nil {
		return err
	}
	switch name {
	case "incoming":
		return l.Incoming(ctx, fabric.HostID(*host), in, out)
	case "keep":
		return l.Keep(ctx, fabric.HostID(*host), flags.Arg(0), fabric.MoveID(flags.Arg(1)))
	}
	return fmt.Errorf("there is no hook %q", name)
}
