package cmd

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"github.com/goccy/go-yaml"

	"github.com/quarry-db/quarry/pkg/apiclient"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
)

func newHold(a *app) *cobra.Command {
	var name, until string
	var scope []string
	var from uint64
	var legal, checkpoint bool
	c := &cobra.Command{
		Use: "hold NAME", Short: "Keep a slate's history until it is released", Args: cobra.ExactArgs(1),
		Long: `Keeps the history of a slate, whatever policies permit. NAME is a slate, or a pattern such as
'archive/*'. It is a document like one that is applied from a file; see quarry get holds.`,
		Example: `  quarry hold archive/0                      keep all of it
  quarry hold archive/0 --from 5000          keep what begins at position 5000
  quarry hold 'orders*' --legal --name case-4711
  quarry release case-4711`,
		ValidArgsFunction: a.completeOne("slates"),
		RunE: func(c *cobra.Command, args []string) error {
			doc := map[string]any{
				"apiVersion": regions.APIVersion, "kind": regions.KindHold,
				"metadata": map[string]any{"name": holdName(name, args[0])},
				"select":   map[string]any{"names": []string{args[0]}},
				"from":     map[string]any{"position": from},
			}
			if len(scope) > 0 {
				doc["scope"] = scope
			}
			if until != "" {
				doc["until"] = until
			}
			if legal {
				doc["legal"] = true
			}
			if checkpoint {
				doc["enforce"] = "checkpoint"
			}
			b, err := yaml.Marshal(doc)
			if err != nil {
				return err
			}
			// What cannot be is said in words of the command line, before a hub is asked.
			if _, err := regions.ParseDocuments("hold", b); err != nil {
				return usagef("%w", err)
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			got, err := cl.Apply(c.Context(), "hold", string(b), "", false)
			if err != nil {
				return a.rejected(err)
			}
			return a.printObject(got, func() error {
				for _, d := range got.Changes {
					fmt.Fprintf(a.out, "hold %s %s, revision %d; end it with `quarry release %s`\n", d.Name, d.Change, d.Revision, d.Name)
				}
				return nil
			})
		},
	}
	fl := c.Flags()
	fl.StringVar(&name, "name", "", "name of the hold; made of NAME when not given")
	fl.Uint64Var(&from, "from", 0, "the lowest position to keep; 0: all history")
	fl.StringVar(&until, "until", "", "a day or a moment at which it ends by itself; not given: when it is released")
	fl.StringSliceVar(&scope, "scope", nil, "what it forbids: trim, prune, delete, seed; not given: everything")
	fl.BoolVar(&legal, "legal", false, "its release needs two people")
	fl.BoolVar(&checkpoint, "checkpoint", false, "have the agents hold it with a SlateDB checkpoint too, so that it holds without a hub")
	_ = c.RegisterFlagCompletionFunc("scope", cobra.FixedCompletions([]string{"trim", "prune", "delete", "seed", "all"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// holdName is what a hold of a slate is called when nobody says.
func holdName(given, slate string) string {
	if given != "" {
		return given
	}
	name := strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '-', r == '_', r == '.':
			return r
		case r == '*' || r == '?':
			return 'x'
		}
		return '-'
	}, slate)
	return strings.Trim(name[:min(len(name), 63)], "-_.")
}

func newRelease(a *app) *cobra.Command {
	var why string
	var yes bool
	c := &cobra.Command{
		Use: "release NAME", Short: "End a hold", Args: cobra.ExactArgs(1),
		Long: `Ends a hold. NAME is the hold's name, or that of a slate that exactly one hold names. A legal
hold needs the word of two people: the first is remembered.`,
		ValidArgsFunction: a.completeOne("holds"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.confirm(yes, "release hold "+args[0]); err != nil {
				return err
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			done, err := cl.Release(c.Context(), args[0], why, "", false)
			if errors.Is(err, fs.ErrNotExist) {
				// NAME may be what `quarry hold NAME` was given.
				holds, lerr := apiclient.All[catalog.Hold](cl.List(c.Context(), "holds", apiclient.Query{Filter: "selects = " + quote("names "+args[0])}))
				if lerr == nil && len(holds) == 1 {
					done, err = cl.Release(c.Context(), holds[0].Name, why, "", false)
				}
			}
			if err != nil {
				return a.hubError(err)
			}
			return a.printObject(done, func() error {
				_, err := fmt.Fprintln(a.out, done.What)
				return err
			})
		},
	}
	c.Flags().StringVar(&why, "reason", "", "why, for the record")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}
