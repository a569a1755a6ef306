package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// trimEvery is how often the program's own pages are given back.
const trimEvery = time.Minute

// keepSmall gives back the pages of the program that are not in use, once the host is ready and each minute from then on. The kernel maps
// sixteen pages of a file for each that is asked for, so that a start leaves all of a large program mapped, of which the agent needs less
// than a half afterwards. The pages stay in the page cache, clean; what is needed is mapped again without reading.
func (a *Agent) keepSmall(ctx context.Context) error {
	if !a.await(ctx, func() bool { return a.Ready(ctx) == nil }) {
		return nil
	}
	return every(ctx, trimEvery, func() {
		if err := trimProgram(); err != nil {
			a.log.Debug("the program's pages stay mapped", "error", err)
		}
	})
}

// trimProgram unmaps the pages of this process's own program.
func trimProgram() error {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	text, err := os.Open("/proc/self/smaps")
	if err != nil {
		return err
	}
	defer text.Close()
	ranges, err := cleanRanges(text, program)
	for _, r := range ranges {
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, r.begin, r.end-r.begin, unix.MADV_DONTNEED); errno != 0 {
			err = errors.Join(err, fmt.Errorf("give back pages %x to %x: %w", r.begin, r.end, errno))
		}
	}
	return err
}

// pages are those of a mapping: begin to end, without end.
type pages struct{ begin, end uintptr }

// cleanRanges are the mappings of a file that nobody can write to and of which no page is this process's own, as a relocated one is:
// what is taken from them, the file has. smaps is that of a process (proc_pid_smaps(5)).
func cleanRanges(smaps io.Reader, file string) (found []pages, err error) {
	var now pages
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		switch {
		case len(fields) >= 5 && strings.Contains(fields[0], "-"):
			now = pages{}
			if len(fields) == 6 && fields[5] == file && !strings.Contains(fields[1], "w") {
				if _, err := fmt.Sscanf(fields[0], "%x-%x", &now.begin, &now.end); err != nil {
					return nil, fmt.Errorf("read a mapping %q: %w", fields[0], err)
				}
			}
		case len(fields) == 3 && fields[0] == "Anonymous:" && fields[1] == "0" && now.end > now.begin:
			found = append(found, now)
			now = pages{}
		}
	}
	return found, lines.Err()
}
