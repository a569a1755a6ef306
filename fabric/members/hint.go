package members

import (
	"errors"
	"fmt"

	"github.com/hashicorp/memberlist"

	"github.com/weftnet/weft/fabric"
)

// MaxHint is the largest hint in bytes: with everything around it, it fits one packet of any underlay.
const MaxHint = 1024

// hintVersion is the first byte of every hint; others are of another release and ignored.
const hintVersion = 1

// Hint is a short message that makes something faster and may be lost, repeated or made up by anybody with the gossip key.
type Hint struct {
	// From is who says to have sent it.
	From    fabric.HostID
	Payload []byte
}

// Hint sends a payload of at most MaxHint bytes to every host that is alive, once, without waiting for anybody. The error
// names the hosts it could not be sent to; fabric.ErrInvalid when it is too large.
func (m *Members) Hint(payload []byte) error {
	if len(payload) > MaxHint {
		return fmt.Errorf("send a hint: %d bytes, the most is %d: %w", len(payload), MaxHint, fabric.ErrInvalid)
	}
	message := encodeHint(Hint{From: m.options.Host, Payload: payload})
	var errs []error
	for _, n := range m.list.Members() {
		if n.Name == string(m.options.Host) {
			continue
		}
		if err := m.list.SendBestEffort(n, message); err != nil {
			errs = append(errs, fmt.Errorf("send a hint to host %s: %w", n.Name, err))
		}
	}
	return errors.Join(errs...)
}

// Hints are what others sent, in the order of arrival. Who does not read for long loses the oldest. The channel is never
// closed.
func (m *Members) Hints() <-chan Hint { return m.hints }

func encodeHint(h Hint) []byte {
	b := append([]byte{hintVersion, byte(len(h.From))}, h.From...)
	return append(b, h.Payload...)
}

// decodeHint reads foreign bytes; ok is false when they are not a hint.
func decodeHint(b []byte) (h Hint, ok bool) {
	if len(b) < 2 || b[0] != hintVersion || len(b) < 2+int(b[1]) || len(b)-2-int(b[1]) > MaxHint {
		return Hint{}, false
	}
	name := string(b[2 : 2+int(b[1])])
	if fabric.CheckName(name) != nil {
		return Hint{}, false
	}
	// The bytes belong to memberlist and are used again.
	return Hint{From: fabric.HostID(name), Payload: append([]byte{}, b[2+len(name):]...)}, true
}

// offer puts a value into a channel that is read later; when it is full, the oldest goes.
func offer[T any](c chan T, v T) {
	for {
		select {
		case c <- v:
			return
		default:
		}
		select {
		case <-c:
		default:
		}
	}
}

// delegate is what memberlist calls; none of it may block.
type delegate struct{ *Members }

var (
	_ memberlist.Delegate         = delegate{}
	_ memberlist.EventDelegate    = delegate{}
	_ memberlist.ConflictDelegate = delegate{}
)

// NotifyMsg implements memberlist.Delegate.
func (d delegate) NotifyMsg(b []byte) {
	h, ok := decodeHint(b)
	if !ok {
		d.log.Debug("gossip brought something that is no hint of this release", "bytes", len(b))
		return
	}
	offer(d.hints, h)
}

// NotifyJoin implements memberlist.EventDelegate.
func (d delegate) NotifyJoin(n *memberlist.Node) {
	offer(d.changes, Change{Host: fabric.HostID(n.Name), Alive: true, At: at(n)})
}

// NotifyLeave implements memberlist.EventDelegate.
func (d delegate) NotifyLeave(n *memberlist.Node) {
	offer(d.changes, Change{Host: fabric.HostID(n.Name), At: at(n)})
}

// NotifyUpdate implements memberlist.EventDelegate.
func (d delegate) NotifyUpdate(*memberlist.Node) {}

// NotifyConflict implements memberlist.ConflictDelegate.
func (d delegate) NotifyConflict(existing, other *memberlist.Node) {
	d.log.Warn("two machines gossip under one host name: rename one", "host", existing.Name, "address", at(existing), "other", at(other))
}

// NodeMeta implements memberlist.Delegate: nothing is said about this host but its name.
func (d delegate) NodeMeta(int) []byte { return nil }

// GetBroadcasts implements memberlist.Delegate: hints are sent straight to everybody instead.
func (d delegate) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState implements memberlist.Delegate.
func (d delegate) LocalState(bool) []byte { return nil }

// MergeRemoteState implements memberlist.Delegate.
func (d delegate) MergeRemoteState([]byte, bool) {}
