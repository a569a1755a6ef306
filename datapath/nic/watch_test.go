package nic

import (
	"context"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestWatchTellsOfDevicesThatComeAndGo(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	n := space(t, "watch")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var hints <-chan struct{}
	in(t, n, func() (err error) { hints, err = Watch(ctx); return err })
	told := func(what string) {
		t.Helper()
		select {
		case <-hints:
		case <-time.After(5 * time.Second):
			t.Fatalf("nothing was told of a device that %s", what)
		}
	}
	in(t, n, func() error { return CreateBridge("br0", 1500) })
	told("came")
	in(t, n, func() error { return Delete("br0") })
	told("went")
	cancel()
	for range hints { // hints that wait still, then the end
	}
}
