package cmd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/spf13/cobra"
)

// defaultHub is where a hub serves people unless told otherwise.
const defaultHub = "http://127.0.0.1:7700"

// contexts is the CLI's own configuration: named hubs.
type contexts struct {
	Current  string                `yaml:"current" json:"current"`
	Contexts map[string]hubContext `yaml:"contexts" json:"contexts"`
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
				return "", usagef("no context %q; there are: %s; make one with `quarry config set-context %s --hub URL`", name, strings.Join(c.names(), ", "), name)
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

// decodeStrict reads YAML and refuses fields it does not know; its errors name
// the file, the line, the column and the field.
func decodeStrict(file string, b []byte, into any) error {
	err := yaml.UnmarshalWithOptions(b, into, yaml.Strict())
	if err == nil {
		return nil
	}
	// goccy's form is "[line:column] what".
	text := strings.TrimSpace(yaml.FormatError(err, false, false))
	if at, what, ok := strings.Cut(strings.TrimPrefix(text, "["), "] "); ok && strings.HasPrefix(text, "[") {
		return usagef("%s:%s: %s", file, at, what)
	}
	return usagef("%s: %s", culprit(file, b, into), text)
}

// culprit finds the field that an error without a place is about: the one that
// cannot be decoded alone.
func culprit(file string, b []byte, into any) string {
	f, err := parser.ParseBytes(b, 0)
	if err != nil {
		return file
	}
	for _, doc := range f.Docs {
		m, ok := doc.Body.(*ast.MappingNode)
		if !ok {
			continue
		}
		for _, v := range m.Values {
			alone := reflect.New(reflect.TypeOf(into).Elem()).Interface()
			if yaml.Unmarshal([]byte(v.String()), alone) != nil {
				at := v.Key.GetToken().Position
				return fmt.Sprintf("%s:%d:%d: %s", file, at.Line, at.Column, v.Key)
			}
		}
	}
	return file
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
			cs, err := loadContexts()
			if err != nil {
				return err
			}
			cs.Contexts[args[0]] = hubContext{Hub: hub}
			if cs.Current == "" {
				cs.Current = args[0]
			}
			return cs.save()
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
				return withCode(exitNotFound, fmt.Errorf("no context %q; there are: %s", args[0], strings.Join(cs.names(), ", ")))
			}
			cs.Current = args[0]
			return cs.save()
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
	c.AddCommand(set, use, get)
	return c
}
