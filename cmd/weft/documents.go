package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
)

// documents are what files say, with their text: what is wrong with an object may be found only by the fabric.
type documents struct {
	objects []fabric.Object
	sources []source
}

type source struct {
	name string
	text []byte
}

// read reads a file, a directory of .yaml, .yml and .json files in the order of their names, or standard input.
func (d *documents) read(path string, in io.Reader) error {
	if path == "-" {
		return d.readFrom("standard input", in)
	}
	st, err := os.Stat(path)
	if err != nil {
		return fileError(path, err)
	}
	if !st.IsDir() {
		return d.readFile(path)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return fileError(path, err)
	}
	for _, e := range entries {
		if e.IsDir() || !slices.Contains([]string{".yaml", ".yml", ".json"}, strings.ToLower(filepath.Ext(e.Name()))) {
			continue
		}
		if err := d.readFile(filepath.Join(path, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (d *documents) readFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fileError(path, err)
	}
	defer f.Close()
	return d.readFrom(path, f)
}

// readFrom reads all documents of one stream, at most as much as the API takes.
func (d *documents) readFrom(name string, in io.Reader) error {
	b, err := io.ReadAll(io.LimitReader(in, api.MaxBody+1))
	if err != nil {
		return fileError(name, err)
	}
	if len(b) > api.MaxBody {
		return &api.Error{Code: api.CodeInvalid, Message: fmt.Sprintf("read %s: it is larger than %d MiB", name, api.MaxBody>>20), Next: "split it into several files and apply them one after the other"}
	}
	objects, err := fabric.Decode(name, b)
	d.objects, d.sources = append(d.objects, objects...), append(d.sources, source{name, b})
	return err
}

// fieldOf is the object and the field that a line of an error of the fabric is about: policy/web: rule "a": spec.rules[0].remote: …
var fieldOf = regexp.MustCompile(`^([a-z]+/[^:\s]+): (?:.*?: )?((?:spec|metadata)[^:\s]*): `)

// placed puts file, line and column before what the fabric finds wrong with objects of the documents.
func (d *documents) placed(err error) error {
	var e *api.Error
	if !errors.As(err, &e) || e.Code != api.CodeInvalid {
		return err
	}
	lines := strings.Split(e.Message, "\n")
	for i, line := range lines {
		m := fieldOf.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		for _, s := range d.sources {
			if at, column, ok := fabric.Locate(s.text, m[1], m[2]); ok {
				lines[i] = fmt.Sprintf("%s:%d:%d: %s", s.name, at, column, line)
			}
		}
	}
	out := *e
	out.Message = strings.Join(lines, "\n")
	return &out
}

// fileError says why a file cannot be read.
func fileError(path string, err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return fmt.Errorf("read %s: %w", path, err)
}
