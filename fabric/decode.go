package fabric

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Bounds of what Decode reads: far above what an object needs, far below what would fill memory.
const (
	// MaxInput is the most one Decode reads, in bytes.
	MaxInput = 8 << 20
	// MaxDocument is the most one document may have, in bytes: a policy of ten thousand long rules fits, and a transaction of
	// the fabric's etcd takes two of them.
	MaxDocument = 4 << 20
	// maxEntries bounds the lines and list entries of one document, because each costs a hundred bytes of memory and more.
	maxEntries = 200000
	// maxFindings ends a decode: who has so many mistakes has one cause.
	maxFindings = 100
)

// Decode reads the objects of a YAML or JSON text: documents separated by "---", or a list in the form {items: […]}. It
// is strict: unknown and repeated fields, values of the wrong type, anchors and tags, and everything Validate finds are
// errors. Each object is defaulted. The error is Findings with every mistake, each with name, line and column.
func Decode(name string, text []byte) ([]Object, error) {
	d := &decoder{file: name}
	if len(text) > MaxInput {
		d.at(0, 0, "", "%d bytes, the most is %d MiB: split it into several files", len(text), MaxInput>>20)
		return nil, d.findings
	}
	if bad := firstInvalid(text); bad >= 0 {
		line := 1 + bytes.Count(text[:bad], []byte("\n"))
		d.at(line, bad-bytes.LastIndexByte(text[:bad], '\n'), "", "is not UTF-8 text: save the file as UTF-8")
		return nil, d.findings
	}
	var objects []Object
	for _, chunk := range split(text) {
		objects = append(objects, d.document(chunk)...)
		if len(d.findings) >= maxFindings {
			break
		}
	}
	if err := d.findings.Err(); err != nil {
		return nil, err
	}
	return objects, nil
}

// Locate finds the field of an object in a text that Decode has read, for what is found wrong with it later: ref is as Ref writes
// it, path as in a Finding. Line and column count from 1, and are those of the nearest field around it that is there; false
// when the text has no such object.
func Locate(text []byte, ref, path string) (line, column int, ok bool) {
	for _, c := range split(text) {
		var root yaml.Node
		if yaml.Unmarshal(c.text, &root) != nil || len(root.Content) == 0 {
			continue
		}
		objects := []*yaml.Node{root.Content[0]}
		if items := field(root.Content[0], "items"); items != nil && items.Kind == yaml.SequenceNode {
			objects = append(objects, items.Content...)
		}
		for _, o := range objects {
			kind, name := field(o, "kind"), field(o, "metadata")
			if kind == nil || name == nil {
				continue
			}
			if name = field(name, "name"); name != nil && strings.ToLower(kind.Value)+"/"+name.Value == ref {
				n := locate(o, path)
				return c.line + n.Line, n.Column, true
			}
		}
	}
	return 0, 0, false
}

// chunk is the text of one document.
type chunk struct {
	text []byte
	line int // lines of the file before it
}

// split cuts at lines that begin with "---": YAML allows them nowhere inside a document.
func split(text []byte) []chunk {
	var chunks []chunk
	begin, line, beginLine := 0, 0, 0
	for pos := 0; pos < len(text); line++ {
		end := bytes.IndexByte(text[pos:], '\n') + pos + 1
		if end == pos {
			end = len(text)
		}
		if marker(text[pos:end]) && pos > begin {
			chunks = append(chunks, chunk{text[begin:pos], beginLine})
			begin, beginLine = pos, line
		}
		pos = end
	}
	return append(chunks, chunk{text[begin:], beginLine})
}

func marker(line []byte) bool {
	rest, ok := bytes.CutPrefix(line, []byte("---"))
	return ok && (len(rest) == 0 || bytes.IndexByte([]byte(" \t\r\n"), rest[0]) >= 0)
}

func firstInvalid(text []byte) int {
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return -1
}

// decoder collects what is wrong with a text.
type decoder struct {
	file     string
	line     int // lines before the document at hand
	findings Findings
}

