package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"time"

	"github.com/weftnet/weft/agent/plan"
	"github.com/weftnet/weft/fabric"
)

// local is what only this host knows: what is plugged in, and how far its part of each move is. Every change is on disk
// before it is acted upon, so that an agent that was killed goes on where it was.
type local struct {
	Attachments map[fabric.PortID]attachment    `json:"attachments,omitempty"`
	Handoffs    map[fabric.PortID]plan.Handoff  `json:"handoffs,omitempty"`
	Staged      map[fabric.PortID]fabric.MoveID `json:"staged,omitempty"`
	Expects     map[fabric.PortID]fabric.MoveID `json:"expects,omitempty"`
	Moves       map[fabric.MoveID]incoming      `json:"moves,omitempty"`
	// Begun are the moves from here whose copy has begun without being recorded, and where the guest is expected.
	Begun map[fabric.MoveID]string `json:"begun,omitempty"`
	// Libvirt is true once this host's libvirt was given what it needs to use the fabric.
	Libvirt bool `json:"libvirt,omitempty"`
}

// incoming is a machine that waits here for the guest of a move.
type incoming struct {
	// URI is where it waits, in QEMU's migration URI form; QMP the path of its monitor's socket.
	URI string `json:"uri"`
	QMP string `json:"qmp"`
}

// attachment is a device that carries a port, and how its guest is spoken to.
type attachment struct {
	plan.Attachment
	// QMP is the path of the guest's QMP socket, empty when it has none.
	QMP string `json:"qmp,omitempty"`
	// Adopted is true for a device that its hypervisor has put on a bridge: when it is gone, the port is given up.
	Adopted bool `json:"adopted,omitempty"`
}

// clone copies, so that a change can be prepared without being seen.
func (l local) clone() local {
	return local{
		Attachments: cloneMap(l.Attachments), Handoffs: cloneMap(l.Handoffs), Staged: cloneMap(l.Staged), Expects: cloneMap(l.Expects), Moves: cloneMap(l.Moves),
		Begun: cloneMap(l.Begun), Libvirt: l.Libvirt,
	}
}

// cloneMap is a copy that can be written to.
func cloneMap[K comparable, V any](m map[K]V) map[K]V {
	out := make(map[K]V, len(m))
	maps.Copy(out, m)
	return out
}

// localPath is where it is kept.
func localPath(stateDir string) string { return filepath.Join(stateDir, "local") }

// loadLocal reads it; an absent file is a host without guests. After errDamaged the value is empty and usable: ports that
// are not remembered keep what the kernel holds until their devices are attached again.
func loadLocal(stateDir string, now time.Time) (local, error) {
	body, err := unseal(localPath(stateDir), "local", now)
	if errors.Is(err, fs.ErrNotExist) {
		return local{}.clone(), nil
	}
	if err != nil {
		return local{}.clone(), err
	}
	l, err := readLocal(body)
	if err != nil {
		return local{}.clone(), fmt.Errorf("read %s: %w", localPath(stateDir), err)
	}
	return l.clone(), nil
}

// readLocal is the inverse of write.
func readLocal(body []byte) (l local, err error) {
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&l); err != nil {
		return l, err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return l, fmt.Errorf("something follows after byte %d", decoder.InputOffset())
	}
	return l, nil
}

// save writes it.
func (l local) save(stateDir string) error {
	return seal(localPath(stateDir), "local", l.write)
}

func (l local) write(w io.Writer) error { return json.NewEncoder(w).Encode(l) }
