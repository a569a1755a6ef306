package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/weftnet/weft/internal/lab"
)

// TestStory plays the stories of testdata/story: a whole lab each, as a person would use it.
func TestStory(t *testing.T) {
	if err := lab.NeedRoot(); err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/story",
		Setup: func(env *testscript.Env) error {
			name := fmt.Sprintf("s%d", os.Getpid()%1_000_000)
			env.Setenv("WEFT_LAB", name)
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
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"status": statusCommand},
	})
}
