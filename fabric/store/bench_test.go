package store_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/store"
	"github.com/weftnet/weft/fabric/store/storetest"
)

// fill writes a switch with n ports.
func fill(b *testing.B, s *store.Store, n int) {
	b.Helper()
	objects := []fabric.Object{newSwitch("blue", "10.0.0.0/16")}
	for i := range n {
		objects = append(objects, newPort(fmt.Sprintf("web-server-%d", i), "blue"))
		if len(objects) == 1000 {
			if _, err := s.Apply(b.Context(), objects, store.ApplyOptions{}); err != nil {
				b.Fatal(err)
			}
			objects = objects[:0]
		}
	}
	if _, err := s.Apply(b.Context(), objects, store.ApplyOptions{}); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkTenThousandPorts(b *testing.B) {
	s := storetest.Start(b).Open(b)
	fill(b, s, 10000)
	b.Run("one more port", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			if _, err := s.Apply(b.Context(), []fabric.Object{newPort(fmt.Sprintf("x%d", i), "blue")}, store.ApplyOptions{}); err != nil {
				b.Fatal(err)
			}
			if _, err := s.Delete(b.Context(), fabric.KindPort, fmt.Sprintf("x%d", i)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("a snapshot", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.Snapshot(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("a snapshot beside a follow", func(b *testing.B) {
		ctx, cancel := context.WithCancel(b.Context())
		defer cancel()
		first, done := make(chan struct{}, 1), make(chan struct{})
		go func() {
			defer close(done)
			_ = s.Follow(ctx, func(*fabric.Snapshot) {
				select {
				case first <- struct{}{}:
				default:
				}
			})
		}()
		<-first
		for b.Loop() {
			if _, err := s.Snapshot(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
		cancel()
		<-done
	})
}
