package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"regexp"
	"runtime/debug"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/store"
)

// unwrap is the request and writer beneath huma's context.
func unwrap(ctx huma.Context) (*http.Request, http.ResponseWriter) { return humago.Unwrap(ctx) }

// register adds an operation whose errors leave in the API's one shape.
func register[I, O any](s *Server, op huma.Operation, do func(context.Context, *I) (*O, error)) {
	huma.Register(s.api, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := do(ctx, in)
		if err == nil {
			return out, nil
		}
		e := failure(err)
		if e.Code == api.CodeInternal {
			s.o.Logger.ErrorContext(ctx, "a request failed", "operation", op.OperationID, "error", err)
		}
		return nil, e
	})
}

// failure is an error in the API's shape, with what the layers below say about it.
func failure(err error) *api.Error {
	e := api.ErrorOf(err)
	var findings fabric.Findings
	switch {
	case e.Code != api.CodeInternal:
		if e.Field == "" && errors.As(err, &findings) && len(findings) > 0 {
			e.Field = findings[0].Path
		}
	case errors.Is(err, store.ErrNotAllowed):
		e.Code, e.Next = api.CodeForbidden, "see the certificate of etcd.tls in the agent's configuration: docs/guide/external-etcd.md"
	case errors.Is(err, store.ErrUnavailable):
		e.Code, e.Message, e.Next = api.CodeUnavailable, brief(err), "weft status shows which members of etcd are away; traffic goes on meanwhile"
	case errors.Is(err, context.DeadlineExceeded):
		e.Code, e.Next = api.CodeUnavailable, "weft status shows what is away; traffic goes on meanwhile"
	case e.Next == "":
		e.Next = "look at the agent's log: journalctl -u weft"
	}
	return e
}

// endpoints are etcd's addresses within an error: three URLs in every message hide what it says. They are in the agent's log.
var endpoints = regexp.MustCompile(` at https?://[^\s,]+(, https?://[^\s,]+)*`)

// brief is what an error of the store says in one line.
func brief(err error) string {
	text, _, _ := strings.Cut(err.Error(), ": "+store.ErrUnavailable.Error())
	return endpoints.ReplaceAllString(text, "")
}

// about names the object that an error is about.
func about(object string, err error) error {
	e := failure(err)
	if e.Object == "" {
		e.Object = object
	}
	return e
}

// fail answers with an error from a middleware, where handlers would return it.
func (s *Server) fail(ctx huma.Context, err error) {
	_, w := unwrap(ctx)
	writeError(w, failure(err))
}

// writeError answers with an error in the API's one shape.
func writeError(w http.ResponseWriter, e *api.Error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(e.GetStatus())
	_ = json.NewEncoder(w).Encode(e) // the caller may be gone; there is nobody else to tell
}

// shape turns huma's own errors (a body that does not match the schema) into the API's one shape.
func shape(ctx huma.Context, _ string, v any) (any, error) {
	m, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	ctx.SetHeader("Content-Type", "application/json")
	e := &api.Error{Status: m.Status, Code: api.CodeInvalid, Message: m.Detail}
	if m.Status >= 500 {
		e.Code, e.Next = api.CodeInternal, "look at the agent's log: journalctl -u weft"
	}
	var details []string
	for _, d := range m.Errors {
		details = append(details, detail(d))
		if e.Field == "" {
			e.Field = strings.TrimPrefix(d.Location, "body.")
		}
	}
	if len(details) > 0 {
		e.Message = strings.Join(details, "; ")
	}
	if e.Code == api.CodeInvalid {
		e.Next = "the fields of every request are in /openapi.json"
	}
	return e, nil
}

// detail is one complaint of huma in a sentence.
func detail(d *huma.ErrorDetail) string {
	where := strings.TrimPrefix(strings.TrimPrefix(d.Location, "body"), ".")
	switch {
	case where == "" && d.Location == "body":
		return "the body is not what the operation takes: " + d.Message
	case where == "":
		return d.Message
	default:
		return where + ": " + d.Message
	}
}

// texts answers what no operation takes: unknown paths, wrong methods, bodies that are not JSON.
func texts(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, pattern := mux.Handler(r)
		if pattern == "" {
			writeError(w, unrouted(h, w, r))
			return
		}
		if t := r.Header.Get("Content-Type"); t != "" && r.ContentLength != 0 {
			if m, _, err := mime.ParseMediaType(t); err != nil || m != "application/json" {
				writeError(w, &api.Error{
					Status: http.StatusUnsupportedMediaType, Code: api.CodeInvalid,
					Message: fmt.Sprintf("%s %s: the body is %s, but the API reads application/json", r.Method, r.URL.Path, t),
					Next:    "convert it, or give the YAML file to: weft apply -f FILE",
				})
				return
			}
		}
		if e := readBody(w, r); e != nil {
			writeError(w, e)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// readBody reads the whole body at once, in bounded time and size. The deadline is taken off again before the operation
// runs: net/http cancels a request whose connection passes a read deadline, however long its body has been read.
func readBody(w http.ResponseWriter, r *http.Request) *api.Error {
	if r.Body == nil || r.ContentLength == 0 {
		return nil
	}
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(slowest)) // unsupported only where tests record the answer
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, api.MaxBody))
	_ = control.SetReadDeadline(time.Time{})
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return &api.Error{
			Status: http.StatusRequestEntityTooLarge, Code: api.CodeInvalid, Next: "split it into several requests",
			Message: fmt.Sprintf("%s %s: the request is larger than the %d MiB that the API reads", r.Method, r.URL.Path, api.MaxBody>>20),
		}
	case err != nil:
		return &api.Error{Status: http.StatusRequestTimeout, Code: api.CodeInvalid, Message: fmt.Sprintf("%s %s: the body did not come within %s: %v", r.Method, r.URL.Path, slowest, err), Next: "send it again"}
	}
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(b)), int64(len(b))
	return nil
}

// unrouted asks the mux why it has no handler: a wrong path, or a wrong method on a right one.
func unrouted(h http.Handler, w http.ResponseWriter, r *http.Request) *api.Error {
	said := refusal{header: http.Header{}}
	h.ServeHTTP(&said, r)
	if said.code == http.StatusMethodNotAllowed {
		allow := said.header.Get("Allow")
		w.Header().Set("Allow", allow)
		return &api.Error{
			Status: http.StatusMethodNotAllowed, Code: api.CodeInvalid,
			Message: fmt.Sprintf("%s does not take %s; it takes %s", r.URL.Path, r.Method, allow), Next: "see /openapi.json",
		}
	}
	return &api.Error{
		Status: http.StatusNotFound, Code: api.CodeNotFound,
		Message: fmt.Sprintf("the API has no %s", r.URL.Path), Next: "see /openapi.json for what there is",
	}
}

// refusal keeps what the mux answers to a request it has no handler for, except the text.
type refusal struct {
	header http.Header
	code   int
}

func (r *refusal) Header() http.Header         { return r.header }
func (r *refusal) WriteHeader(code int)        { r.code = code }
func (r *refusal) Write(b []byte) (int, error) { return len(b), nil }

// recover answers a defect with an error instead of a torn connection, and logs where it was.
func (s *Server) recover(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(v)
			}
			s.o.Logger.Error("a request met a defect", "method", r.Method, "path", r.URL.Path, "panic", v, "stack", string(debug.Stack()))
			writeError(w, &api.Error{
				Code: api.CodeInternal, Message: fmt.Sprintf("%s %s met a defect of weft", r.Method, r.URL.Path),
				Next: "please report it with the agent's log: journalctl -u weft",
			})
		}()
		next.ServeHTTP(w, r)
	})
}
