package plan_test

import (
	"flag"
	"os"
	"testing"
)

// TestMain has the properties tried more often than rapid does by default: what they look for takes several coincidences.
func TestMain(m *testing.M) {
	if err := flag.Set("rapid.checks", "2000"); err != nil {
		panic(err)
	}
	flag.Parse()
	os.Exit(m.Run())
}
