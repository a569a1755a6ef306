package qmp

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// qemu starts a machine without disks or NICs in software emulation and returns the path of its monitor.
func qemu(t *testing.T, name string, arguments ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	binary, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Fatalf("this test needs QEMU: apt-get install qemu-system-x86: %v", err)
	}
	cmd := exec.Command(binary, append([]string{
		"-name", name, "-machine", "q35,accel=tcg", "-m", "16", "-nodefaults", "-display", "none", "-no-user-config",
		"-qmp", fmt.Sprintf("unix:%s,server=on,wait=off", path),
	}, arguments...)...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return path
}

func watch(t *testing.T, path string) *Guest {
	t.Helper()
	g := Watch(path, Options{})
	t.Cleanup(func() { g.Close() })
	return g
}

// until reads events up to the first of one of the kinds, and returns them all.
func until(t *testing.T, g *Guest, kinds ...Kind) []Event {
	t.Helper()
	var got []Event
	for {
		select {
		case e, open := <-g.Events():
			if !open {
				t.Fatalf("the events ended after %v, before %q", got, kinds)
			}
			got = append(got, e)
			if slices.Contains(kinds, e.Kind) {
				return got
			}
		case <-limited(t).Done():
			t.Fatalf("%q did not come, only %v", kinds, got)
		}
	}
}

// pair is a running machine and one that waits for it.
func pair(t *testing.T) (source, destination *Guest, uri string) {
	t.Helper()
	uri = "unix:" + filepath.Join(t.TempDir(), "stream")
	source, destination = watch(t, qemu(t, "source")), watch(t, qemu(t, "destination", "-incoming", uri))
	expect(t, source, Idle, Runs)
	until(t, destination, Stops)
	return source, destination, uri
}

// both waits for two kinds whose order QEMU does not promise.
func both(t *testing.T, g *Guest, a, b Kind) {
	t.Helper()
	var got []Event
	seen := map[Kind]bool{}
	for !seen[a] || !seen[b] {
		select {
		case e, open := <-g.Events():
			if !open {
				t.Fatalf("the events ended after %v", got)
			}
			got = append(got, e)
			seen[e.Kind] = true
		case <-limited(t).Done():
			t.Fatalf("only %v came, want %q and %q", got, a, b)
		}
	}
}

// quiet fails when an event of the kind is already waiting to be read.
func quiet(t *testing.T, g *Guest, kind Kind) {
	t.Helper()
	for {
		select {
		case e, open := <-g.Events():
			if open && e.Kind == kind {
				t.Fatalf("unexpected %+v", e)
			}
			if !open {
				return
			}
		default:
			return
		}
	}
}

func TestQEMUMovesAGuest(t *testing.T) {
	source, destination, uri := pair(t)
	if err := source.Migrate(limited(t), uri); err != nil {
		t.Fatal(err)
	}
	before := until(t, source, Waiting)
	stop := before[len(before)-2]
	if stop.Kind != Stops {
		t.Fatalf("before the switchover came %v, want the stop last", before)
	}
	quiet(t, destination, Runs)
	if err := source.Continue(limited(t)); err != nil {
		t.Fatal(err)
	}
	until(t, source, Completed)
	arrived := until(t, destination, Runs)
	resume := arrived[len(arrived)-1]
	if pause := resume.Time.Sub(stop.Time); pause <= 0 {
		t.Errorf("RESUME %v is not after STOP %v", resume.Time, stop.Time)
	} else {
		t.Logf("STOP to RESUME by QEMU's clock: %v", pause)
	}
	quiet(t, source, Runs)
	if err := source.Quit(limited(t)); err != nil {
		t.Error(err)
	}
	until(t, source, Gone)
	if err := destination.Announce(limited(t)); err != nil {
		t.Error(err)
	}
}

func TestQEMUCancelBeforeTheSwitchoverResumesTheSource(t *testing.T) {
	source, destination, uri := pair(t)
	if err := source.Migrate(limited(t), uri); err != nil {
		t.Fatal(err)
	}
	until(t, source, Waiting)
	if err := source.Cancel(limited(t)); err != nil {
		t.Fatal(err)
	}
	both(t, source, Runs, Cancelled)
	quiet(t, destination, Runs)
}

// When the destination dies, what is left of a small guest may already be in the socket: QEMU then either fails and lets
// the guest run, or completes and believes it gone. Only somebody who watches the destination can tell, and resume it.
func TestQEMUDestinationDiesBeforeTheSwitchover(t *testing.T) {
	source, destination, uri := pair(t)
	if err := source.Migrate(limited(t), uri); err != nil {
		t.Fatal(err)
	}
	until(t, source, Waiting)
	if err := destination.Quit(limited(t)); err != nil {
		t.Fatal(err)
	}
	until(t, destination, Gone)
	if err := source.Continue(limited(t)); err != nil {
		t.Fatal(err)
	}
	for {
		select {
		case e := <-source.Events():
			switch e.Kind {
			case Completed:
				t.Log("the source completed into a dead socket; resuming it")
				if err := source.Resume(limited(t)); err != nil {
					t.Fatal(err)
				}
			case Runs:
				return
			}
		case <-limited(t).Done():
			t.Fatal("the source does not run again")
		}
	}
}

func TestQEMUAnswersEveryCommand(t *testing.T) {
	path := qemu(t, "machine", "-S", "-incoming", "defer")
	c, err := Dial(limited(t), waitFor(t, path), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if s, err := c.Status(limited(t)); err != nil || s.Running || s.Status != "inmigrate" {
		t.Errorf("status %+v, %v", s, err)
	}
	if m, err := c.Migration(limited(t)); err != nil || m.Status != "" {
		t.Errorf("migration %+v, %v", m, err)
	}
	if err := c.MigrateIncoming(limited(t), "tcp:127.0.0.1:0"); err != nil {
		t.Errorf("migrate-incoming: %v", err)
	}
	if err := c.MigrateCancel(limited(t)); err != nil {
		t.Errorf("migrate_cancel without a migration: %v", err)
	}
	if err := c.MigrateContinue(limited(t)); err == nil || Lost(err) {
		t.Errorf("migrate-continue without a migration: %v, want a refusal", err)
	}
	if err := c.Stop(limited(t)); err != nil {
		t.Errorf("stop: %v", err)
	}
	if err := c.AnnounceSelf(limited(t)); err != nil {
		t.Errorf("announce-self: %v", err)
	}
	if err := c.Quit(limited(t)); err != nil {
		t.Errorf("quit: %v", err)
	}
}

// waitFor returns the path once a monitor listens there.
func waitFor(t *testing.T, path string) string {
	t.Helper()
	g := Watch(path, Options{})
	defer g.Close()
	until(t, g, Stops)
	return path
}
