package qmp

import (
	"errors"
	"testing"
)

// slow is how fast a machine of the tests may send its memory, in bytes a second: 16 MB stay on their way until they are let go.
const slow = 2_000

// hands are a machine's two monitors: the one that is watched, and one for a person.
func hands(t *testing.T, name string, arguments ...string) (*Guest, *Client) {
	t.Helper()
	second := t.TempDir() + "/second"
	path := qemu(t, name, append([]string{"-qmp", "unix:" + second + ",server=on,wait=off"}, arguments...)...)
	guest := watch(t, path)
	until(t, guest, Stops, Runs) // then both monitors listen
	person, err := Dial(limited(t), second, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { person.Close() })
	if err := person.SetMigrationCapabilities(limited(t), map[string]bool{"events": true, "postcopy-ram": true}); err != nil {
		t.Fatalf("post-copy needs userfaultfd(2): is /dev/userfaultfd there, or vm.unprivileged_userfaultfd set? %v", err)
	}
	return guest, person
}

// inPostCopy is a guest that runs at its destination while its memory follows, slowly.
func inPostCopy(t *testing.T) (source, destination *Guest, person *Client) {
	t.Helper()
	uri := "unix:" + t.TempDir() + "/stream"
	destination, _ = hands(t, "destination", "-incoming", uri)
	source, person = hands(t, "source")
	throttle(t, person, slow)
	if err := source.Migrate(limited(t), uri); err != nil {
		t.Fatal(err)
	}
	until(t, source, Copying)
	if err := person.Execute(limited(t), "migrate-start-postcopy", nil, nil); err != nil {
		t.Fatal(err)
	}
	until(t, source, Waiting) // as always: what it has told so far is that the guest stands still
	quiet(t, destination, Runs)
	if err := source.Continue(limited(t)); err != nil {
		t.Fatal(err)
	}
	until(t, source, NoReturn)
	until(t, destination, NoReturn)
	until(t, destination, Runs)
	return source, destination, person
}

func throttle(t *testing.T, c *Client, bandwidth int) {
	t.Helper()
	err := c.Execute(limited(t), "migrate-set-parameters", map[string]int{"max-bandwidth": bandwidth, "max-postcopy-bandwidth": bandwidth}, nil)
	if err != nil {
		t.Fatal(err)
	}
}

func TestQEMUPostCopyIsNotGivenUp(t *testing.T) {
	source, destination, person := inPostCopy(t)
	if err := source.Cancel(limited(t)); !errors.Is(err, ErrNoReturn) {
		t.Fatalf("cancel in post-copy: %v", err)
	}
	if s, err := person.Migration(limited(t)); err != nil || s.Status != "postcopy-active" {
		t.Fatalf("after that the migration is %+v, %v", s, err)
	}
	throttle(t, person, 0)
	until(t, source, Completed)
	quiet(t, source, Runs)
	until(t, destination, Completed)
}

func TestQEMUPostCopyBreaks(t *testing.T) {
	source, destination, _ := inPostCopy(t)
	if err := destination.Quit(limited(t)); err != nil {
		t.Fatal(err)
	}
	until(t, source, Broken)
	if err := source.Cancel(limited(t)); !errors.Is(err, ErrNoReturn) {
		t.Errorf("cancel of a broken post-copy: %v", err)
	}
	again := watch(t, source.path)
	source.Close()
	expect(t, again, Broken, Stops)
	if err := again.Quit(limited(t)); err != nil {
		t.Error(err)
	}
	until(t, again, Gone)
}
