package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/fabric"
)

func TestFlagsSayWhatFieldsSay(t *testing.T) {
	flags := func(args ...string) (fabric.Settings, error) {
		var s fabric.Settings
		cmd := &cobra.Command{}
		limitFlags(cmd, &s)
		settingFlags(cmd, &s)
		allowedFlag(cmd, &s)
		return s, cmd.ParseFlags(args)
	}
	s, err := flags("--storm", "broadcast=100", "--storm", "multicast=1k/10M", "--storm", "unknown=/1M", "--spoofing", "--sibling=false", "--mac-limit", "16",
		"--allow-mac", "02:00:00:00:00:10", "--require", "rate,storm", "--priority", "trusted,dscp", "--meter", "0.0.0.0/0", "--meter", "out=10.0.0.0/8")
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"storm":{"broadcast":{"pps":"100"},"multicast":{"pps":"1k","rate":"10M"},"unknown":{"rate":"1M"}}`,
		`"macs":{"spoofing":true,"allowed":["02:00:00:00:00:10"],"sibling":false,"limit":16}`, `"requires":["rate","storm"]`,
		`"priority":{"trusted":true,"dscp":true}`, `"meters":[{"prefix":"0.0.0.0/0"},{"prefix":"10.0.0.0/8","direction":"out"}]`,
	} {
		if !strings.Contains(string(got), want) {
			t.Errorf("%s\nlacks %s", got, want)
		}
	}
	for args, want := range map[string]string{
		"--storm=broadcast": "write broadcast=100", "--storm=broadcast=": "write broadcast=100", "--storm=unicast=1": "the kinds are broadcast, multicast, unknown",
		"--priority=high": "neither trusted nor dscp", "--meter=10.0.0.1": "not a prefix", "--mac-limit=0": "no number of MACs", "--allow-mac=x": "x", "--spoofing=perhaps": "neither true nor false",
	} {
		if _, err := flags(args); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
}
