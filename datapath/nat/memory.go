package nat

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// bootID is another after every start of the machine, which switches off what we have opened.
const bootID = "/proc/sys/kernel/random/boot_id"

// remembered are the devices that a file of this boot says we have opened; none where there is no such file. The table says so too,
// but another may have removed it while no agent ran.
func remembered(file string) ([]Opened, error) {
	if file == "" {
		return nil, nil
	}
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read which devices' forwarding was opened: %w", err)
	}
	boot, err := os.ReadFile(bootID)
	if err != nil {
		return nil, err
	}
	lines := strings.Split(string(b), "\n")
	if lines[0] != strings.TrimSpace(string(boot)) {
		return nil, nil
	}
	var opened []Opened
	for _, line := range lines[1:] {
		if o, ok := parseOpened(line); ok {
			opened = append(opened, o)
		}
	}
	return opened, nil
}

// remember writes the file, in one step; it is done before anything is opened.
func remember(file string, opened []Opened) error {
	if file == "" {
		return nil
	}
	boot, err := os.ReadFile(bootID)
	if err != nil {
		return err
	}
	text := strings.TrimSpace(string(boot)) + "\n"
	for _, o := range opened {
		text += o.String() + "\n"
	}
	if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
		return fmt.Errorf("write which devices' forwarding is opened: %w", err)
	}
	return os.Rename(file+".new", file)
}

// parseOpened reads what Opened.String has written.
func parseOpened(s string) (Opened, bool) {
	name, device, ok := strings.Cut(s, " ")
	return Opened{Device: device, Six: name == "ipv6"}, ok
}

// union is all that either holds, each once.
func union(all ...[]Opened) (out []Opened) {
	for _, o := range slices.Concat(all...) {
		if !slices.Contains(out, o) {
			out = append(out, o)
		}
	}
	return out
}
