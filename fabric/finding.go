package fabric

import (
	"fmt"
	"strings"
)

// Finding is one thing wrong with one field of a document.
type Finding struct {
	// File, Line and Column say where; empty and 0 when the object did not come from a document. Both count from 1.
	File   string
	Line   int
	Column int
	// Path names the field: "spec.addresses[1]". Empty when the document as a whole is wrong.
	Path string
	// Message says what is wrong and what to write instead.
	Message string
}

// String writes file.yaml:12:5: spec.mtu: message, leaving out what is not known.
func (f Finding) String() string {
	var b strings.Builder
	if f.File != "" {
		fmt.Fprintf(&b, "%s:", f.File)
	}
	if f.Line != 0 {
		fmt.Fprintf(&b, "%d:%d:", f.Line, f.Column)
	}
	if b.Len() > 0 {
		b.WriteByte(' ')
	}
	if f.Path != "" {
		fmt.Fprintf(&b, "%s: ", f.Path)
	}
	b.WriteString(f.Message)
	return b.String()
}

// Findings is the error of Validate and Decode: everything that is wrong, in the order of the document, one per line. It
// is ErrInvalid to errors.Is.
type Findings []Finding

// shownFindings bounds an error's text: more would scroll the first, usually the cause, off the screen.
const shownFindings = 20

// Error lists the findings, one per line, the first 20 of them.
func (f Findings) Error() string {
	lines := make([]string, 0, min(len(f), shownFindings+1))
	for i, one := range f {
		if i == shownFindings {
			lines = append(lines, fmt.Sprintf("and %d more", len(f)-shownFindings))
			break
		}
		lines = append(lines, one.String())
	}
	return strings.Join(lines, "\n")
}

// Unwrap makes every Findings ErrInvalid.
func (f Findings) Unwrap() error { return ErrInvalid }

// Err returns f as an error, nil when nothing was found.
func (f Findings) Err() error {
	if len(f) == 0 {
		return nil
	}
	return f
}

// add records a finding about a field.
func (f *Findings) add(path, format string, args ...any) {
	*f = append(*f, Finding{Path: path, Message: fmt.Sprintf(format, args...)})
}
