package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/internal/lab"
)

// TestStory plays the stories of testdata/story: a whole lab each, as a person would use it.
func TestStory(t *testing.T) { play(t, "testdata/story") }

func TestLabDownLeavesNothing(t *testing.T) { play(t, "testdata/down") }

// play plays the scripts of a directory, each with a lab of its own.
func play(t *testing.T, dir string) {
	t.Helper()
	if err := lab.NeedRoot(); err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: dir,
		Setup: func(env *testscript.Env) error {
			name := fmt.Sprintf("%.3s%d", filepath.Base(env.WorkDir)[len("script-"):], os.Getpid()%1_000_000)
			env.Setenv("WEFT_LAB", name)
			if err := begin(env, name); err != nil {
				return err
			}
			env.Setenv("HOME", "/root") // where what the virtual machines are built from is kept
			env.Defer(func() {
				l, err := lab.Open(name)
				if errors.Is(err, fs.ErrNotExist) {
					return
				}
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				if err == nil {
					err = l.Down(ctx)
				}
				if err != nil {
					t.Errorf("clean up after the story: %v", err)
				}
			})
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": statusCommand, "onetrace": oneTrace, "killagent": killAgent, "unhealthy": unhealthy, "shows": shows,
			"remember": rememberCommand, "gone": goneCommand, "until": untilCommand,
		},
	})
}

// within repeats a look until it holds, for at most 30 s.
func within(ts *testscript.TestScript, what string, holds func() bool) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(30 * time.Second); !holds(); {
		select {
		case <-tick.C:
		case <-deadline:
			ts.Fatalf("%s did not come within 30 s", what)
		}
	}
}

// oneTrace checks that hosts have spans of the trace of a change: onetrace FILE HOST…
func oneTrace(ts *testscript.TestScript, neg bool, args []string) {
	var change struct{ TraceID string }
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &change))
	l, err := lab.Open(ts.Getenv("WEFT_LAB"))
	ts.Check(err)
	for _, host := range args[1:] {
		within(ts, "a span of trace "+change.TraceID+" on "+host, func() bool {
			b, err := os.ReadFile(filepath.Join(l.Dir, host, "state", "spans", "spans.jsonl"))
			return err == nil && strings.Contains(string(b), change.TraceID)
		})
	}
}

// killAgent ends a host's agent with SIGKILL: killagent HOST
func killAgent(ts *testscript.TestScript, neg bool, args []string) {
	l, err := lab.Open(ts.Getenv("WEFT_LAB"))
	ts.Check(err)
	ts.Check(l.KillAgent(fabric.HostID(args[0])))
}

// shows repeats a command until it succeeds and a line of what it says is as wanted: shows REGEXP weft describe port b
func shows(ts *testscript.TestScript, neg bool, args []string) {
	wanted, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	within(ts, args[0], func() bool { return ts.Exec(args[1], args[2:]...) == nil && wanted.MatchString(ts.ReadFile("stdout")) })
}

// unhealthy waits until weft status names a problem; the last output is kept: unhealthy TEXT
func unhealthy(ts *testscript.TestScript, neg bool, args []string) {
	within(ts, args[0], func() bool {
		err := ts.Exec("weft", "status")
		var exit interface{ ExitCode() int }
		return errors.As(err, &exit) && exit.ExitCode() == exitUnhealthy && strings.Contains(ts.ReadFile("stdout"), args[0])
	})
}
