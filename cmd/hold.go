package cmd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/goccy/go-yaml"

	"github.com/quarry-db/quarry/pkg/apiclient"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
)

func newHold(a *app) *cobra.Command {
	var name, until string
	var scope []string
	var from uint64
	var in []string
	var why string
	var legal, checkpoint bool
	var w waiting
	c := &cobra.Command{
		Use: "hold NAME", Short: "Keep a slate's history until it is released", Args: cobra.ExactArgs(1),
		Long: `Keeps the history of a slate, whatever policies permit. NAME is a slate, or a pattern such as
'archive/*'. It is a document like one that is applied from a file; see quarry get holds. In SlateDB
slates the agents make a checkpoint of it, which SlateDB's own collector obeys even when Quarry
is gone; --wait waits until each is seen, and quarry get pins shows them and what each holds.`,
		Example: `  quarry hold archive/0                      keep all of it
  quarry hold archive/0 --from 5000          keep what begins at position 5000
  quarry hold orders --region eu --why 'before the migration' --wait
  quarry hold 'orders*' --legal --name case-4711
  quarry release case-4711`,
		ValidArgsFunction: a.completeOne("slates"),
		RunE: func(c *cobra.Command, args []string) error {
			sel := map[string]any{"names": []string{args[0]}}
			if len(in) > 0 {
				sel["regions"] = in
			}
			name := holdName(name, args[0])
			doc := map[string]any{
				"apiVersion": regions.APIVersion, "kind": regions.KindHold,
				"metadata": map[string]any{"name": name},
				"select":   sel,
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
			if why != "" {
				doc["reason"] = why
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
			if w.wait && checkpoint {
				if err := w.until(c.Context(), a, "holding "+args[0], func(ctx context.Context) (int, int, error) { return placed(ctx, cl, name, args[0], in) }); err != nil {
					return err
				}
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
	fl.BoolVar(&checkpoint, "checkpoint", true, "have the agents hold SlateDB slates with a checkpoint too, so that it holds without a hub")
	fl.StringSliceVar(&in, "region", nil, "only in these regions, or patterns; not given: wherever it is")
	fl.StringVar(&why, "why", "", "why, for the record")
	w.register(fl)
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
	var w waiting
	c := &cobra.Command{
		Use: "release NAME", Short: "End a hold", Args: cobra.ExactArgs(1),
		Long: `Ends a hold. NAME is the hold's name, or that of a slate that exactly one hold names. A legal
hold needs the word of two people: the first is remembered. The agents let go of its checkpoints;
--wait waits until none is seen any more.`,
		ValidArgsFunction: a.completeOne("holds"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.confirm(yes, "release hold "+args[0]); err != nil {
				return err
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			name := args[0]
			done, err := cl.Release(c.Context(), name, why, "", false)
			if errors.Is(err, fs.ErrNotExist) {
				// NAME may be what `quarry hold NAME` was given.
				holds, lerr := apiclient.All[catalog.Hold](cl.List(c.Context(), "holds", apiclient.Query{Filter: "selects = " + quote("names "+args[0])}))
				if lerr == nil && len(holds) == 1 {
					name = holds[0].Name
					done, err = cl.Release(c.Context(), name, why, "", false)
				}
			}
			if err != nil {
				return a.hubError(err)
			}
			// A legal hold that waits for a second person is there still.
			if _, gerr := cl.Get(c.Context(), "holds", name, "name", new(catalog.Hold)); w.wait && errors.Is(gerr, fs.ErrNotExist) {
				if err := w.until(c.Context(), a, "releasing "+name, func(ctx context.Context) (int, int, error) { return letGo(ctx, cl, name) }); err != nil {
					return err
				}
			}
			return a.printObject(done, func() error {
				_, err := fmt.Fprintln(a.out, done.What)
				return err
			})
		},
	}
	c.Flags().StringVar(&why, "why", "", "why, for the record")
	c.Flags().StringVar(&why, "reason", "", "why, for the record")
	_ = c.Flags().MarkHidden("reason") // what --why was called
	w.register(c.Flags())
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

// waiting is for commands that can wait until what they asked for is seen.
type waiting struct {
	wait    bool
	timeout time.Duration
}

func (w *waiting) register(fl *pflag.FlagSet) {
	fl.BoolVar(&w.wait, "wait", false, "wait until it is seen in every region; exit code 8 when that takes too long")
	fl.DurationVar(&w.timeout, "timeout", 5*time.Minute, "how long --wait waits")
}

// until asks again and again how many of all are done. What is not done in time
// is not undone: it goes on.
func (w *waiting) until(ctx context.Context, a *app, what string, ask func(context.Context) (done, all int, err error)) error {
	ctx, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	show := isTerminal(a.err)
	done, all := 0, 0
	for {
		var err error
		done, all, err = ask(ctx)
		switch {
		case ctx.Err() == nil && err != nil:
			return a.hubError(err)
		case err == nil && done >= all:
			if show {
				fmt.Fprint(a.err, "\r\x1b[K")
			}
			return nil // also when there is nothing to be done
		case show:
			fmt.Fprintf(a.err, "\r\x1b[K%s: %d of %d", what, done, all)
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return withCode(exitTimeout, fmt.Errorf("%s: %d of %d after %s; it goes on, see quarry get decisions", what, done, all, w.timeout))
			}
			return ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// placed counts the placements that a hold is about and that can have a
// checkpoint, and those that have one for it.
func placed(ctx context.Context, cl *apiclient.Client, name, slate string, in []string) (done, all int, err error) {
	sel := regions.Select{Names: []string{slate}, Regions: in}
	filter := ""
	if !strings.ContainsAny(slate, "?[\\") {
		filter = "slate = " + quote(slate) // the filter's only pattern is *
	}
	rows, err := apiclient.All[catalog.Placement](cl.List(ctx, "placements", apiclient.Query{Filter: filter, Fields: "slate,region,root,kind,state"}))
	if err != nil {
		return 0, 0, err
	}
	pins, err := apiclient.All[catalog.Pin](cl.List(ctx, "pins", apiclient.Query{Filter: "name = " + quote(catalog.HoldName+name+":*"), Fields: "region,root"}))
	if err != nil {
		return 0, 0, err
	}
	for _, p := range rows {
		if p.State != catalog.StateLive || p.Kind == catalog.KindSnapshots || p.Kind == catalog.KindBuffer || !sel.Named(p.Slate) || !sel.InRegion(p.Region) {
			continue
		}
		all++
		if slices.ContainsFunc(pins, func(h catalog.Pin) bool { return h.Region == p.Region && h.Root == p.Root }) {
			done++
		}
	}
	return done, all, nil
}

// letGo counts how many checkpoints of a hold are left: done is none of them.
func letGo(ctx context.Context, cl *apiclient.Client, name string) (done, all int, err error) {
	left, err := apiclient.All[catalog.Pin](cl.List(ctx, "pins", apiclient.Query{Filter: "name = " + quote(catalog.HoldName+name+":*"), Fields: "name"}))
	return 0, len(left), err
}
