package main

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/fabric"
)

// limitFlags are --rate-out and --rate-in, --rate-min and --rate-weight.
func limitFlags(cmd *cobra.Command, s *fabric.Settings) {
	for _, one := range []struct {
		name, what string
		of         func(*fabric.Rates) **fabric.Rate
	}{
		{"rate-out", "sends", func(r *fabric.Rates) **fabric.Rate { return &r.Out }},
		{"rate-in", "receives", func(r *fabric.Rates) **fabric.Rate { return &r.In }},
	} {
		cmd.Flags().Func(one.name, "most that the guest "+one.what+", in bits a second, such as 100M or 2.5G", func(text string) error {
			most, err := fabric.ParseAmount(text)
			if err != nil {
				return err
			}
			rateOf(s, one.of).Max = most
			return nil
		})
	}
	out := func(r *fabric.Rates) **fabric.Rate { return &r.Out }
	cmd.Flags().Func("rate-min", "what the guest can send for certain on the way out of its host, in bits a second", func(text string) (err error) {
		rateOf(s, out).Min, err = fabric.ParseAmount(text)
		return err
	})
	cmd.Flags().Func("rate-weight", "its part of what is left there, 1 to 100", func(text string) (err error) {
		if rateOf(s, out).Weight, err = strconv.Atoi(text); err != nil {
			return fmt.Errorf("%q is no weight, 1 to %d", text, fabric.MaxWeight)
		}
		return nil
	})
}

// rateOf is a direction of the settings' rates, made where it is missing.
func rateOf(s *fabric.Settings, of func(*fabric.Rates) **fabric.Rate) *fabric.Rate {
	if s.Rate == nil {
		s.Rate = &fabric.Rates{}
	}
	if to := of(s.Rate); *to == nil {
		*to = &fabric.Rate{}
	}
	return *of(s.Rate)
}

// settingFlags are the rest of a port's or profile's settings: each takes what the field takes, in short.
func settingFlags(cmd *cobra.Command, s *fabric.Settings) {
	f := cmd.Flags()
	f.Func("storm", "limit for broadcast, multicast or unknown, as broadcast=100 packets a second, or multicast=1k/10M with bits a second", func(text string) error {
		return parseStorm(s, text)
	})
	f.BoolFunc("spoofing", "let the guest send with any station's MAC", func(text string) error { return macFlag(s, text, func(m *fabric.MACs, on *bool) { m.Spoofing = on }) })
	f.BoolFunc("sibling", "let the guest stand in for the other ports of its VM: teaming in the guest", func(text string) error {
		return macFlag(s, text, func(m *fabric.MACs, on *bool) { m.Sibling = on })
	})
	f.Func("mac-limit", "with --spoofing: how many MACs that nobody has listed", func(text string) error {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return fmt.Errorf("%q is no number of MACs, such as 16", text)
		}
		macsOf(s).Limit = n
		return nil
	})
	f.StringSliceVar(&s.Requires, "require", nil, "feature that a host must have for the port: "+strings.Join(fabric.Features(), ", "))
	f.Func("priority", "trusted (the guest's 802.1p priority counts), dscp (copied to the outer header), or trusted,dscp", func(text string) error { return parsePriority(s, text) })
	f.Func("meter", "prefix whose packets and bytes are counted, as 10.0.0.0/8 or out=10.0.0.0/8; may be repeated", func(text string) error { return parseMeter(s, text) })
}

// allowedFlag is --allow-mac, of ports alone: a MAC belongs to one.
func allowedFlag(cmd *cobra.Command, s *fabric.Settings) {
	cmd.Flags().Func("allow-mac", "MAC that is the port's too; may be repeated", func(text string) error {
		mac, err := fabric.ParseMAC(text)
		if err != nil {
			return err
		}
		macsOf(s).Allowed = append(macsOf(s).Allowed, mac)
		return nil
	})
}

// macsOf is the settings' part about MACs, made where it is missing.
func macsOf(s *fabric.Settings) *fabric.MACs {
	if s.MACs == nil {
		s.MACs = &fabric.MACs{}
	}
	return s.MACs
}

func macFlag(s *fabric.Settings, text string, set func(*fabric.MACs, *bool)) error {
	on, err := strconv.ParseBool(text)
	if err != nil {
		return fmt.Errorf("%q is neither true nor false", text)
	}
	set(macsOf(s), &on)
	return nil
}

// parseStorm reads KIND=PPS, KIND=PPS/RATE or KIND=/RATE.
func parseStorm(s *fabric.Settings, text string) error {
	kind, limits, ok := strings.Cut(text, "=")
	pps, rate, both := strings.Cut(limits, "/")
	if !ok || pps == "" && rate == "" {
		return fmt.Errorf("%q is no limit: write broadcast=100, or multicast=1k/10M", text)
	}
	storms := s.Storm
	if storms == nil {
		storms = &fabric.Storms{}
	}
	at, known := map[string]**fabric.Storm{"broadcast": &storms.Broadcast, "multicast": &storms.Multicast, "unknown": &storms.Unknown}[kind]
	if !known {
		return fmt.Errorf("%q is no kind of frame; the kinds are broadcast, multicast, unknown", kind)
	}
	limit := &fabric.Storm{}
	var err error
	if pps != "" {
		if limit.PPS, err = fabric.ParseAmount(pps); err != nil {
			return err
		}
	}
	if both {
		if limit.Rate, err = fabric.ParseAmount(rate); err != nil {
			return err
		}
	}
	*at, s.Storm = limit, storms
	return nil
}

// parsePriority reads trusted, dscp, or both with a comma.
func parsePriority(s *fabric.Settings, text string) error {
	p := &fabric.Priority{}
	for _, word := range strings.Split(text, ",") {
		switch word {
		case "trusted":
			p.Trusted = true
		case "dscp":
			p.DSCP = true
		default:
			return fmt.Errorf("%q is neither trusted nor dscp", word)
		}
	}
	s.Priority = p
	return nil
}

// parseMeter reads PREFIX, in=PREFIX or out=PREFIX.
func parseMeter(s *fabric.Settings, text string) error {
	m := fabric.PrefixMeter{}
	if direction, prefix, ok := strings.Cut(text, "="); ok {
		m.Direction, text = fabric.Direction(direction), prefix
	}
	var err error
	if m.Prefix, err = netip.ParsePrefix(text); err != nil {
		return fmt.Errorf("%q is not a prefix, such as 10.0.0.0/8 or fd00::/64", text)
	}
	s.Meters = append(s.Meters, m)
	return nil
}
