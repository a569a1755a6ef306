package api

import (
	"net/http"

	"github.com/danielgtaylor/huma/v2"
)

// MirrorCount is what one host says about a mirror. All but Seen are in frames.
type MirrorCount struct {
	Name string `json:"name"`
	// Seen are packets that the filter asks for, before sampling; Copied those copied at ports here.
	Seen   uint64 `json:"seen,omitempty"`
	Copied uint64 `json:"copied,omitempty"`
	// Given were given to the sink here, with their bytes; Lost were lost here.
	Given      uint64 `json:"given,omitempty"`
	GivenBytes uint64 `json:"givenBytes,omitempty"`
	Lost       uint64 `json:"lost,omitempty"`
	// Device is where the copies are seen here; File the pcapng file that they are written to, FileBytes its size, Full when it takes no
	// more.
	Device    string `json:"device,omitempty"`
	File      string `json:"file,omitempty"`
	FileBytes uint64 `json:"fileBytes,omitempty"`
	Full      bool   `json:"full,omitempty"`
}

// MirrorsHere lists what mirrors have copied on the host that is asked, and what has reached its sinks.
func MirrorsHere() huma.Operation {
	return operation("mirrors-here", http.MethodGet, "/v1/here/mirrors", "mirrors", Read, "What mirrors have copied on this host, and what has reached their sinks here")
}
