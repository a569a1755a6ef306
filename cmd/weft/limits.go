package main

import (
	"github.com/spf13/cobra"

	"github.com/weftnet/weft/fabric"
)

// limitFlags are --rate-out and --rate-in.
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
			if s.Rate == nil {
				s.Rate = &fabric.Rates{}
			}
			*one.of(s.Rate) = &fabric.Rate{Max: most}
			return nil
		})
	}
}
