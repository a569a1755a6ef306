package api

import (
	"errors"
	"net/http"
	"strings"

	"github.com/weftnet/weft/fabric"
)

// Code is the identity of an error, so that it survives the way from server to client.
type Code string

// The codes of the API.
const (
	CodeInvalid     Code = "invalid"     // fabric.ErrInvalid
	CodeNotFound    Code = "not-found"   // fabric.ErrNotFound
	CodeConflict    Code = "conflict"    // fabric.ErrConflict
	CodeStaleEpoch  Code = "stale-epoch" // fabric.ErrStaleEpoch
	CodeForbidden   Code = "forbidden"   // ErrForbidden
	CodeUnavailable Code = "unavailable" // ErrUnavailable
	CodeMisdirected Code = "misdirected" // ErrMisdirected
	CodeInternal    Code = "internal"
)

// Errors of the API itself; the others are those of package fabric.
var (
	// ErrForbidden: the caller's certificate or user may not do this.
	ErrForbidden = errors.New("not allowed")
	// ErrUnavailable: a part of the fabric that the request needs does not answer; trying again later may succeed.
	ErrUnavailable = errors.New("unavailable")
	// ErrMisdirected: another host has to be asked, because this one cannot write to etcd.
	ErrMisdirected = errors.New("ask another host")
)

// Error is the one JSON shape of every failed request.
type Error struct {
	// Message is a sentence: what was tried, on what, why it failed.
	Message string `json:"error" doc:"What was tried, on what, and why it failed"`
	Code    Code   `json:"code" doc:"Identity of the error" enum:"invalid,not-found,conflict,stale-epoch,forbidden,unavailable,misdirected,internal"`
	// Object is what the request was about, as kind/name.
	Object string `json:"object,omitempty" doc:"What the request was about, as kind/name"`
	// Field is the path of the offending field, such as spec.addresses[1].
	Field string `json:"field,omitempty" doc:"Path of the offending field"`
	// Next is what to do or run now.
	Next string `json:"next,omitempty" doc:"What to do or run now"`
	// Servers are the API addresses, host:port, of hosts that can do what this one cannot; only with CodeMisdirected.
	Servers []string `json:"servers,omitempty" doc:"Hosts that can do what this one cannot, as host:port"`
	// Status is the HTTP status code.
	Status int `json:"-"`
}

// Error returns the message and the next step.
func (e *Error) Error() string {
	if e.Next == "" {
		return e.Message
	}
	return e.Message + "; " + e.Next
}

// GetStatus is the HTTP status code to answer with.
func (e *Error) GetStatus() int {
	if e.Status != 0 {
		return e.Status
	}
	for _, c := range codes {
		if c.code == e.Code {
			return c.status
		}
	}
	return http.StatusInternalServerError
}

// Unwrap gives the error back its identity: errors.Is(err, fabric.ErrNotFound) holds on both sides of the connection.
func (e *Error) Unwrap() error {
	for _, c := range codes {
		if c.code == e.Code {
			return c.err
		}
	}
	return nil
}

// codes maps identities to status codes, most particular first.
var codes = []struct {
	code   Code
	err    error
	status int
}{
	{CodeStaleEpoch, fabric.ErrStaleEpoch, http.StatusConflict},
	{CodeConflict, fabric.ErrConflict, http.StatusConflict},
	{CodeNotFound, fabric.ErrNotFound, http.StatusNotFound},
	{CodeInvalid, fabric.ErrInvalid, http.StatusUnprocessableEntity},
	{CodeForbidden, ErrForbidden, http.StatusForbidden},
	{CodeUnavailable, ErrUnavailable, http.StatusServiceUnavailable},
	{CodeMisdirected, ErrMisdirected, http.StatusMisdirectedRequest},
}

// ErrorOf turns any error into the API's shape; an *Error stays what it is.
func ErrorOf(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return &Error{Message: strings.TrimSuffix(err.Error(), ": "+c.err.Error()), Code: c.code}
		}
	}
	return &Error{Message: err.Error(), Code: CodeInternal}
}
