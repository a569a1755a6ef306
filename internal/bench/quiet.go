package main

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// quietWindow is how long the machine must have been quiet before a slice begins.
	quietWindow = 100 * time.Millisecond
	// tolerated is the share of all cores' time that other processes may take while a slice runs.
	tolerated = 0.03
)

// quiet keeps slices apart from whatever else the machine does: it waits for a moment in which nobody else computes, and
// tells afterwards whether somebody did. It has a budget; when that is spent, everything counts as quiet enough.
type quiet struct {
	budget time.Duration
}

// moment is when a slice began, and how long others had computed by then.
type moment struct {
	at     time.Time
	others time.Duration
}

// Await returns when the machine is quiet or the budget is spent.
func (q *quiet) Await(ctx context.Context) error {
	for q.budget > 0 {
		begin, err := now()
		if err != nil {
			return err
		}
		if err := wait(ctx, quietWindow); err != nil {
			return err
		}
		disturbed, err := begin.disturbed()
		if err != nil || !disturbed {
			return err
		}
		q.budget -= quietWindow
	}
	return ctx.Err()
}

// Spend takes a slice that must be repeated from the budget; it reports whether there was any left.
func (q *quiet) Spend(d time.Duration) bool {
	if q.budget <= 0 {
		return false
	}
	q.budget -= d
	return true
}

// now is this moment.
func now() (moment, error) {
	others, err := othersTime()
	return moment{at: time.Now(), others: others}, err
}

// disturbed reports whether other processes have computed since. One tick is tolerated always: what has run before the
// moment may be counted after it.
func (m moment) disturbed() (bool, error) {
	others, err := othersTime()
	allowed := time.Duration(tolerated * float64(time.Since(m.at)) * float64(runtime.NumCPU()))
	return others-m.others > max(allowed, tick), err
}

// othersTime is how long all cores together have computed in user space since boot for other processes than this one.
// The kernel's time is left out: it cannot be told from the load that is measured.
func othersTime() (time.Duration, error) {
	all, err := coresTime(fieldUser, fieldNice)
	if err != nil {
		return 0, err
	}
	var own unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &own); err != nil {
		return 0, fmt.Errorf("read the time of this process: %w", err)
	}
	return all - time.Duration(own.Utime.Nano()), nil
}
