package datapath

import (
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestHurryProcess is no test but a process that hurries until it is killed.
func TestHurryProcess(t *testing.T) {
	if os.Getenv("WEFT_TEST_HURRY") == "" {
		return
	}
	hurry(slog.New(slog.DiscardHandler))
	os.Stdout.WriteString("hurries\n")
	os.Stdin.Read(make([]byte, 1))
}

// hurrying starts that process.
func hurrying(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestHurryProcess$")
	cmd.Env = append(os.Environ(), "WEFT_TEST_HURRY=1")
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func expedited(t *testing.T) bool {
	t.Helper()
	text, err := os.ReadFile(expeditedSwitch)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text)) != "0"
}

// alone waits until no other process of this machine hurries, and keeps others from it.
func alone(t *testing.T) (release func()) {
	t.Helper()
	note, err := os.OpenFile(expeditedNote, os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		err = unix.Flock(int(note.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() { note.Close() }
}

func TestTheKernelIsHurriedAsLongAsSomebodyNeedsIt(t *testing.T) {
	alone(t)()
	if expedited(t) {
		hurry(slog.Default())() // what a process that was killed has left
	}
	first := hurry(slog.Default())
	second := hurrying(t)
	if !expedited(t) {
		t.Fatal("grace periods are not expedited")
	}
	first()
	if !expedited(t) {
		t.Fatal("one that is done has ended it for another that is not")
	}
	if err := second.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = second.Wait()
	hurry(slog.Default())()
	release := alone(t)
	defer release()
	if expedited(t) {
		t.Error("what a killed process has left is not put right by the next")
	}
}
