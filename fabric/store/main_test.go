package store_test

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain checks that stores, follows and members leave nothing running.
func TestMain(m *testing.M) {
	code := m.Run()
	var left error
	for range 5 {
		if left = goleak.Find(); left == nil {
			break
		}
	}
	if left != nil && code == 0 {
		fmt.Fprintln(os.Stderr, left)
		code = 1
	}
	os.Exit(code)
}
