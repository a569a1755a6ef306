package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
)

// readDocuments reads a file, a directory of .yaml, .yml and .json files in the order of their names, or standard input.
func readDocuments(path string, in io.Reader) ([]fabric.Object, error) {
	if path == "-" {
		return readFrom("standard input", in)
	}
	st, err := os.Stat(path)
	if err != nil {
		return nil, fileError(path, err)
	}
	if !st.IsDir() {
		return readFile(path)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, fileError(path, err)
	}
	var objects []fabric.Object
	for _, e := range entries {
		if e.IsDir() || !slices.Contains([]string{".yaml", ".yml", ".json"}, strings.ToLower(filepath.Ext(e.Name()))) {
			continue
		}
		o, err := readFile(filepath.Join(path, e.Name()))
		if err != nil {
			return nil, err
		}
		objects = append(objects, o...)
	}
	return objects, nil
}

func readFile(path string) ([]fabric.Object, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fileError(path, err)
	}
	defer f.Close()
	return readFrom(path, f)
}

// readFrom reads all documents of one stream, at most as much as the API takes.
func readFrom(name string, in io.Reader) ([]fabric.Object, error) {
	b, err := io.ReadAll(io.LimitReader(in, api.MaxBody+1))
	if err != nil {
		return nil, fileError(name, err)
	}
	if len(b) > api.MaxBody {
		return nil, &api.Error{Code: api.CodeInvalid, Message: fmt.Sprintf("read %s: it is larger than %d MiB", name, api.MaxBody>>20), Next: "split it into several files and apply them one after the other"}
	}
	return fabric.Decode(name, b)
}

// fileError says why a file cannot be read.
func fileError(path string, err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return fmt.Errorf("read %s: %w", path, err)
}