// at records a finding at a place in the document at hand; line 0 means the text as a whole.
func (d *decoder) at(line, column int, path, format string, args ...any) {
	f := Finding{File: d.file, Path: path, Message: fmt.Sprintf(format, args...)}
	if line > 0 {
		f.Line, f.Column = d.line+line, column
	}
	d.findings = append(d.findings, f)
}

// node records a finding at a node.
func (d *decoder) node(n *yaml.Node, path, format string, args ...any) {
	d.at(n.Line, n.Column, path, format, args...)
}

// document reads one document, which may be a list of objects.
func (d *decoder) document(c chunk) []Object {
	d.line = c.line
	if len(c.text) > MaxDocument {
		d.at(1, 1, "", "the document has %d bytes, the most is %d KiB: put --- between objects", len(c.text), MaxDocument>>10)
		return nil
	}
	if n := bytes.Count(c.text, []byte("\n")) + bytes.Count(c.text, []byte(",")); n > maxEntries {
		d.at(1, 1, "", "the document has %d entries, the most is %d: put --- between objects", n, maxEntries)
		return nil
	}
	var root yaml.Node
	if err := yaml.Unmarshal(c.text, &root); err != nil {
		d.syntax(err)
		return nil
	}
	if root.Kind == 0 || len(root.Content) == 0 {
		return nil // nothing but comments
	}
	top := root.Content[0]
	if top.Kind == yaml.ScalarNode && top.ShortTag() == "!!null" && top.Value == "" {
		return nil // a separator with nothing after it
	}
	items := field(top, "items")
	if items == nil || field(top, "spec") != nil || items.Kind != yaml.SequenceNode {
		return d.object(top)
	}
	var objects []Object
	for _, item := range items.Content {
		objects = append(objects, d.object(item)...)
	}
	return objects
}

var yamlLine = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?`)

// syntax records an error of the YAML parser, which names the line in its text.
func (d *decoder) syntax(err error) {
	text := err.Error()
	m := yamlLine.FindStringSubmatch(text)
	line, _ := strconv.Atoi(m[1])
	message := text[len(m[0]):]
	if strings.Contains(message, "control characters") {
		message = "holds a control character: remove it"
	}
	d.at(max(line, 1), 1, "", "is not YAML: %s", message)
}

// object reads one object: its head first, because that says what the rest must be.
func (d *decoder) object(top *yaml.Node) []Object {
	if top.Kind != yaml.MappingNode {
		d.node(top, "", "is %s, not an object: begin with apiVersion, kind, metadata and spec", what(top))
		return nil
	}
	version, kind := field(top, "apiVersion"), field(top, "kind")
	switch {
	case version == nil:
		d.node(top, "apiVersion", "is missing: write apiVersion: %s", APIVersion)
		return nil
	case version.Value != APIVersion:
		d.node(version, "apiVersion", "%s is not known: this release reads %q", quote(version.Value), APIVersion)
		return nil
	case kind == nil:
		d.node(top, "kind", "is missing: one of %s", strings.Join(kindNames(), ", "))
		return nil
	}
	o, err := New(Kind(kind.Value))
	if err != nil {
		d.node(kind, "kind", "%s", unknown("kind", kind.Value, kindNames()))
		return nil
	}
	before := len(d.findings)
	d.fill(top, o)
	o.Default()
	d.validate(top, o, before)
	return []Object{o}
}

// validate adds what Validate finds, at the place of the field, unless the field has a finding already.
func (d *decoder) validate(top *yaml.Node, o Object, before int) {
	err := o.Validate()
	if err == nil {
		return
	}
	findings, ok := err.(Findings)
	if !ok {
		findings = Findings{{Message: err.Error()}}
	}
	known := d.findings[before:len(d.findings):len(d.findings)]
	for _, f := range findings {
		if !covered(known, f.Path) {
			d.node(locate(top, f.Path), f.Path, "%s", f.Message)
		}
	}
}

// covered reports whether a field or what contains it, or is in it, has a finding.
func covered(known Findings, path string) bool {
	for _, f := range known {
		if strings.HasPrefix(path, f.Path) || strings.HasPrefix(f.Path, path) {
			return true
		}
	}
	return false
}
