package export

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protojson"
)

// spanFile keeps spans on this host in OpenTelemetry's file format: one TracesData message a line, in OTLP's JSON
// encoding (opentelemetry.io/docs/specs/otel/protocol/file-exporter). When half of the room is used up the file becomes
// FILE.1, and what was FILE.1 is gone.
type spanFile struct {
	path string
	half int64

	mu   sync.Mutex
	file *os.File
	size int64
}

var _ otlptrace.Client = (*spanFile)(nil)

func newSpanFile(path string, maxBytes int64) (*spanFile, error) {
	if maxBytes == 0 {
		maxBytes = 16 << 20
	}
	f := &spanFile{path: path, half: maxBytes / 2}
	if err := privateDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	return f, f.open()
}

func (f *spanFile) open() error {
	file, err := os.OpenFile(f.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		_ = file.Close()
		return err
	}
	f.file, f.size = file, info.Size()
	return nil
}

// Start has nothing to connect.
func (f *spanFile) Start(context.Context) error { return nil }

// Stop closes the file.
func (f *spanFile) Stop(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.file == nil {
		return nil
	}
	err := f.file.Close()
	f.file = nil
	return err
}

// UploadTraces appends one line.
func (f *spanFile) UploadTraces(_ context.Context, spans []*tracepb.ResourceSpans) error {
	line, err := spanLine(spans)
	if err != nil {
		return fmt.Errorf("encode spans: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.file == nil {
		return fmt.Errorf("write %s: %w", f.path, os.ErrClosed)
	}
	if f.size > 0 && f.size+int64(len(line)) > f.half {
		if err := f.rotate(); err != nil {
			return err
		}
	}
	n, err := f.file.Write(line)
	f.size += int64(n)
	return err
}

func (f *spanFile) rotate() error {
	if err := os.Rename(f.path, f.path+".1"); err != nil {
		return fmt.Errorf("rotate %s: %w", f.path, err)
	}
	old := f.file
	if err := f.open(); err != nil {
		return fmt.Errorf("rotate %s: %w", f.path, err)
	}
	return old.Close()
}

// spanLine is the OTLP-JSON of spans: as protojson writes it, but enumerations are numbers and trace and span ids are hex
// (OTLP specification, JSON Protobuf encoding).
func spanLine(spans []*tracepb.ResourceSpans) ([]byte, error) {
	raw, err := protojson.MarshalOptions{UseEnumNumbers: true}.Marshal(&tracepb.TracesData{ResourceSpans: spans})
	if err != nil {
		return nil, err
	}
	var tree any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&tree); err != nil {
		return nil, err
	}
	if err := hexIDs(tree); err != nil {
		return nil, err
	}
	line, err := json.Marshal(tree)
	return append(line, '\n'), err
}

// hexIDs rewrites all ids below node from base64.
func hexIDs(node any) error {
	switch node := node.(type) {
	case []any:
		for _, child := range node {
			if err := hexIDs(child); err != nil {
				return err
			}
		}
	case map[string]any:
		for key, child := range node {
			text, isText := child.(string)
			if isText && (key == "traceId" || key == "spanId" || key == "parentSpanId") {
				id, err := base64.StdEncoding.DecodeString(text)
				if err != nil {
					return fmt.Errorf("%s %q: %w", key, text, err)
				}
				node[key] = hex.EncodeToString(id)
				continue
			}
			if err := hexIDs(child); err != nil {
				return err
			}
		}
	}
	return nil
}
