package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/api"
)

// versionCommand prints what runs here, and what the agent runs where there is one.
func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "What runs here, and what the agent runs", Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			var agent *api.Version
			if c, err := a.connect(); err == nil {
				if v, err := c.Version(cmd.Context()); err == nil {
					agent = &v
				}
			}
			if a.structured() {
				return a.document(map[string]any{"version": version, "agent": agent})
			}
			fmt.Fprintln(a.out, "weft", version)
			if agent != nil {
				fmt.Fprintf(a.out, "agent on %s: %s, API %s\n", agent.Host, agent.Version, agent.API)
			}
			return nil
		},
	}
}
