package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"go/format"
	"strings"
	"text/template"
)

var (
	//go:embed stages.go.tmpl
	goTemplate string
	//go:embed stages.h.tmpl
	cTemplate string
	//go:embed reasons.md.tmpl
	docTemplate string
)

func renderGo(s *Spec) ([]byte, error) {
	raw, err := render(goTemplate, s)
	if err != nil {
		return nil, err
	}
	return format.Source(raw)
}

func renderC(s *Spec) ([]byte, error)   { return render(cTemplate, s) }
func renderDoc(s *Spec) ([]byte, error) { return render(docTemplate, s) }

func render(text string, s *Spec) ([]byte, error) {
	t, err := template.New("").Funcs(template.FuncMap{
		"camel": camel,
		"upper": upper,
		"inc":   func(i int) int { return i + 1 },
		"abi":   func() string { return fmt.Sprintf("0x%08x", s.abi()) },
		"cell":  func(text string) string { return strings.ReplaceAll(text, "|", `\|`) },
		"last":  func(from int) int { return from + 99 },
		"of":    s.of,
		"hyperv": func(r Reason) string {
			if r.HyperV == 0 {
				return ""
			}
			return fmt.Sprintf("%d %s", r.HyperV, s.HyperV[r.HyperV])
		},
	}).Parse(text)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, s); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// of returns the reasons of one class.
func (s *Spec) of(c Class) []Reason {
	var reasons []Reason
	for _, r := range s.Reasons {
		if r.Class == c {
			reasons = append(reasons, r)
		}
	}
	return reasons
}

// initialisms are written in capitals in Go names.
var initialisms = map[string]bool{
	"arp": true, "dhcp": true, "fdb": true, "ip": true, "l2": true, "l3": true, "l4": true, "mac": true, "mtu": true,
	"nd": true, "ra": true, "vlan": true, "vni": true, "vtep": true, "vxlan": true,
}

// camel turns port.in and guard_src_mac into PortIn and GuardSrcMAC.
func camel(name string) string {
	var out strings.Builder
	for _, word := range strings.FieldsFunc(name, func(r rune) bool { return r == '.' || r == '_' }) {
		if initialisms[word] {
			out.WriteString(strings.ToUpper(word))
			continue
		}
		out.WriteString(strings.ToUpper(word[:1]) + word[1:])
	}
	return out.String()
}

// upper turns port.in into PORT_IN.
func upper(name string) string { return strings.ToUpper(strings.ReplaceAll(name, ".", "_")) }
