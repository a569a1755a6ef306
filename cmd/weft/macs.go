package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
)

// macsCommand says where each MAC is.
func (a *app) macsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "macs [SWITCH…]", Short: "The MACs of switches: ports', and those that hosts have heard on the wire",
		Long: "List the MACs of all switches, or of those that are named: those of ports, with their hosts, and those of stations on the wire of an\n" +
			"external switch, with the NIC of each host that has heard them for its guests in the last five minutes.",
		Example:           "  weft macs\n  weft macs wan\n  weft macs wan --host h1 -o json",
		ValidArgsFunction: a.completeNames("switch"),
		RunE: func(cmd *cobra.Command, switches []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			return a.macs(cmd.Context(), switches)
		},
	}
}

func (a *app) macs(ctx context.Context, switches []string) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	for _, name := range switches { // one that does not exist is no empty table
		if _, err := c.Get(ctx, fabric.KindSwitch, name); err != nil {
			return err
		}
	}
	s, err := c.Stations(ctx)
	if err != nil {
		return err
	}
	s.Items = slices.DeleteFunc(s.Items, func(st api.Station) bool {
		return len(switches) > 0 && !slices.Contains(switches, string(st.Switch)) || a.host != "" && a.host != string(st.Host)
	})
	if a.structured() {
		err = a.document(s)
	} else {
		a.table([]string{"MAC", "SWITCH", "VNI", "HOST", "AT", "HEARD"}, stationRows(s.Items))
		for _, h := range s.Silent {
			fmt.Fprintf(a.err, "host %s does not answer, so what it has heard is missing: %s\n", h.Host, h.Error)
		}
	}
	if err == nil && len(s.Silent) > 0 {
		return &statusError{status: exitPartial}
	}
	return err
}

func stationRows(stations []api.Station) (rows [][]string) {
	for _, s := range stations {
		at, heard := "port "+string(s.Port), ""
		if s.Port == "" {
			at, heard = "wire by "+s.NIC, fmt.Sprintf("%.0f s ago", s.AgoSeconds)
		}
		rows = append(rows, []string{s.MAC.String(), string(s.Switch), strconv.Itoa(int(s.VNI)), string(s.Host), at, heard})
	}
	return rows
}
