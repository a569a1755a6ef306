package nat

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// buffer is the room for one transaction's messages and their answers, in bytes: the default is too little for 1,000 forwards.
const buffer = 16 << 20

// Table is our table in the kernel, in the network namespace of the calling thread.
type Table struct {
	// File remembers the devices whose forwarding we have switched on, for the agent after this one; none when empty.
	File string
	// installed is the table as it was read back after it was written; empty before.
	installed string
	// config is the configuration as text, which stays as it was when its owner changes it.
	config string
	opened []Opened
}

// Keep makes the kernel hold the configuration: the table, and the forwarding of the devices that are concerned. It reports
// whether something else had changed what was in force. Nothing is written that is as it should be. With no switch there is
// no table.
func (t *Table) Keep(c Config) (repaired bool, err error) {
	have, was, err := read()
	if unsupported(err) && len(c.Switches) == 0 {
		return false, nil // there is no table where there are none
	}
	if err != nil {
		return false, err
	}
	kept, err := remembered(t.File)
	if err != nil {
		return false, err
	}
	was = union(was, kept, t.opened)
	if len(c.Switches) == 0 && len(was) == 0 && have == noTable {
		t.installed, t.config, t.opened = "", "", nil
		return false, nil // a host without internal switches is left alone
	}
	opened, err := open(&c, was)
	if err != nil {
		return false, err
	}
	same := t.config == fmt.Sprint(c) && slices.Equal(t.opened, opened)
	repaired = t.installed != "" && have != t.installed
	if !same || repaired || t.installed == "" {
		// What is no longer needed is closed before its rule goes, what is newly needed opened after its rule is there.
		for _, o := range was {
			if !slices.Contains(opened, o) {
				err = errors.Join(err, o.set(&c, false))
			}
		}
		if err := errors.Join(err, t.write(c, opened), remember(t.File, opened)); err != nil {
			t.installed = ""
			return repaired, err
		}
	}
	return repaired, switchOn(&c, opened)
}

// write replaces the table in one transaction and reads it back.
func (t *Table) write(c Config, opened []Opened) error {
	conn, err := dial()
	if err != nil {
		return err
	}
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: TableName}
	conn.AddTable(table) // so that there is one to delete
	conn.DelTable(table)
	if len(c.Switches) > 0 {
		conn.AddTable(table)
		for _, ch := range c.chains(opened) {
			at := conn.AddChain(&nftables.Chain{Name: ch.name, Table: table, Type: ch.kind, Hooknum: ch.hook, Priority: ch.priority})
			for _, r := range ch.rules {
				conn.AddRule(&nftables.Rule{Table: table, Chain: at, Exprs: r.exprs, UserData: userdata.AppendString(nil, userdata.TypeComment, r.comment)})
			}
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("replace the nftables table %s: %w (needs the kernel's nf_tables and nft_masq; see `nft list table inet %s`)", TableName, err, TableName)
	}
	have, _, err := read()
	if err != nil {
		return err
	}
	if rules := strings.Count(have, "\n"); rules != lines(c, opened) {
		return fmt.Errorf("replace the nftables table %s: it was read back with %d lines of %d: another program changes it; see `nft monitor`", TableName, rules, lines(c, opened))
	}
	t.installed, t.config, t.opened = have, fmt.Sprint(c), opened
	return nil
}

// unsupported reports whether the kernel has no nf_tables.
func unsupported(err error) bool {
	return errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT)
}

// lines is how many lines read returns of the configuration: one for the table, each chain and each rule.
func lines(c Config, opened []Opened) int {
	if len(c.Switches) == 0 {
		return 1
	}
	n := 1
	for _, ch := range c.chains(opened) {
		n += 1 + len(ch.rules)
	}
	return n
}

func dial() (*nftables.Conn, error) {
	conn, err := nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(c.SetReadBuffer(buffer), c.SetWriteBuffer(buffer))
	}))
	if err != nil {
		return nil, fmt.Errorf("speak to nftables: %w", err)
	}
	return conn, nil
}

// noTable is what read returns where there is no table.
const noTable = "table " + TableName + "\n"

// read returns the table as text, without its counters, and the devices that it says only we have opened. Of a table that is
// not there the text is one line.
func read() (text string, opened []Opened, err error) {
	conn, err := dial()
	if err != nil {
		return "", nil, err
	}
	chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return "", nil, fmt.Errorf("list the nftables chains: %w", err)
	}
	b := strings.Builder{}
	b.WriteString(noTable)
	for _, ch := range chains {
		if ch.Table.Name != TableName {
			continue
		}
		hook, priority := "none", "none"
		if ch.Hooknum != nil {
			hook, priority = fmt.Sprint(*ch.Hooknum), fmt.Sprint(*ch.Priority)
		}
		fmt.Fprintf(&b, "chain %s %s %s %s\n", ch.Name, ch.Type, hook, priority)
		rules, err := conn.GetRules(ch.Table, ch)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it went in between
		}
		if err != nil {
			return "", nil, fmt.Errorf("read the nftables chain %s: %w", ch.Name, err)
		}
		for _, r := range rules {
			comment, _ := userdata.GetString(r.UserData, userdata.TypeComment)
			line, err := canonical(r.Exprs)
			if err != nil {
				return "", nil, fmt.Errorf("read the nftables chain %s: %w", ch.Name, err)
			}
			fmt.Fprintf(&b, "%s: %x\n", strings.ReplaceAll(comment, "\n", " "), line)
			if o, ok := parseOpened(strings.TrimPrefix(comment, openedComment)); ok && strings.HasPrefix(comment, openedComment) {
				opened = append(opened, o)
			}
		}
	}
	return b.String(), opened, nil
}

// canonical is a rule's meaning in bytes: what it counts is left out.
func canonical(exprs []expr.Any) (out []byte, err error) {
	for _, e := range exprs {
		if _, counts := e.(*expr.Counter); counts {
			e = &expr.Counter{}
		}
		b, err := expr.Marshal(byte(nftables.TableFamilyINet), e)
		if err != nil {
			return nil, err
		}
		out = append(out, b...)
	}
	return out, nil
}

// Uninstall switches off the forwarding that only we have switched on, as the table and the file of it say, and removes both. What
// is not there is done.
func Uninstall(file string) error {
	_, opened, err := read()
	if unsupported(err) {
		return nil
	}
	if err != nil {
		return err
	}
	kept, err := remembered(file)
	if err != nil {
		return err
	}
	for _, o := range union(opened, kept) {
		err = errors.Join(err, o.set(&Config{}, false))
	}
	err = errors.Join(err, (&Table{}).write(Config{}, nil))
	if err == nil && file != "" {
		if gone := os.Remove(file); !errors.Is(gone, fs.ErrNotExist) {
			return gone
		}
	}
	return err
}

// Counters are the packets that the table's rules have met, by comment: "weft-blue masquerade".
func Counters() (map[string]uint64, error) {
	conn, err := dial()
	if err != nil {
		return nil, err
	}
	chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("list the nftables chains: %w", err)
	}
	met := map[string]uint64{}
	for _, ch := range chains {
		if ch.Table.Name != TableName {
			continue
		}
		rules, err := conn.GetRules(ch.Table, ch)
		if err != nil {
			return nil, fmt.Errorf("read the nftables chain %s: %w", ch.Name, err)
		}
		for _, r := range rules {
			comment, _ := userdata.GetString(r.UserData, userdata.TypeComment)
			for _, e := range r.Exprs {
				if c, counts := e.(*expr.Counter); counts {
					met[comment] += c.Packets
				}
			}
		}
	}
	return met, nil
}
