package main

import (
	"encoding/json"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gridwire/gridwire/agent/api"
	"github.com/gridwire/gridwire/agent/config"
)

// globals are the flags that every command has.
type globals struct {
	state  string
	socket string
}

func (g *globals) client() *api.Client { return api.NewClient(g.socket) }

func newRoot() *cobra.Command {
	g := &globals{}
	root := &cobra.Command{
		Use:   "gridwire",
		Short: "An encrypted WireGuard mesh that belongs to its members",
		Long: `gridwire joins machines into one encrypted WireGuard network with no server to run: every member helps the others
find each other, through home routers and carriers' NATs.

  first machine     gridwire init farm --node alice;  gridwire agent
                    gridwire invite --name bob
  second machine    gridwire agent --join TOKEN
  either            gridwire status`,
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: false},
	}
	root.PersistentFlags().StringVar(&g.state, "state", config.Env("STATE", config.DefaultState), "state `FOLDER`")
	root.PersistentFlags().StringVar(&g.socket, "socket", config.Env("SOCKET", config.DefaultSocket), "control `SOCKET` of the agent")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	for _, group := range []struct {
		title    string
		commands []*cobra.Command
	}{
		{"A network and its machines:", []*cobra.Command{initCommand(g), agentCommand(g), inviteCommand(g), joinCommand(g), leaveCommand(g)}},
		{"How it is:", []*cobra.Command{statusCommand(g), membersCommand(g), pingCommand(g), waitCommand(g), usageCommand(g), pageCommand(g)}},
		{"When something is wrong:", []*cobra.Command{explainCommand(g), netcheckCommand(g), doctorCommand(g), bugreportCommand(g)}},
		{"What runs on it:", []*cobra.Command{workloadCommand(g), exportCommand(g), gatewayCommand(g)}},
		{"Who may do what:", []*cobra.Command{issuerCommand(g), revokeCommand(g)}},
	} {
		root.AddGroup(&cobra.Group{ID: group.title, Title: group.title})
		for _, cmd := range group.commands {
			cmd.GroupID = group.title
			root.AddCommand(cmd)
		}
	}
	root.AddCommand(resolverCommand(), versionCommand())
	strictCobra(root)
	return root
}

// strictCobra makes cobra's own two commands say what is wrong with their words, as ours do, where they would show their help.
func strictCobra(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "completion":
			cmd.Args = exactArgs()
			cmd.RunE = func(*cobra.Command, []string) error {
				return usagef("say: gridwire completion bash | fish | powershell | zsh (each with --help)")
			}
		case "help":
			cmd.Args = func(_ *cobra.Command, args []string) error {
				if _, rest, err := root.Find(args); err != nil || len(rest) > 0 {
					return usagef("there is no help about %q: gridwire help lists all commands", strings.Join(args, " "))
				}
				return nil
			}
		}
	}
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func exactArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == len(names) {
			return nil
		}
		if len(names) == 0 && cmd.HasAvailableSubCommands() {
			var words []string
			for _, c := range cmd.Commands() {
				words = append(words, c.Name())
			}
			return usagef("unknown command %q: %s knows %s", args[0], cmd.CommandPath(), strings.Join(words, ", "))
		}
		if len(names) == 0 {
			return usagef("%s takes no arguments, got %q", cmd.CommandPath(), args)
		}
		return usagef("say: %s %s (%d words where %d belong; see %[1]s --help)", cmd.CommandPath(), strings.Join(names, " "), len(args), len(names))
	}
}
