package store

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/weftnet/weft/fabric"
)

// chooseSwitch finds the switch of a port that names labels instead: the one it is on, else, of those that carry all the labels, the
// one with the fewest ports, the first by name where several have as few. What other ports are created meanwhile does not matter: the
// choice balances, it does not ration.
func (a *applying) chooseSwitch(p *fabric.Port, on fabric.SwitchID) (fabric.SwitchID, error) {
	if on != "" {
		return on, nil
	}
	records, err := a.scan(kindPrefix(fabric.KindSwitch), false)
	if err != nil {
		return "", err
	}
	var chosen fabric.SwitchID
	fewest := 0
	for _, r := range records {
		o, err := decodeObject(r)
		if err != nil {
			continue // a record that cannot be read is no switch to put a port on
		}
		if !carries(o.Meta().Labels, p.Spec.SwitchLabels) {
			continue
		}
		if p.Spec.Host != "" && !as[*fabric.Switch](o).Covers(p.Spec.Host) {
			continue
		}
		name := fabric.SwitchID(o.Meta().Name)
		ports, err := a.scan(portsOf(name), true)
		if err != nil {
			return "", err
		}
		if chosen == "" || len(ports) < fewest {
			chosen, fewest = name, len(ports)
		}
	}
	if chosen == "" {
		return "", fmt.Errorf("spec.switchLabels: no switch carries %s: label one (weft set switch NAME labels.KEY=VALUE), or name the switch: %w",
			labelText(p.Spec.SwitchLabels), fabric.ErrInvalid)
	}
	return chosen, nil
}

// carries reports whether labels has every one of wanted.
func carries(labels, wanted map[string]string) bool {
	for k, v := range wanted {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

// labelText is "tier=web, zone=a".
func labelText(labels map[string]string) string {
	var words []string
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		words = append(words, k+"="+labels[k])
	}
	return strings.Join(words, ", ")
}
