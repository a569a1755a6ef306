package main

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/agent"
	"github.com/weftnet/weft/api"
)

// configFile is where an agent's configuration is unless --config says otherwise.
const configFile = "/etc/weft/agent.yaml"

// agentCommand runs this host's agent.
func (a *app) agentCommand() *cobra.Command {
	var file, level string
	cmd := &cobra.Command{
		Use: "agent", Short: "Run this host's agent (systemd does it)", Args: exactly(),
		Long: "Run the agent: it keeps this host's datapath equal to what the fabric says, and answers the API. When it ends, or is\n" +
			"killed, what is in the kernel stays there and packets flow on.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			handler, err := logHandler(level)
			if err != nil {
				return usage(cmd, "%v", err)
			}
			c, err := agent.LoadConfig(file)
			if err != nil {
				return err
			}
			c.Version = version
			slog.SetDefault(slog.New(handler))
			return agent.Run(cmd.Context(), c)
		},
	}
	cmd.Flags().StringVar(&file, "config", configFile, "configuration of the agent")
	cmd.Flags().StringVar(&level, "log", "info", "debug, info, warn or error")
	return cmd
}

// logHandler writes the log as text to a terminal, and as JSON to whatever else reads it.
func logHandler(level string) (slog.Handler, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log %q is not debug, info, warn or error", level)
	}
	o := &slog.HandlerOptions{Level: l}
	if st, err := os.Stderr.Stat(); err == nil && st.Mode()&os.ModeCharDevice != 0 {
		return slog.NewTextHandler(os.Stderr, o), nil
	}
	return slog.NewJSONHandler(os.Stderr, o), nil
}

// doctorCommand examines a host.
func (a *app) doctorCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "doctor", Short: "Examine the host: kernel, BPF, MTU, clock, interfering managers; each finding with its remedy", Args: exactly(),
		Long: "Examine the host whose agent is asked (--host chooses it), or with --config this host, whether or not an agent runs.\n" +
			"The exit status is 5 when a check failed.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			findings, err := a.examine(cmd, file)
			if err != nil {
				return err
			}
			return a.printFindings(findings)
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "examine this host with this configuration, without asking an agent")
	return cmd
}

// examine asks the agent, or looks for itself.
func (a *app) examine(cmd *cobra.Command, file string) ([]api.Finding, error) {
	if file != "" {
		c, err := agent.LoadConfig(file)
		if err != nil {
			return nil, err
		}
		return agent.Doctor(cmd.Context(), c), nil
	}
	c, err := a.connect()
	if err != nil {
		return nil, err
	}
	return c.Doctor(cmd.Context())
}
