// Package archtest holds the rules of the house as a test: who may import whom, which package is the door to which
// foreign library, and that every package says what it is.
package archtest

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/weftnet/weft"

// rows is the direction of imports: a package imports only from rows below its own (ARCHITECTURE.md, "The house").
var rows = map[string]int{
	"cmd/weft": 7,
	"agent":    6, "deploy/rollout": 6, "internal/lab": 6, "internal/bench": 7,
	"agent/plan": 5, "agent/server": 5, "agent/trial": 5, "api/client": 5, "extension/certify": 5,
	"agent/services": 5,
	"migration":      4, "migration/libvirt": 4, "datapath": 4, "api": 4, "agent/dhcp": 4, "agent/dns": 4, "datapath/nat": 4,
	"fabric/location": 3, "datapath/nic": 3, "datapath/kerneldrops": 3, "datapath/datapathtest": 5, "tracing/packet": 3, "tracing/export": 3,
	"migration/qmp": 3,
	"policy":        2, "tracing": 2, "extension": 2, "fabric/store": 2, "fabric/members": 2, "fabric/identity": 2,
	"fabric/store/server": 2, "fabric/store/storetest": 3,
	"fabric":            1,
	"internal/archtest": 0, "internal/tally": 0, "internal/mutants": 0,
	"internal/gen/stages": 2, "internal/gen/openapi": 6, "internal/lab/impair": 4,
}

// doors names the only packages that may import a foreign library, by import path prefix. Tests obey it too.
var doors = map[string][]string{
	"go.etcd.io/":                   {"fabric/store", "fabric/store/server"},
	"github.com/hashicorp/":         {"fabric/members"},
	"github.com/cilium/ebpf":        {"datapath", "datapath/kerneldrops", "internal/lab/impair"},
	"github.com/vishvananda/":       {"datapath/nic"},
	"github.com/google/gopacket":    {"tracing/packet"},
	"github.com/insomniacslk/dhcp":  {"agent/dhcp"},
	"github.com/miekg/dns":          {"agent/dns"},
	"github.com/google/nftables":    {"datapath/nat"},
	"github.com/mdlayher/":          {"datapath/nat"},
	"go.opentelemetry.io/otel/sdk":  {"tracing/export"},
	"go.opentelemetry.io/otel/exp":  {"tracing/export"},
	"github.com/prometheus/":        {"tracing/export"},
	"github.com/danielgtaylor/huma": {"api", "agent/server", "internal/gen/openapi"},
	"github.com/spf13/":             {"cmd/weft"},
	"github.com/charmbracelet/":     {"cmd/weft"},
}

type file struct {
	pkg, path string
	test      bool
	imports   []string
	doc       bool
}

func TestImportsPointDownwards(t *testing.T) {
	for _, f := range sources(t) {
		row, known := rows[f.pkg]
		if !known {
			t.Errorf("%s: package %s has no row in the house; add it to rows and to ARCHITECTURE.md", f.path, f.pkg)
			continue
		}
		for _, imp := range f.imports {
			own, ours := strings.CutPrefix(imp, module+"/")
			if !ours || own == f.pkg {
				continue
			}
			if f.test { // a test may use the lab and the in-memory parts of any row
				continue
			}
			if family(own, f.pkg) {
				continue
			}
			if rows[own] >= row {
				t.Errorf("%s: %s (row %d) must not import %s (row %d)", f.path, f.pkg, row, own, rows[own])
			}
		}
	}
}

// family allows a parent to use its own sub-package of the same row: migration uses migration/qmp.
func family(imported, importer string) bool {
	return strings.HasPrefix(imported, importer+"/") && rows[imported] == rows[importer]
}

func TestForeignLibrariesHaveOneDoor(t *testing.T) {
	for _, f := range sources(t) {
		for _, imp := range f.imports {
			for prefix, allowed := range doors {
				if !strings.HasPrefix(imp, prefix) || contains(allowed, f.pkg) {
					continue
				}
				t.Errorf("%s: %s imports %s; only %s may", f.path, f.pkg, imp, strings.Join(allowed, ", "))
			}
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	said := map[string]bool{}
	for _, f := range sources(t) {
		if !f.test || f.pkg == "internal/archtest" {
			said[f.pkg] = said[f.pkg] || f.doc
		}
	}
	for pkg, ok := range said {
		if !ok {
			t.Errorf("package %s has no package comment", pkg)
		}
	}
}

// sources parses every Go file of the module in process: a test that asked `go list` would be cached over a violation.
func sources(t *testing.T) []file {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "go.mod")); err != nil {
		t.Fatalf("archtest must run two levels below the module root: %v", err)
	}
	var files []file
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "bin") && path != root {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		f := file{pkg: filepath.ToSlash(filepath.Dir(rel)), path: rel, test: strings.HasSuffix(rel, "_test.go")}
		f.doc = parsed.Doc != nil && (strings.HasPrefix(parsed.Doc.Text(), "Package ") || strings.HasPrefix(parsed.Doc.Text(), "Command "))
		for _, imp := range parsed.Imports {
			f.imports = append(f.imports, strings.Trim(imp.Path.Value, `"`))
		}
		files = append(files, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 10 {
		t.Fatalf("only %d Go files found below %s: the walk is broken", len(files), root)
	}
	return files
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}
