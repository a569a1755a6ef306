package store_test

import (
	"net"
	"strings"
	"sync"
	"testing"
)

// proxy stands between a store and etcd; it breaks connections, or stops carrying their bytes without breaking them.
type proxy struct {
	listener net.Listener
	target   string

	mu     sync.Mutex
	down   bool
	frozen *sync.WaitGroup // waited for by all connections of its time; nil when they flow
	conns  []net.Conn
}

func newProxy(tb testing.TB, endpoint string) *proxy {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &proxy{listener: l, target: strings.TrimPrefix(endpoint, "https://")}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { p.carry(c) })
		}
	})
	tb.Cleanup(func() {
		l.Close()
		p.cut()
		all.Wait()
	})
	return p
}

func (p *proxy) url() string { return "https://" + p.listener.Addr().String() }

// cut breaks all connections and refuses new ones.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = true
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
	p.thaw()
}

// freeze stops carrying bytes on the connections that there are, for good, without breaking them.
func (p *proxy) freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frozen = &sync.WaitGroup{}
	p.frozen.Add(1)
}

// mend lets new connections flow.
func (p *proxy) mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = false
}

func (p *proxy) thaw() {
	if p.frozen != nil {
		p.frozen.Done()
		p.frozen = nil
	}
}

func (p *proxy) carry(c net.Conn) {
	defer c.Close()
	to, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer to.Close()
	p.mu.Lock()
	if p.down {
		p.mu.Unlock()
		return
	}
	p.conns = append(p.conns, c, to)
	born := p.frozen
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { p.copy(to, c, born) })
	both.Go(func() { p.copy(c, to, born) })
	both.Wait()
}

// copy carries bytes one way; a freeze that came after the connection was born stops it.
func (p *proxy) copy(to, from net.Conn, born *sync.WaitGroup) {
	defer to.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		frozen := p.frozen
		p.mu.Unlock()
		if frozen != nil && frozen != born {
			frozen.Wait()
			return
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
