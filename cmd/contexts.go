package cmd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"
)

// defaultHub is where a hub serves people unless told otherwise.
const defaultHub = "http://127.0.0.1:7700"

// contexts is the CLI's own configuration: named hubs.
type contexts struct {
	Current  string                `yaml:"current" json:"current"`
	Contexts map[string]hubContext `yaml:"contexts" json:"contexts"`
	// Prices are what a thousand requests cost, by class, where they differ
	// from the list; see describe_prices.go.
	Prices prices `yaml:"prices,omitempty" json:"prices,omitempty"`
}

type hubContext struct {
	Hub string `yaml:"hub" json:"hub"`
}

func (c *contexts) names() []string {
	var names []string
	for n := range c.Contexts {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

func (c *contexts) unknown(name string) error {
	if len(c.Contexts) == 0 {
		return fmt.Errorf("no context %q: there are none yet", name)
	}
	return fmt.Errorf("no context %q; there are: %s", name, strings.Join(c.names(), ", "))
}

func contextsFile() (string, error) {
	if f := os.Getenv("QUARRY_CONFIG"); f != "" {
		return f, nil
	}
	dir := os.Getenv("XDG_CONFIG_HOME")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("find the home folder for the configuration: %w", err)
		}
		dir = filepath.Join(home, ".config")
	}
	return filepath.Join(dir, "quarry", "config.yaml"), nil
}

// loadContexts reads the file; a missing one is an empty configuration.
func loadContexts() (*contexts, error) {
	c := &contexts{Contexts: map[string]hubContext{}}
	file, err := contextsFile()
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, err
	}
	if err := decodeStrict(file, b, c); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *contexts) save() error {
	file, err := contextsFile()
	if err != nil {
		return err
	}
	b, err := yaml.Marshal(c)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	tmp := file + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, file)
}

// hubURL finds the hub: --hub, QUARRY_HUB, the context, the default.
func (a *app) hubURL() (string, error) {
	hub := a.hub
	if hub == "" && a.context == "" {
		hub = os.Getenv("QUARRY_HUB")
	}
	if hub == "" {
		c, err := loadContexts()
		if err != nil {
			return "", err
		}
		name := a.context
		if name == "" {
			name = c.Current
		}
		if name != "" {
			ctx, ok := c.Contexts[name]
			if !ok {
				return "", usagef("%w; make it with `quarry config set-context %s --hub URL`", c.unknown(name), name)
			}
			hub = ctx.Hub
		}
	}
	if hub == "" {
		hub = defaultHub
	}
	if !strings.Contains(hub, "://") {
		hub = "http://" + hub
	}
	return strings.TrimRight(hub, "/"), nil
}

func newConfig(a *app) *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Name hubs and choose between them"}
	var hub string
	set := &cobra.Command{
		Use: "set-context NAME --hub URL", Short: "Add or change a context", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if hub = a.hub; hub == "" {
				return usagef("--hub URL is needed, such as --hub http://127.0.0.1:7700")
			}
			// What cannot be used is refused now, not at its first use.
			if _, err := a.client(); err != nil {
				return err
			}
			cs, err := loadContexts()
			if err != nil {
				return err
			}
			cs.Contexts[args[0]] = hubContext{Hub: hub}
			if cs.Current == "" {
				cs.Current = args[0]
			}
			if err := cs.save(); err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.out, "context %s is %s; current is %s\n", args[0], hub, cs.Current)
			return err
		},
	}
	use := &cobra.Command{
		Use: "use-context NAME", Short: "Use a context from now on", Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			cs, err := loadContexts()
			if err != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return cs.names(), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			cs, err := loadContexts()
			if err != nil {
				return err
			}
			if _, ok := cs.Contexts[args[0]]; !ok {
				return withCode(exitNotFound, cs.unknown(args[0]))
			}
			cs.Current = args[0]
			if err := cs.save(); err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.out, "current context is %s\n", args[0])
			return err
		},
	}
	get := &cobra.Command{
		Use: "get-contexts", Short: "List contexts", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			cs, err := loadContexts()
			if err != nil {
				return err
			}
			return a.printObject(cs, func() error {
				if len(cs.Contexts) == 0 {
					_, err := fmt.Fprintf(a.out, "No contexts. The hub is looked for at %s. Name another:\n  quarry config set-context prod --hub http://127.0.0.1:7700\n", defaultHub)
					return err
				}
				t := newTable(a.out, "CURRENT", "NAME", "HUB")
				for _, n := range cs.names() {
					mark := " "
					if n == cs.Current {
						mark = "*"
					}
					t.row(mark, n, cs.Contexts[n].Hub)
				}
				return t.flush()
			})
		},
	}
	current := &cobra.Command{
		Use: "current-context", Short: "Print the context in use", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			cs, err := loadContexts()
			if err != nil {
				return err
			}
			if cs.Current == "" {
				return withCode(exitNotFound, fmt.Errorf("no context is in use; the hub is looked for at %s", defaultHub))
			}
			_, err = fmt.Fprintln(a.out, cs.Current)
			return err
		},
	}
	c.AddCommand(set, use, get, current)
	return c
}
