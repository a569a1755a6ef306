package export

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/weftnet/weft/fabric"
)

// A segment file is a sequence of frames: length of the payload (u32, little endian), CRC-32C of the payload (u32), the
// payload, which is one JSON line. The file's name is the sequence number of its first event.
const (
	frameHeader  = 8
	maxPayload   = 64 << 10
	segmentStart = "events-"
	segmentEnd   = ".log"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errTorn: the bytes are no whole frame; what is before them is good.
var errTorn = errors.New("torn frame")

// Record is an event in the log of its host.
type Record struct {
	// Seq counts the host's events from 1 without gaps.
	Seq uint64 `json:"seq"`
	fabric.Event
}

// encode is the frame of a record.
func encode(r Record) ([]byte, error) {
	line, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode event %q: %w", r.Type, err)
	}
	line = append(line, '\n')
	if len(line) > maxPayload {
		return nil, fmt.Errorf("event %q has %d bytes, the log takes %d: %w", r.Type, len(line), maxPayload, fabric.ErrInvalid)
	}
	frame := make([]byte, frameHeader, frameHeader+len(line))
	binary.LittleEndian.PutUint32(frame[0:], uint32(len(line)))
	binary.LittleEndian.PutUint32(frame[4:], crc32.Checksum(line, castagnoli))
	return append(frame, line...), nil
}

// decode reads one frame. It returns io.EOF at a clean end, errTorn where there is no whole and correct frame.
func decode(r io.Reader) (record Record, size int64, err error) {
	var header [frameHeader]byte
	switch _, err := io.ReadFull(r, header[:]); {
	case errors.Is(err, io.EOF):
		return record, 0, io.EOF
	case errors.Is(err, io.ErrUnexpectedEOF):
		return record, 0, errTorn
	case err != nil:
		return record, 0, err
	}
	length := binary.LittleEndian.Uint32(header[0:])
	if length == 0 || length > maxPayload {
		return record, 0, errTorn
	}
	line := make([]byte, length)
	switch _, err := io.ReadFull(r, line); {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return record, 0, errTorn
	case err != nil:
		return record, 0, err
	}
	if crc32.Checksum(line, castagnoli) != binary.LittleEndian.Uint32(header[4:]) {
		return record, 0, errTorn
	}
	if err := json.Unmarshal(line, &record); err != nil {
		return record, 0, errTorn
	}
	return record, frameHeader + int64(length), nil
}

// segmentName is the file that begins with this event.
func segmentName(dir string, first uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%s%020d%s", segmentStart, first, segmentEnd))
}

// segments lists the first events of all segment files, oldest first. Files of other names are left alone.
func segments(dir string) ([]uint64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var firsts []uint64
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), segmentStart)
		if !ok {
			continue
		}
		if digits, ok = strings.CutSuffix(digits, segmentEnd); !ok {
			continue
		}
		if first, err := strconv.ParseUint(digits, 10, 64); err == nil {
			firsts = append(firsts, first)
		}
	}
	slices.Sort(firsts)
	return firsts, nil
}
