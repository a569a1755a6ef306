package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// commands are the QMP commands of a pump: those a migration needs, and those that make a guest stand still.
func (p *pump) commands() map[string]command {
	return map[string]command{
		"query-status": func(json.RawMessage) (any, error) {
			p.mu.Lock()
			defer p.mu.Unlock()
			return map[string]any{"status": p.state, "running": p.wire != nil, "singlestep": false}, nil
		},
		"stop":                       func(json.RawMessage) (any, error) { p.stop(statePaused, true); return nil, nil },
		"cont":                       func(json.RawMessage) (any, error) { return nil, p.doCont() },
		"migrate":                    p.doMigrate,
		"migrate_cancel":             func(json.RawMessage) (any, error) { p.cancelMove(); return nil, nil },
		"migrate-continue":           func(json.RawMessage) (any, error) { return nil, p.proceedMove() },
		"query-migrate":              func(json.RawMessage) (any, error) { return p.queryMigrate(), nil },
		"migrate-set-capabilities":   p.setCapabilities,
		"query-migrate-capabilities": func(json.RawMessage) (any, error) { return p.queryCapabilities(), nil },
		"migrate-set-parameters":     func(json.RawMessage) (any, error) { return nil, nil }, // there is no memory to copy
		"announce-self":              func(json.RawMessage) (any, error) { return nil, announce(pumpHostTap, p.config.MAC) },
		"quit":                       func(json.RawMessage) (any, error) { p.monitor.event("SHUTDOWN", nil); p.quit(); return nil, nil },
		"query-name":                 func(json.RawMessage) (any, error) { return map[string]string{"name": p.config.Guest}, nil },
		"x-weft-set-pause":           func(a json.RawMessage) (any, error) { return nil, p.setTime(a, &p.config.Pause) },
		"x-weft-set-copy":            func(a json.RawMessage) (any, error) { return nil, p.setTime(a, &p.config.Copy) },
		"query-migrate-parameters":   func(json.RawMessage) (any, error) { return struct{}{}, nil },
	}
}

func (p *pump) doCont() error {
	p.mu.Lock()
	state := p.state
	p.mu.Unlock()
	switch state {
	case stateRunning:
		return nil
	case statePaused, statePost:
		return p.resume()
	}
	return fmt.Errorf("the guest is in state %s and cannot go on", state)
}

// knownCapabilities are the migration capabilities a pump has.
var knownCapabilities = []string{"events", "pause-before-switchover"}

func (p *pump) setCapabilities(arguments json.RawMessage) (any, error) {
	var request struct {
		Capabilities []struct {
			Capability string `json:"capability"`
			State      bool   `json:"state"`
		} `json:"capabilities"`
	}
	if err := json.Unmarshal(arguments, &request); err != nil {
		return nil, err
	}
	for _, c := range request.Capabilities {
		if !slices.Contains(knownCapabilities, c.Capability) {
			return nil, fmt.Errorf("a pump has no migration capability %q, only %s", c.Capability, strings.Join(knownCapabilities, " and "))
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range request.Capabilities {
		p.caps[c.Capability] = c.State
	}
	return nil, nil
}

func (p *pump) queryCapabilities() any {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []map[string]any
	for _, name := range knownCapabilities {
		list = append(list, map[string]any{"capability": name, "state": p.caps[name]})
	}
	return list
}

// maxPause bounds how long a guest can be made to stand still, or to run on, in a migration.
const maxPause = time.Hour

// setTime sets how long a part of the migrations to come takes, besides what it has to.
func (p *pump) setTime(arguments json.RawMessage, which *time.Duration) error {
	var request struct {
		Milliseconds float64 `json:"ms"`
	}
	if err := json.Unmarshal(arguments, &request); err != nil {
		return err
	}
	if request.Milliseconds < 0 || request.Milliseconds > float64(maxPause.Milliseconds()) {
		return fmt.Errorf("a part of a migration can be made to take 0 ms to %d ms, not %g ms", maxPause.Milliseconds(), request.Milliseconds)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	*which = time.Duration(request.Milliseconds * float64(time.Millisecond))
	return nil
}

func (p *pump) queryMigrate() any {
	p.mu.Lock()
	defer p.mu.Unlock()
	answer := map[string]any{}
	if p.move != moveNone {
		answer["status"] = p.move
	}
	if p.move == moveCompleted {
		answer["downtime"] = p.downtime.Milliseconds()
	}
	if p.move == moveFailed {
		answer["error-desc"] = p.reason
	}
	return answer
}

// doMigrate begins a migration to the pump that waits at pump:SOCKET and returns at once.
func (p *pump) doMigrate(arguments json.RawMessage) (any, error) {
	var request struct {
		URI string `json:"uri"`
	}
	if err := json.Unmarshal(arguments, &request); err != nil {
		return nil, err
	}
	socket, ok := strings.CutPrefix(request.URI, "pump:")
	if !ok {
		return nil, fmt.Errorf("unknown migration protocol in %q: a pump migrates to pump:SOCKET", request.URI)
	}
	return nil, p.beginMove(socket)
}

func (p *pump) cancelMove() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cancel != nil {
		p.cancel()
	}
}

func (p *pump) proceedMove() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.move != movePre {
		return errors.New("migrate-continue: the migration does not wait before its switchover")
	}
	close(p.proceed)
	p.move = moveDevice
	return nil
}
