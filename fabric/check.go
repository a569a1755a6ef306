package fabric

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// Bounds of what a document may hold.
const (
	// MaxName is the longest name in bytes (RFC 1123 section 2.1).
	MaxName = 63
	// MinMTU and MaxMTU bound a guest's MTU in bytes of L3 packet: every IPv4 host takes 576 (RFC 791), and the length field
	// ends at 65535.
	MinMTU = 576
	MaxMTU = 65535
	// MinMTU6 is the smallest MTU IPv6 runs on (RFC 8200 section 5).
	MinMTU6 = 1280
	// MaxPortAddresses is how many addresses one port may hold: the guard of a port has this many slots.
	MaxPortAddresses = 8
	maxLabels        = 64
	maxText          = 4096
)

// The patterns names are held to; they are printed in the errors.
const (
	namePattern  = `[a-z0-9]([a-z0-9-]*[a-z0-9])?`
	vmPattern    = `[A-Za-z0-9][A-Za-z0-9._-]*`
	labelPattern = `([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)?`
)

var (
	nameExpr  = regexp.MustCompile(`^` + namePattern + `$`)
	vmExpr    = regexp.MustCompile(`^` + vmPattern + `$`)
	labelExpr = regexp.MustCompile(`^` + labelPattern + `$`)
	traceExpr = regexp.MustCompile(`^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`)
)

// CheckName reports why s may not be a name, nil when it may: 1 to 63 of a-z, 0-9 and "-" (RFC 1123). The error wraps
// ErrInvalid and is short however long s is.
func CheckName(s string) error {
	if text := badName(s); text != "" {
		return fmt.Errorf("name %s: %w", text, ErrInvalid)
	}
	return nil
}

func badName(s string) string {
	switch {
	case s == "":
		return "is missing"
	case len(s) > MaxName:
		return fmt.Sprintf("%s is %d characters long, the most is %d", quote(s), len(s), MaxName)
	case !nameExpr.MatchString(s):
		return fmt.Sprintf("%s must match %s: lower-case letters, digits and - inside", quote(s), namePattern)
	}
	return ""
}

// quote shortens user text for an error: a 300-character name must not fill the screen.
func quote(s string) string {
	if len(s) > 32 {
		s = strings.ToValidUTF8(s[:24], "") + "…"
	}
	return fmt.Sprintf("%q", s)
}

// checkRef checks the name of another object; empty is allowed unless required.
func checkRef(f *Findings, path, name string, required bool) {
	if name == "" && !required {
		return
	}
	if text := badName(name); text != "" {
		f.add(path, "%s", text)
	}
}

// checkHead checks what all documents share.
func checkHead(f *Findings, t *TypeMeta, m *Metadata, kind Kind) {
	if t.APIVersion != APIVersion {
		f.add("apiVersion", "%s is not known: this release reads %q", quote(t.APIVersion), APIVersion)
	}
	if t.Kind != kind {
		f.add("kind", "%s in a document of kind %s", quote(string(t.Kind)), kind)
	}
	if text := badName(m.Name); text != "" {
		f.add("metadata.name", "%s", text)
	}
	checkLabels(f, "metadata.labels", m.Labels)
	checkAnnotations(f, m.Annotations)
	if m.Revision < 0 {
		f.add("metadata.revision", "%d is negative: leave it out, or give the revision that get printed", m.Revision)
	}
	if m.Trace != "" && !traceExpr.MatchString(m.Trace) {
		f.add("metadata.trace", "%s is not a W3C traceparent (00-<32 hex>-<16 hex>-<2 hex>): leave it out", quote(m.Trace))
	}
}

func checkLabels(f *Findings, path string, labels map[string]string) {
	if len(labels) > maxLabels {
		f.add(path, "%d labels, the most is %d", len(labels), maxLabels)
		return
	}
	for _, key := range sortedKeys(labels) {
		at := fmt.Sprintf("%s[%q]", path, key)
		name := key
		if i := strings.LastIndexByte(key, '/'); i >= 0 {
			name = key[i+1:]
		}
		if name == "" || len(key) > 253 || len(name) > MaxName || !labelExpr.MatchString(strings.ReplaceAll(key, "/", ".")) {
			f.add(at, "a label's key is up to %d of letters, digits, and . _ - inside, after an optional prefix/", MaxName)
		}
		if v := labels[key]; len(v) > MaxName || !labelExpr.MatchString(v) {
			f.add(at, "value %s: a label's value is up to %d of letters, digits, and . _ - inside", quote(v), MaxName)
		}
	}
}

func checkAnnotations(f *Findings, annotations map[string]string) {
	if len(annotations) > maxLabels {
		f.add("metadata.annotations", "%d annotations, the most is %d", len(annotations), maxLabels)
		return
	}
	for _, key := range sortedKeys(annotations) {
		at := fmt.Sprintf("metadata.annotations[%q]", key)
		if key == "" || len(key) > 253 || !printable(key) {
			f.add(at, "an annotation's key is 1 to 253 printable characters")
		}
		if v := annotations[key]; len(v) > maxText || !printable(v) {
			f.add(at, "an annotation is at most %d bytes of text without control characters", maxText)
		}
	}
}

// printable reports whether s is text that may go to a terminal: no control characters but newline and tab.
func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		return r == unicode.ReplacementChar || unicode.IsControl(r) && r != '\n' && r != '\t'
	})
}

// checkAddr checks a station's or a tunnel end point's address.
func checkAddr(f *Findings, path string, a netip.Addr) {
	switch {
	case a.Is4In6():
		f.add(path, "%s is an IPv4 address in IPv6 clothes: write %s", a, a.Unmap())
	case a.Zone() != "":
		f.add(path, "%s carries a zone, which means nothing on another host: write %s", a, a.WithZone(""))
	case a.IsUnspecified(), a.IsMulticast(), a.IsLoopback(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		f.add(path, "%s cannot be a station's address: use a unicast address", a)
	}
}

// checkPrefix checks an address block.
func checkPrefix(f *Findings, path string, p netip.Prefix) {
	switch {
	case !p.IsValid():
		f.add(path, "is not a prefix: write it as 10.10.0.0/24")
	case p.Addr().Is4In6():
		f.add(path, "%s is an IPv4 prefix in IPv6 clothes: write it as %s", p, unmapped(p))
	case p != p.Masked():
		f.add(path, "%s has host bits set: write %s", p, p.Masked())
	}
}

// unmapped is an IPv4 prefix out of its IPv6 clothes; where it covers more than IPv4, all of IPv4.
func unmapped(p netip.Prefix) netip.Prefix {
	return netip.PrefixFrom(p.Addr().Unmap(), max(p.Bits()-96, 0)).Masked()
}

// unknown says that a word is none of those known, and which one was probably meant.
func unknown(what, got string, known []string) string {
	text := fmt.Sprintf("unknown %s %s", what, quote(got))
	if near := Nearest(got, known); near != "" {
		return fmt.Sprintf("%s; did you mean %q?", text, near)
	}
	known = slices.Sorted(slices.Values(known))
	return fmt.Sprintf("%s; known are %s", text, strings.Join(known, ", "))
}

// Nearest returns the known word within two edits of got, ignoring case: what a misspelt word probably meant. It is empty
// when there is none.
func Nearest(got string, known []string) string {
	if len(got) > MaxName {
		return ""
	}
	best, word := 3, ""
	for _, k := range known {
		if d := distance(strings.ToLower(got), strings.ToLower(k)); d < best && d < len(k) {
			best, word = d, k
		}
	}
	return word
}

// distance is the Levenshtein distance in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
