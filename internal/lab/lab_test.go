package lab

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestDownLeavesNothingThreeTimes(t *testing.T) {
	name := own("updown")
	dir := filepath.Join("/run/weft", "test-"+name)
	before := traces(t, name, dir)
	for range 3 {
		l, err := Up(t.Context(), Options{Name: name, Dir: dir, Hosts: 3, Bare: true}, t.Logf)
		if err != nil {
			t.Fatal(err)
		}
		guest(t, withBridges(t, l), GuestOptions{Name: "a", Host: "h1", Address: netip.MustParseAddr("10.10.0.1")})
		guest(t, l, GuestOptions{Name: "b", Host: "h3", Kind: Veth, Address: netip.MustParseAddr("10.10.0.2")})
		run(t, l, "a", "ping", "-c", "1", "-W", "5", "10.10.0.2")
		if during := traces(t, name, dir); len(during) < len(before)+7 {
			t.Fatalf("a running lab of three hosts and two guests shows only as %v", during)
		}
		again, err := OpenDir(dir) // as another process would
		if err != nil {
			t.Fatal(err)
		}
		if err := again.Down(t.Context()); err != nil {
			t.Fatal(err)
		}
		if after := traces(t, name, dir); !slices.Equal(before, after) {
			t.Fatalf("left behind:\nbefore %q\nafter  %q", before, after)
		}
		if err := again.Down(t.Context()); err != nil {
			t.Fatalf("down a second time: %v", err)
		}
	}
}

func TestSecondUpIsRefusedAndDisturbsNothing(t *testing.T) {
	l := bare(t, Options{Name: "twice", Hosts: 1})
	_, err := Up(t.Context(), l.Options, nil)
	if !errors.Is(err, ErrExists) || !strings.Contains(err.Error(), "weft lab down") {
		t.Fatalf("got %v", err)
	}
	if !l.HostNamespace("h1").Exists() {
		t.Fatal("the refused lab took the first one's host away")
	}
}

func TestDownRemovesAHalfMadeLab(t *testing.T) {
	name := own("half")
	dir := filepath.Join("/run/weft", "test-"+name)
	before := traces(t, name, dir)
	cases := map[string]func(o Options) error{
		"only claimed": func(o Options) error { return os.MkdirAll(o.Dir, 0o755) },
		"one namespace": func(o Options) error {
			l, err := create(o)
			if err == nil {
				_, err = l.namespace("h1")
			}
			return err
		},
		"written down, not made": func(o Options) error {
			l, err := create(o)
			if err == nil {
				err = l.update(func() {
					l.Namespaces, l.Mounts = append(l.Namespaces, "weft-half-h7"), append(l.Mounts, filepath.Join(dir, "h7/bpf"))
				})
			}
			return err
		},
		"mounted": func(o Options) error {
			l, err := create(o)
			if err == nil {
				err = l.prepareHost("h1")
			}
			return err
		},
	}
	for what, half := range cases {
		t.Run(what, func(t *testing.T) {
			o := Options{Name: name, Dir: dir, Hosts: 3}
			if err := errors.Join(o.complete(), half(o)); err != nil {
				t.Fatal(err)
			}
			l, err := OpenDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			if err := l.Down(t.Context()); err != nil {
				t.Fatal(err)
			}
			if after := traces(t, name, dir); !slices.Equal(before, after) {
				t.Fatalf("left behind:\nbefore %q\nafter  %q", before, after)
			}
		})
	}
}

func TestImpossibleOptionsAreRefusedBeforeAnythingIsMade(t *testing.T) {
	cases := map[string]struct {
		o    Options
		want string
	}{
		"nine hosts":           {Options{Hosts: 9}, "1 to 8"},
		"minus one host":       {Options{Hosts: -1}, "1 to 8"},
		"two with etcd":        {Options{Servers: 2}, "odd number"},
		"more etcd than hosts": {Options{Hosts: 1, Servers: 3}, "odd number"},
		"a name with a slash":  {Options{Name: "a/b"}, "a-z"},
		"a long name":          {Options{Name: "thirteen-chars"}, "12"},
		"a tiny MTU":           {Options{Underlay: Underlay{MTU: 600}}, "1280"},
		"loss above one":       {Options{Underlay: Underlay{Loss: 1.5}}, "between 0 and 1"},
		"a long directory":     {Options{Dir: "/run/" + strings.Repeat("x", 60)}, "56"},
		"a missing program":    {Options{Binary: "/nonexistent/weft"}, "make build"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := Up(t.Context(), c.o, nil)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v does not mention %q", err, c.want)
			}
		})
	}
	if _, err := OpenDir("/run/weft/no-such-lab"); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "weft lab up") {
		t.Fatalf("opening what is not there: %v", err)
	}
}

func TestGuestsThatCannotBeAreRefused(t *testing.T) {
	l := bare(t, Options{Name: "refuse", Hosts: 1})
	first := GuestOptions{Name: "a", Host: "h1", Address: netip.MustParseAddr("10.10.0.1")}
	guest(t, l, first)
	cases := map[string]struct {
		o    GuestOptions
		want string
	}{
		"the same name":    {first, "weft lab vm a --remove"},
		"an absent host":   {GuestOptions{Name: "b", Host: "h9", Address: first.Address}, "it has [h1]"},
		"an unknown kind":  {GuestOptions{Name: "b", Host: "h1", Kind: "xen", Address: first.Address}, "pump, veth or qemu"},
		"a bad name":       {GuestOptions{Name: "B!", Host: "h1", Address: first.Address}, "B!"},
		"no address":       {GuestOptions{Name: "b", Host: "h1"}, "give one"},
		"a very long name": {GuestOptions{Name: strings.Repeat("b", 25), Host: "h1", Address: first.Address}, "24"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := l.AddGuest(t.Context(), c.o, nil)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v does not mention %q", err, c.want)
			}
		})
	}
	if len(l.Guests) != 1 || l.GuestNamespace("b").Exists() {
		t.Fatalf("refused guests left something: %v", l.Guests)
	}
}
