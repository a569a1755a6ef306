// Package api describes the operations of the host API: paths, requests, answers and errors, and which noun goes by which
// word. The nouns themselves are the structs of package fabric; what is here is only what is not a noun.
package api

import (
	"fmt"
	"slices"
	"strings"

	"github.com/weftnet/weft/fabric"
)

// Socket is where an agent's unix socket is unless its configuration says otherwise.
const Socket = "/run/weft/agent.sock"

// MaxBody is the largest request body the API reads, in bytes.
const MaxBody = 8 << 20

// List is the answer of every request for several objects, and the form of every list the command line prints.
type List[T any] struct {
	Items []T `json:"items"`
	// Revision is the etcd revision the list was read at; a watch that starts there misses nothing.
	Revision fabric.Revision `json:"revision,omitempty"`
	// Stale says that the list is the answering host's last knowledge, and why; empty when it is the fabric's.
	Stale string `json:"stale,omitempty"`
}

// Resource is how a kind is called in paths and commands.
type Resource struct {
	Kind fabric.Kind
	// Singular and Plural are the words of the command line; Plural is also the path.
	Singular, Plural string
	// Short are further words the command line takes.
	Short []string
	// Settable is true where users write objects of the kind, false where only hosts do.
	Settable bool
	// Deletable is true where users delete objects of the kind.
	Deletable bool
}

// Resources lists every kind of this release, in the order in which references point: a later kind may name an earlier one.
func Resources() []Resource {
	return []Resource{
		{Kind: fabric.KindHost, Singular: "host", Plural: "hosts", Short: []string{"h"}, Deletable: true},
		{Kind: fabric.KindGroup, Singular: "group", Plural: "groups", Settable: true, Deletable: true},
		{Kind: fabric.KindPolicy, Singular: "policy", Plural: "policies", Short: []string{"pol"}, Settable: true, Deletable: true},
		{Kind: fabric.KindProfile, Singular: "profile", Plural: "profiles", Settable: true, Deletable: true},
		{Kind: fabric.KindSwitch, Singular: "switch", Plural: "switches", Short: []string{"sw"}, Settable: true, Deletable: true},
		{Kind: fabric.KindPort, Singular: "port", Plural: "ports", Short: []string{"p"}, Settable: true, Deletable: true},
		{Kind: fabric.KindMirror, Singular: "mirror", Plural: "mirrors", Settable: true, Deletable: true},
		{Kind: fabric.KindMove, Singular: "move", Plural: "moves", Short: []string{"migrations"}},
	}
}

// ResourceOf finds the resource a kind or a word means ("Switch", "switch", "switches", "sw"). The error wraps
// fabric.ErrInvalid and names the nearest kind.
func ResourceOf(word string) (Resource, error) {
	for _, r := range Resources() {
		if slices.Contains(r.Short, strings.ToLower(word)) {
			return r, nil
		}
	}
	kind, err := fabric.ParseKind(word)
	if err != nil {
		return Resource{}, err
	}
	for _, r := range Resources() {
		if r.Kind == kind {
			return r, nil
		}
	}
	return Resource{}, fmt.Errorf("kind %s has no path in the API: %w", kind, fabric.ErrInvalid)
}

// Path is where the objects of the kind are, or one of them when a name is given.
func (r Resource) Path(name string) string {
	if name == "" {
		return "/v1/" + r.Plural
	}
	return "/v1/" + r.Plural + "/" + name
}
