package cmd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
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
is gone; --wait waits until each is seen, and quarry get pins shows them and what each holds. With --wait
the exit code is 8 when that takes too long, as in a region that cannot be seen, and 3 when no
slate of that name is seen; the hold is in force all the same.`,
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
			given := name != ""
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
			if !given {
				// Other slates, regions and positions come to the same name: one that
				// nobody gave makes a hold, and takes none away from somebody.
				would, err := cl.Apply(c.Context(), "hold", string(b), "", true)
				if err != nil {
					return a.rejected(err)
				}
				if slices.ContainsFunc(would.Changes, func(d apiclient.DocumentChange) bool { return d.Change == regions.Configured }) {
					return withCode(exitRefused, fmt.Errorf("there is a hold %s that says something else, and it stays as it is: give this one another name with --name, or change that one with --name %s", name, name))
				}
			}
			got, err := cl.Apply(c.Context(), "hold", string(b), "", false)
			if err != nil {
				return a.rejected(err)
			}
			var unseen error
			if w.wait && checkpoint {
				unseen = w.until(c.Context(), a, "holding "+args[0], "hold "+name+" is in force, and agents make its checkpoints where and when they can; see quarry get pins",
					func(ctx context.Context) (int, int, error) { return placed(ctx, cl, name, args[0], in) })
			}
			if err := a.printObject(got, func() error {
				for _, d := range got.Changes {
					fmt.Fprintf(a.out, "hold %s %s, revision %d; end it with `quarry release %s`\n", d.Name, d.Change, d.Revision, d.Name)
				}
				return nil
			}); err != nil {
				return err
			}
			return unseen
		},
	}
	fl := c.Flags()
	fl.StringVar(&name, "name", "", "name of the hold; made of NAME when not given, and then no hold that is there is changed")
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
			cl, err := a.client()
			if err != nil {
				return err
			}
			name, err := heldBy(c.Context(), cl, args[0])
			if err != nil {
				return a.hubError(err)
			}
			if err := a.confirm(yes, "release hold "+name); err != nil {
				return err
			}
			done, err := cl.Release(c.Context(), name, why, "", false)
			if err != nil {
				return a.hubError(err)
			}
			var unseen error
			if w.wait {
				unseen = w.until(c.Context(), a, "releasing "+name, done.What+", and the agents go on letting go of its checkpoints; see quarry get pins",
					func(ctx context.Context) (int, int, error) { return letGo(ctx, cl, name) })
			}
			if err := a.printObject(done, func() error {
				_, err := fmt.Fprintln(a.out, done.What)
				return err
			}); err != nil {
				return err
			}
			return unseen
		},
	}
	c.Flags().StringVar(&why, "why", "", "why, for the record")
	c.Flags().StringVar(&why, "reason", "", "why, for the record")
	_ = c.Flags().MarkHidden("reason") // what --why was called
	w.register(c.Flags())
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

// heldBy is the name of the hold that is meant by its name, or by what
// `quarry hold NAME` was given: exactly that, whatever stars are in it.
func heldBy(ctx context.Context, cl *apiclient.Client, name string) (string, error) {
	_, err := cl.Get(ctx, "holds", name, "name", new(catalog.Hold))
	if !errors.Is(err, fs.ErrNotExist) {
		return name, err
	}
	holds, lerr := apiclient.All[catalog.Hold](cl.List(ctx, "holds", apiclient.Query{Fields: "name,selects"}))
	if lerr != nil {
		return "", lerr
	}
	var of []string
	for _, h := range holds {
		if h.Selects == "names "+name {
			of = append(of, h.Name)
		}
	}
	switch len(of) {
	case 0:
		return "", err
	case 1:
		return of[0], nil
	}
	return "", usagef("%s are of %s: say which one is meant", strings.Join(of, " and "), name)
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
// is not undone: stands says what is so all the same. A hub that does not answer
// meanwhile is asked again.
func (w *waiting) until(ctx context.Context, a *app, what, stands string, ask func(context.Context) (done, all int, err error)) error {
	within, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	show := isTerminal(a.err)
	defer func() {
		if show {
			fmt.Fprint(a.err, "\r\x1b[K")
		}
	}()
	var far string
	for {
		done, all, err := ask(within)
		switch {
		case within.Err() != nil:
		case err != nil && !passing(err):
			return withCode(exitCode(a.hubError(err)), fmt.Errorf("%w; %s", err, stands))
		case err != nil:
			far = "the hub does not answer"
		case done >= all:
			return nil // also when there is nothing to be done
		default:
			far = fmt.Sprintf("%d of %d", done, all)
			if show {
				fmt.Fprintf(a.err, "\r\x1b[K%s: %s", what, far)
			}
		}
		select {
		case <-within.Done():
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return withCode(exitTimeout, fmt.Errorf("%s: %s after %s; %s", what, firstOf(far, "nothing seen"), w.timeout, stands))
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// passing are errors of a hub that is busy, or is started anew.
func passing(err error) bool {
	p, ok := errors.AsType[*apiclient.Problem](err)
	return errors.Is(err, apiclient.ErrUnreachable) || slow(err) || ok && p.Status == http.StatusServiceUnavailable
}

// placed counts the placements that a hold is about and that can have a
// checkpoint, and those that are seen to have one for it. In a region that is
// not seen now none is, and one that was never heard counts for itself. It
// is an error when a slate that is named is nowhere.
func placed(ctx context.Context, cl *apiclient.Client, name, slate string, in []string) (done, all int, err error) {
	sel := regions.Select{Names: []string{slate}, Regions: in}
	filter := ""
	if !strings.ContainsAny(slate, "?[\\") {
		filter = "slate = " + quote(slate) // the filter's only pattern is *
	}
	set, err := apiclient.All[catalog.Region](cl.List(ctx, "regions", apiclient.Query{Fields: "name,membership,as_of"}))
	if err != nil {
		return 0, 0, err
	}
	rows, err := apiclient.All[catalog.Placement](cl.List(ctx, "placements", apiclient.Query{Filter: filter, Fields: "slate,region,root,kind,state"}))
	if err != nil {
		return 0, 0, err
	}
	pins, err := apiclient.All[catalog.Pin](cl.List(ctx, "pins", apiclient.Query{Filter: "name = " + quote(catalog.HoldName+name+":*"), Fields: "region,root"}))
	if err != nil {
		return 0, 0, err
	}
	retired := map[string]bool{}
	for _, r := range set {
		retired[r.Name] = r.Membership == catalog.Retired // nobody there does anything any more
		if !retired[r.Name] && r.AsOf == nil && sel.InRegion(r.Name) {
			all++
		}
	}
	known := all > 0 || strings.ContainsAny(slate, "*?[\\")
	for _, p := range rows {
		if p.State == catalog.StateMissing || retired[p.Region] || !sel.Named(p.Slate) || !sel.InRegion(p.Region) {
			continue
		}
		known = true
		if p.Kind == catalog.KindSnapshots || p.Kind == catalog.KindBuffer {
			continue
		}
		all++
		if p.State == catalog.StateLive && slices.ContainsFunc(pins, func(h catalog.Pin) bool { return h.Region == p.Region && h.Root == p.Root }) {
			done++
		}
	}
	if !known {
		where := ""
		if len(in) > 0 {
			where = " in " + strings.Join(in, ", ")
		}
		return 0, 0, withCode(exitNotFound, fmt.Errorf("no slate %s is seen%s", slate, where))
	}
	return done, all, nil
}

// letGo counts how many checkpoints of a hold are left: done is none of them. A
// legal hold that waits for a second person is there still, and keeps them.
func letGo(ctx context.Context, cl *apiclient.Client, name string) (done, all int, err error) {
	if _, err := cl.Get(ctx, "holds", name, "name", new(catalog.Hold)); !errors.Is(err, fs.ErrNotExist) {
		return 0, 0, err
	}
	left, err := apiclient.All[catalog.Pin](cl.List(ctx, "pins", apiclient.Query{Filter: "name = " + quote(catalog.HoldName+name+":*"), Fields: "name"}))
	return 0, len(left), err
}
