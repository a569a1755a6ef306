package nic

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
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

// Gone tells the index of each device that leaves this namespace, deleted or moved to another one, as soon as the kernel
// says so, until ctx ends; then the channel is closed. What is told while a subscription is renewed after an overrun of the
// kernel's queue is missed: look at the devices from time to time as well.
func Gone(ctx context.Context) (<-chan int, error) {
	here, err := netns.Get()
	if err != nil {
		return nil, fmt.Errorf("watch the devices: %w", err)
	}
	updates, done := make(chan netlink.LinkUpdate, 64), make(chan struct{})
	subscribe := func() error {
		return netlink.LinkSubscribeWithOptions(updates, done, netlink.LinkSubscribeOptions{Namespace: &here, ErrorCallback: func(error) {}})
	}
	if err := subscribe(); err != nil {
		return nil, errors.Join(fmt.Errorf("watch the devices: %w%s", err, remedy(err)), here.Close())
	}
	gone := make(chan int, 64)
	go func() {
		defer close(gone)
		defer here.Close()
		defer func() {
			close(done)
			for range updates { // the subscription ends when nobody keeps it waiting
			}
		}()
		for {
			select {
			case <-ctx.Done():
				return
			case u, open := <-updates:
				if !open {
					updates = make(chan netlink.LinkUpdate, 64)
					if subscribe() != nil {
						close(updates)
						return
					}
				}
				// A device that leaves a bridge is told in the same way, in the bridge's family.
				if open && u.Header.Type == unix.RTM_DELLINK && u.Family == unix.AF_UNSPEC {
					select {
					case gone <- int(u.Index):
					case <-ctx.Done():
						return
					}
				}
			}
		}
	}()
	return gone, nil
}
