package main

import (
	"context"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/api/client"
)

// app is one run of the command line: its flags, where it reads and writes, and the agent it talks to.
type app struct {
	in       io.Reader
	out, err io.Writer
	// args are the words of the command line after weft.
	args []string

	socket, server, cert string
	lab, host            string
	output, color        string
	noHeaders, quiet     bool
	wait                 bool
	timeout, confirm     time.Duration
	traces               string

	agent *client.Client
	// inLab is true when the agent is a lab's.
	inLab bool
	spans spans
}

func newApp(in io.Reader, out, err io.Writer) *app {
	return &app{in: in, out: out, err: err, args: os.Args[1:]}
}

// close lets go of the agent and sends the last spans.
func (a *app) close() {
	if a.agent != nil {
		a.agent.Close()
	}
	a.spans.close()
}

// root is the tree of commands.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "weft",
		Short: "One virtual switch for a whole fleet of Linux hosts",
		Long: "weft is a distributed virtual switch: define a switch once and it exists on every host; plug a VM in and its\n" +
			"settings, its connections and its traces follow it wherever it moves.",
		Example:       "  sudo weft lab up\n  weft create switch blue --type private --subnet 10.10.0.0/24\n  weft status",
		SilenceErrors: true, SilenceUsage: true,
		Args: a.unknownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SuggestionsMinimumDistance = 2
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetFlagErrorFunc(badFlag)
	a.globalFlags(root)
	root.AddGroup(&cobra.Group{ID: "fabric", Title: "The fabric:"}, &cobra.Group{ID: "watch", Title: "What happens:"}, &cobra.Group{ID: "host", Title: "Hosts and labs:"})
	grouped(root, "fabric", a.createCommand(), a.getCommand(), a.describeCommand(), a.setCommand(), a.deleteCommand(), a.renameCommand(), a.applyCommand(), a.diffCommand(), a.lintCommand(), a.exportCommand(), a.confirmCommand(), a.migrateCommand(), a.drainCommand(), a.abortCommand())
	grouped(root, "watch", a.statusCommand(), a.whyCommand(), a.testCommand(), a.traceCommand(), a.probeCommand(), a.dropsCommand(), a.macsCommand(), a.topCommand(), a.observeCommand(), a.eventsCommand(), a.doctorCommand())
	grouped(root, "host", a.hostCommands()...)
	root.AddCommand(a.versionCommand())
	root.SetHelpCommandGroupID("host")
	root.SetCompletionCommandGroupID("host")
	return root
}

// grouped adds commands under a heading.
func grouped(root *cobra.Command, id string, commands ...*cobra.Command) {
	for _, c := range commands {
		if !c.Hidden {
			c.GroupID = id
		}
		root.AddCommand(c)
	}
}

// globalFlags are the flags every command has.
func (a *app) globalFlags(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVar(&a.socket, "socket", os.Getenv("WEFT_SOCKET"), "unix socket of the agent to ask (WEFT_SOCKET)")
	f.StringVar(&a.server, "server", os.Getenv("WEFT_SERVER"), "HOST:PORT of the agent to ask over mutual TLS (WEFT_SERVER)")
	f.StringVar(&a.cert, "cert", os.Getenv("WEFT_CERT"), "directory with an operator's ca.crt, tls.crt and tls.key: for --server, and for changes where this host cannot write (WEFT_CERT)")
	f.StringVar(&a.lab, "lab", os.Getenv("WEFT_LAB"), "lab to use, when several run (WEFT_LAB)")
	f.StringVar(&a.host, "host", "", "host whose agent to ask")
	f.StringVarP(&a.output, "output", "o", "table", "table, wide, json, yaml or name")
	f.StringVar(&a.color, "color", "auto", "auto, always or never; NO_COLOR is honoured")
	f.BoolVar(&a.noHeaders, "no-headers", false, "leave the head of tables out")
	f.BoolVarP(&a.quiet, "quiet", "q", false, "no progress on standard error")
	f.StringVar(&a.traces, "otlp", os.Getenv("WEFT_TRACES"), "send this command's spans to an OTLP endpoint, or append them to a file (WEFT_TRACES)")
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "wide", "json", "yaml", "name"}, cobra.ShellCompDirectiveNoFileComp))
	_ = root.RegisterFlagCompletionFunc("color", cobra.FixedCompletions([]string{"auto", "always", "never"}, cobra.ShellCompDirectiveNoFileComp))
	_ = root.RegisterFlagCompletionFunc("host", a.completeNames("host"))
}

// waitFlags are the flags of commands that change something.
func (a *app) waitFlags(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().BoolVar(&a.wait, "wait", true, "wait until the change is in force on every live host")
	a.timeoutFlag(cmd, 30*time.Second)
	return cmd
}

// confirmFlag is --confirm, for changes that could cut off who makes them.
func (a *app) confirmFlag(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().DurationVar(&a.confirm, "confirm", 0, "undo the change after this time, up to 1h, unless weft confirm keeps it")
	return cmd
}

// timeoutFlag is --timeout with a default of the command's own.
func (a *app) timeoutFlag(cmd *cobra.Command, usual time.Duration) {
	var timeout time.Duration
	cmd.Flags().DurationVar(&timeout, "timeout", usual, "how long to wait")
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		a.timeout = timeout
		return run(cmd, args)
	}
}

// limited is the command's context with --timeout.
func (a *app) limited(ctx context.Context) (context.Context, context.CancelFunc) {
	if a.timeout <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, a.timeout, &timeoutError{a.timeout})
}
