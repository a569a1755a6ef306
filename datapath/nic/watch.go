package nic

import (
	"context"
	"fmt"

	"github.com/vishvananda/netlink"
)

// Watch tells that devices of this namespace have come, gone or changed, until ctx ends; then the channel is closed. It is
// a hint to look again: many changes may be told once, and after an overrun of the kernel's queue it is told as well.
func Watch(ctx context.Context) (<-chan struct{}, error) {
	updates, done, lost := make(chan netlink.LinkUpdate, 64), make(chan struct{}), make(chan struct{}, 1)
	subscribe := func() error {
		return netlink.LinkSubscribeWithOptions(updates, done, netlink.LinkSubscribeOptions{ErrorCallback: func(error) {
			select {
			case lost <- struct{}{}:
			default:
			}
		}})
	}
	if err := subscribe(); err != nil {
		return nil, fmt.Errorf("watch the devices: %w%s", err, remedy(err))
	}
	hints := make(chan struct{}, 1)
	go func() {
		defer close(hints)
		defer func() {
			close(done)
			for range updates { // the subscription ends when nobody keeps it waiting
			}
		}()
		for {
			select {
			case <-ctx.Done():
				return
			case <-lost:
			case _, open := <-updates:
				if open {
					break
				}
				// The subscription has ended, as after an overrun: begin another, and look again in any case.
				updates = make(chan netlink.LinkUpdate, 64)
				if subscribe() != nil {
					close(updates)
					return
				}
			}
			select {
			case hints <- struct{}{}:
			default:
			}
		}
	}()
	return hints, nil
}
