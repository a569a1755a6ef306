package agent

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func writeSealed(tb testing.TB, body string) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "state")
	if err := seal(path, "local", func(w io.Writer) error { _, err := io.WriteString(w, body); return err }); err != nil {
		tb.Fatal(err)
	}
	return path
}

func TestASealedFileComesBackAsWritten(t *testing.T) {
	for _, body := range []string{"", "{}\n", "{\"a\":1}\n{\"b\":2}\n"} {
		path := writeSealed(t, body)
		got, err := unseal(path, "local", noon)
		if err != nil || string(got) != body {
			t.Errorf("got %q, %v; want %q", got, err, body)
		}
	}
}

func TestAMissingSealedFileIsNotDamage(t *testing.T) {
	if _, err := unseal(filepath.Join(t.TempDir(), "none"), "local", noon); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("got %v", err)
	}
}

func TestAnyDamageIsFoundAndSetAside(t *testing.T) {
	whole, err := os.ReadFile(writeSealed(t, "{\"a\":1}\n{\"b\":2}\n"))
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(rt *rapid.T) {
		bad := bytes.Clone(whole)
		if rapid.Bool().Draw(rt, "truncate") {
			bad = bad[:rapid.IntRange(0, len(bad)-2).Draw(rt, "length")]
		} else {
			bad[rapid.IntRange(0, len(bad)-2).Draw(rt, "at")] ^= byte(rapid.IntRange(1, 255).Draw(rt, "flip"))
		}
		path := filepath.Join(t.TempDir(), "state")
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := unseal(path, "local", noon); !errors.Is(err, errDamaged) {
			rt.Fatalf("damage went unnoticed in %q: %v", bad, err)
		}
		if kept, err := os.ReadFile(path + ".bad-20261122T120000"); err != nil || !bytes.Equal(kept, bad) {
			rt.Fatalf("the damaged file was not kept: %v", err)
		}
	})
}

func TestAFileOfANewerReleaseIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	body := fmt.Sprintf("weft local %d\n{}\n", sealedVersion+1)
	sum := sha256.New()
	sum.Write([]byte(body))
	if err := os.WriteFile(path, []byte(body+trailer(sum)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := unseal(path, "local", noon); err == nil || !strings.Contains(err.Error(), "newer release") {
		t.Fatalf("got %v", err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatal("the file is gone")
	}
}

func TestAWriteThatFailsLeavesTheOldContent(t *testing.T) {
	path := writeSealed(t, "{\"old\":1}\n")
	err := seal(path, "local", func(io.Writer) error { return errors.New("no room") })
	if err == nil {
		t.Fatal("the failure was lost")
	}
	if got, err := unseal(path, "local", noon); err != nil || string(got) != "{\"old\":1}\n" {
		t.Fatalf("got %q, %v", got, err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".state-*")); len(left) != 0 {
		t.Fatalf("left behind: %v", left)
	}
}
