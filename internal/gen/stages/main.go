// Command stages turns tracing/stages.yaml into the Go tables, the C enums and the reference page, so that a stage or a
// drop reason has one number and one name everywhere. Run it with `go generate ./tracing`.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	in := flag.String("in", "stages.yaml", "description to read")
	goFile := flag.String("go", "stages_gen.go", "Go file to write")
	cFile := flag.String("c", "../datapath/bpf/stages.h", "C header to write")
	docFile := flag.String("doc", "../docs/reference/reasons.md", "reference page to write")
	flag.Parse()
	if err := run(*in, *goFile, *cFile, *docFile); err != nil {
		fmt.Fprintln(os.Stderr, "stages:", err)
		os.Exit(1)
	}
}

// run writes the three files; a file whose bytes are right already is left alone.
func run(in, goFile, cFile, docFile string) error {
	raw, err := os.ReadFile(in)
	if err != nil {
		return fmt.Errorf("read the description: %w", err)
	}
	spec, err := parse(raw)
	if err != nil {
		return fmt.Errorf("%s: %w", in, err)
	}
	for _, out := range []struct {
		path   string
		render func(*Spec) ([]byte, error)
	}{{goFile, renderGo}, {cFile, renderC}, {docFile, renderDoc}} {
		content, err := out.render(spec)
		if err != nil {
			return fmt.Errorf("render %s: %w", out.path, err)
		}
		if err := write(out.path, content); err != nil {
			return err
		}
	}
	return nil
}

func write(path string, content []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, content) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make the directory of %s: %w", path, err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
