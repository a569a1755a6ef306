package agent

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// A sealed file keeps what must outlive the agent: a head that names its content and version, lines of JSON, and the
// SHA-256 of all that. It is replaced as a whole, so that a reader finds the old content or the new, whenever the power fails.

// sealedVersion is the schema of all sealed files of this release.
const sealedVersion = 1

// errDamaged: the file's checksum is wrong; it was set aside.
var errDamaged = errors.New("damaged")

// seal writes a sealed file; body writes whole lines.
func seal(path, content string, body func(io.Writer) error) (err error) {
	draft, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			os.Remove(draft.Name())
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	defer draft.Close()
	sum := sha256.New()
	w := bufio.NewWriterSize(io.MultiWriter(draft, sum), 64<<10)
	fmt.Fprintln(w, header(content, sealedVersion))
	if err := body(w); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(draft, trailer(sum)); err != nil {
		return err
	}
	if err := draft.Sync(); err != nil {
		return err
	}
	if err := os.Rename(draft.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// unseal returns the body of a sealed file. A damaged file is renamed to path.bad-<time> and errDamaged returned; one of a
// newer release is left alone. fs.ErrNotExist when there is none.
func unseal(path, content string, now time.Time) ([]byte, error) {
	body, err := inspect(path, content)
	if errors.Is(err, errDamaged) {
		return nil, setAside(path, now)
	}
	return body, err
}

// inspect is unseal without touching the file.
func inspect(path, content string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	body, err := unsealed(text, content)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return body, nil
}

// unsealed is the body of a sealed text; the error may be errDamaged.
func unsealed(text []byte, content string) ([]byte, error) {
	head, rest, _ := bytes.Cut(text, []byte("\n"))
	number, _ := strings.CutPrefix(string(head), "weft "+content+" ")
	version, err := strconv.Atoi(number)
	sum := sha256.New()
	end := bytes.LastIndexByte(bytes.TrimSuffix(rest, []byte("\n")), '\n') + 1
	sum.Write(text[:len(text)-len(rest)+end])
	switch {
	case strings.TrimSuffix(string(rest[end:]), "\n") != trailer(sum), err != nil, version < 1, string(head) != header(content, version):
		return nil, fmt.Errorf("its checksum is wrong: %w", errDamaged)
	case version > sealedVersion:
		return nil, fmt.Errorf("it was written by a newer release (schema %d, this one reads %d): install that release again, or move the file away", version, sealedVersion)
	}
	return rest[:end], nil
}

// header is the first line.
func header(content string, version int) string { return fmt.Sprintf("weft %s %d", content, version) }

// trailer is the last line.
func trailer(sum hash.Hash) string { return "sha256 " + hex.EncodeToString(sum.Sum(nil)) }

// setAside keeps a damaged file for people to look at.
func setAside(path string, now time.Time) error {
	bad := path + ".bad-" + now.UTC().Format("20060102T150405")
	if err := os.Rename(path, bad); err != nil {
		return fmt.Errorf("read %s: its checksum is wrong, and it cannot be set aside: %w", path, errors.Join(errDamaged, err))
	}
	return fmt.Errorf("read %s: its checksum is wrong; it was set aside as %s: %w", path, bad, errDamaged)
}

// syncDir makes a rename durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
