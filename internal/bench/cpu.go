package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/weftnet/weft/internal/lab"
)

// tick is the unit of /proc/stat: USER_HZ is 100 on every architecture we build for (proc(5)).
const tick = 10 * time.Millisecond

// Places of a cpu line's values in /proc/stat (proc(5)).
const (
	fieldUser    = 1
	fieldNice    = 2
	fieldSystem  = 3
	fieldIRQ     = 6
	fieldSoftIRQ = 7
)

// kernelTime is how long all cores together have been busy in the kernel since boot: system, interrupts and softirqs. It
// is the whole machine's, so that only an idle machine gives figures for one load.
func kernelTime() (time.Duration, error) {
	return coresTime(fieldSystem, fieldIRQ, fieldSoftIRQ)
}

// coresTime adds up fields of the line of all cores in /proc/stat.
func coresTime(fields ...int) (time.Duration, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	values := strings.Fields(line)
	if len(values) <= fieldSoftIRQ || values[0] != "cpu" {
		return 0, fmt.Errorf("/proc/stat begins with %q, wanted the cpu line", line)
	}
	var ticks int64
	for _, field := range fields {
		n, err := strconv.ParseInt(values[field], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * tick, nil
}

// Places of a process's own times in /proc/PID/stat, counted after its name (proc(5)).
const (
	fieldOwnUser   = 11
	fieldOwnSystem = 12
)

// processTime is how long a process has computed, in user space and in the kernel.
func processTime(p lab.Process) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	values := strings.Fields(rest)
	if len(values) <= fieldOwnSystem {
		return 0, fmt.Errorf("/proc/%d/stat has no times: %q", p.PID, text)
	}
	user, errUser := strconv.ParseInt(values[fieldOwnUser], 10, 64)
	system, errSystem := strconv.ParseInt(values[fieldOwnSystem], 10, 64)
	return time.Duration(user+system) * tick, errors.Join(errUser, errSystem)
}
