package agent

import (
	"os"
	"slices"
	"strings"
	"testing"
)

func TestOnlyPagesThatTheFileHasAreGivenBack(t *testing.T) {
	const smaps = `00400000-00500000 r-xp 00000000 fe:00 1 /usr/bin/weft
Size:               1024 kB
Anonymous:             0 kB
00500000-00600000 r--p 00100000 fe:00 1 /usr/bin/weft
Anonymous:             4 kB
00600000-00700000 rw-p 00200000 fe:00 1 /usr/bin/weft
Anonymous:             0 kB
00700000-00800000 r--p 00300000 fe:00 1 /usr/bin/weft
Anonymous:             0 kB
00800000-00900000 r--p 00300000 fe:00 2 /usr/lib/libc.so.6
Anonymous:             0 kB
00900000-00a00000 r--p 00000000 00:00 0
Anonymous:             0 kB
`
	found, err := cleanRanges(strings.NewReader(smaps), "/usr/bin/weft")
	if want := []pages{{0x400000, 0x500000}, {0x700000, 0x800000}}; err != nil || !slices.Equal(found, want) {
		t.Errorf("%x, %v; want %x", found, err, want)
	}
	if _, err := cleanRanges(strings.NewReader("zz-1 r-xp 0 fe:00 1 /usr/bin/weft\n"), "/usr/bin/weft"); err == nil {
		t.Error("a damaged line is read")
	}
}

func TestTheProgramRunsOnWithoutItsPages(t *testing.T) {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer text.Close()
	if ranges, err := cleanRanges(text, program); err != nil || len(ranges) == 0 {
		t.Fatalf("the program has no pages to give back: %v, %v", ranges, err)
	}
	for range 3 {
		if err := trimProgram(); err != nil {
			t.Fatal(err)
		}
	}
}
