package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
)

// Exit statuses of the command line.
const (
	exitOK        = 0
	exitError     = 1
	exitUsage     = 2
	exitNotFound  = 3
	exitConflict  = 4
	exitUnhealthy = 5
	exitPartial   = 6
)

// usageError is a command line that cannot be understood.
type usageError struct {
	message, next string
}

func (e *usageError) Error() string { return e.message }

// usage makes a usageError that points to the command's help.
func usage(cmd *cobra.Command, format string, args ...any) error {
	return &usageError{message: fmt.Sprintf(format, args...), next: "see: " + cmd.CommandPath() + " --help"}
}

// statusError ends the command with a status of its own; an empty message prints nothing, because the output said it all.
type statusError struct {
	status        int
	message, next string
	cause         error
}

func (e *statusError) Error() string { return e.message }
func (e *statusError) Unwrap() error { return e.cause }

// timeoutError is the end of --timeout.
type timeoutError struct{ after time.Duration }

func (e *timeoutError) Error() string { return fmt.Sprintf("not done after %s", e.after) }

// exit prints an error as a person wants to read it, and returns the exit status.
func (a *app) exit(err error) int {
	if err == nil {
		return exitOK
	}
	status, message, next := explain(err)
	if message == "" {
		return status
	}
	var remote *api.Error
	if errors.As(err, &remote) && len(remote.Servers) > 0 {
		next = "ask a server host, DIR being an operator's certificate: " + onServer(a.args, remote.Servers[0])
	}
	next = a.here(next)
	fmt.Fprintln(a.err, a.paint(a.err, red, "Error:")+" "+strings.ReplaceAll(message, "\n", "\n       "))
	if next != "" {
		fmt.Fprintln(a.err, a.paint(a.err, bold, " Next:")+" "+next)
	}
	return status
}

// explain finds status, message and next step of an error.
func explain(err error) (status int, message, next string) {
	var (
		bad     *usageError
		own     *statusError
		remote  *api.Error
		timeout *timeoutError
	)
	switch {
	case errors.As(err, &bad):
		return exitUsage, bad.message, bad.next
	case errors.As(err, &own):
		return own.status, own.message, own.next
	case errors.As(err, &remote):
		return kindOf(err), plain(strings.TrimSuffix(err.Error(), "; "+remote.Next)), remote.Next
	case errors.As(err, &timeout):
		return exitError, err.Error(), "give it longer with --timeout, or see what holds it up: weft status"
	case errors.Is(err, context.Canceled):
		return exitError, "interrupted", ""
	}
	return kindOf(err), plain(err.Error()), ""
}

// endless are words longer than any name may be.
var endless = regexp.MustCompile(fmt.Sprintf(`([A-Za-z0-9_-]{24})[A-Za-z0-9_-]{%d,}`, fabric.MaxName-23))

// plain is an error's text without what only programs want to know: its identity at the end, and names that go on for ever.
func plain(text string) string {
	for _, identity := range []error{fabric.ErrNotFound, fabric.ErrConflict, fabric.ErrInvalid, fabric.ErrStaleEpoch, api.ErrForbidden, api.ErrUnavailable} {
		text = strings.TrimSuffix(text, ": "+identity.Error())
	}
	return endless.ReplaceAllString(text, "$1…")
}

// kindOf is the exit status of an error's identity.
func kindOf(err error) int {
	switch {
	case errors.Is(err, fabric.ErrNotFound):
		return exitNotFound
	case errors.Is(err, fabric.ErrConflict), errors.Is(err, fabric.ErrStaleEpoch):
		return exitConflict
	}
	return exitError
}

// unknownCommand is the root's Args: a word that is no command.
func (a *app) unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	e := &usageError{message: fmt.Sprintf("there is no command %q", args[0]), next: "see what there is: weft --help"}
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		e.next = "did you mean: weft " + strings.Join(near, ", weft ") + "?"
	}
	return e
}

// exactly checks the number of arguments and names those that are missing.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usage(cmd, "%s: %s is missing", cmd.CommandPath(), strings.Join(names[len(args):], " and "))
		case len(args) > len(names):
			return usage(cmd, "%s: %q is one word too many; it takes %s", cmd.CommandPath(), args[len(names)], many(names))
		}
		return nil
	}
}

func many(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, " ")
}

// between checks that there are at least the required and at most all of the arguments.
func between(required int, names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= required && len(args) <= len(names) {
			return nil
		}
		if len(args) < required {
			return exactly(names[:required]...)(cmd, args)
		}
		return exactly(names...)(cmd, args)
	}
}

// badFlag says what is wrong with a flag.
func badFlag(cmd *cobra.Command, err error) error {
	var value *pflag.InvalidValueError
	if !errors.As(err, &value) {
		return usage(cmd, "%v", err)
	}
	kinds := map[string]string{
		"int": "a whole number", "uint32": "a whole number", "float64": "a number", "duration": "a duration, such as 30s or 5m",
		"bool": "true or false", "stringToString": "NAME=VALUE",
	}
	f := value.GetFlag()
	return usage(cmd, "--%s %q is not %s", f.Name, value.GetValue(), kinds[f.Value.Type()])
}

// need makes a flag required, and says so in words.
func need(cmd *cobra.Command, flag, example string) {
	_ = cmd.MarkFlagRequired(flag) // for completion
	needOne(cmd, flag, flag, example)
}

// needOne requires a flag, which it gives an example of, or another that stands for it.
func needOne(cmd *cobra.Command, flag, other, example string) {
	before := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		if !cmd.Flags().Changed(flag) && !cmd.Flags().Changed(other) {
			return &usageError{message: fmt.Sprintf("%s: --%s is missing", cmd.CommandPath(), flag), next: "for example: --" + flag + " " + example}
		}
		if before != nil {
			return before(cmd, args)
		}
		return nil
	}
}
