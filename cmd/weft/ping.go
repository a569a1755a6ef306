package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/weftnet/weft/internal/lab"
)

// ping is a running ping, counted by its answers: its own summary calls a request lost that it did not wait for.
type ping struct {
	cmd     *lab.GuestCommand
	answers chan int // sequence numbers; closed when it has ended
}

func startPing(cmd *lab.GuestCommand) (*ping, error) {
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start ping: %w", err)
	}
	p := &ping{cmd: cmd, answers: make(chan int, 1<<16)}
	go p.read(out)
	return p, nil
}

func (p *ping) read(out io.Reader) {
	defer close(p.answers)
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var size, seq int
		var from string
		if _, err := fmt.Sscanf(lines.Text(), "%d bytes from %s icmp_seq=%d", &size, &from, &seq); err == nil {
			p.answers <- seq
		}
	}
}

// end waits for an answer to a request that is sent from now on, stops, and says how many requests were sent up to the last
// answer, and how many of them were answered.
func (p *ping) end(ctx context.Context) (sent, answered int, err error) {
	seen := map[int]bool{}
	note := func(seq int) {
		seen[seq] = true
		sent = max(sent, seq)
	}
	for len(p.answers) > 0 {
		note(<-p.answers)
	}
	last := sent
	silent := time.After(10 * time.Second)
	for sent <= last+1 && err == nil { // the next one may have been on its way already
		select {
		case seq, more := <-p.answers:
			if !more {
				err = errors.New("ping has ended by itself")
			}
			note(seq)
		case <-silent:
			err = errors.New("no answer for 10 s")
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	err = errors.Join(err, p.cmd.Process.Signal(os.Interrupt))
	for seq := range p.answers {
		note(seq)
	}
	delete(seen, 0)
	var failed *exec.ExitError
	if waited := p.cmd.Wait(); waited != nil && !errors.As(waited, &failed) {
		err = errors.Join(err, waited)
	}
	return sent, len(seen), err
}
