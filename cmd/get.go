package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"github.com/quarry-db/quarry/pkg/apiclient"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// client reaches the hub that the flags, the environment or the context name.
func (a *app) client() (*apiclient.Client, error) {
	url, err := a.hubURL()
	if err != nil {
		return nil, err
	}
	c, err := apiclient.New(url, apiclient.Options{By: who()})
	if err != nil {
		return nil, withCode(exitUsage, err)
	}
	return c, nil
}

type getFlags struct {
	filter, sort, fields string
	requireFresh         time.Duration
	limit                int
	watch, noHeaders     bool
}

func (f *getFlags) query() apiclient.Query {
	return apiclient.Query{Filter: f.filter, OrderBy: f.sort, Fields: f.fields, RequireFresh: f.requireFresh}
}

func newGet(a *app) *cobra.Command {
	var f getFlags
	var names []string
	for _, r := range resources {
		names = append(names, r.name)
	}
	c := &cobra.Command{
		Use:   "get RESOURCE [NAME]",
		Short: "List rows of the global view",
		Long: "Lists rows of the global view: " + strings.Join(names, ", ") + `.

Every answer says how fresh each region is: a region that is silent or blind keeps its
rows, marked stale, and is named on standard error (with -o json under "unreachable").

--filter takes AIP-160 expressions over the fields of -o json:
  --filter 'region = "eu" AND bytes > 1GiB'
  --filter 'labels.team = "payments" OR NOT registered = true'`,
		Example: `  quarry get slates
  quarry get placements --filter 'kind = log' --sort-by 'bytes desc' -o wide
  quarry get slates --watch
  quarry get restore-points --filter 'state != verified' -o json`,
		Args: cobra.RangeArgs(1, 2),
		ValidArgsFunction: func(_ *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return names, cobra.ShellCompDirectiveNoFileComp
			}
			return a.complete(args[0], prefix), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			r, err := findResource(args[0])
			if err != nil {
				return err
			}
			if len(args) == 2 {
				if f.filter, err = narrow(r, args[1], f.filter); err != nil {
					return err
				}
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			if f.watch {
				return a.watchRows(c.Context(), cl, r, f)
			}
			n, err := a.listRows(c.Context(), cl, r, f)
			if err == nil && n == 0 && len(args) == 2 {
				return withCode(exitNotFound, fmt.Errorf("no %s named %q; see `quarry get %s`", r.aliases[0], args[1], r.name))
			}
			return err
		},
	}
	fl := c.Flags()
	fl.StringVar(&f.filter, "filter", "", "only rows that match this expression")
	fl.StringVar(&f.sort, "sort-by", "", "fields to sort by, such as 'bytes desc, slate'")
	fl.StringVar(&f.fields, "fields", "", "only these fields (with -o json or yaml), such as 'slate,region,bytes'")
	fl.DurationVar(&f.requireFresh, "require-fresh", 0, "fail (exit code 7) when a region is older than this, such as 30s")
	fl.IntVar(&f.limit, "limit", 500, "at most so many rows; 0: all")
	fl.BoolVarP(&f.watch, "watch", "w", false, "keep printing rows as they change, newest state each")
	fl.BoolVar(&f.noHeaders, "no-headers", false, "no header line")
	return c
}

// nameField is the field by which a row of a resource is named.
var nameField = map[string]string{
	"slates": "name", "regions": "name", "clusters": "name",
	"placements": "slate", "owners": "slate", "restore-points": "slate", "findings": "slate",
}

func narrow(r resource, name, filter string) (string, error) {
	by := nameField[r.name] + " = " + quote(name)
	if filter == "" {
		return by, nil
	}
	return by + " AND (" + filter + ")", nil
}

// answer is a list, read whole.
type answer struct {
	Items []json.RawMessage
	apiclient.Freshness
	More bool // limit cut it
}

// list reads at most limit rows of a resource; 0: all.
func (a *app) list(ctx context.Context, cl *apiclient.Client, resource string, q apiclient.Query, limit int) (*answer, error) {
	out := &answer{Items: []json.RawMessage{}}
	if limit > 0 {
		q.Limit = limit + 1 // one more tells that there are more
	}
	l := cl.List(ctx, resource, q)
	for raw, err := range l.Rows() {
		if err != nil {
			return nil, a.hubError(err)
		}
		if limit > 0 && len(out.Items) == limit {
			out.More = true
			break
		}
		out.Items = append(out.Items, raw)
	}
	out.Freshness = l.Freshness
	return out, nil
}

// quote writes a string as the filter language wants it.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// listRows prints all pages as one answer and returns how many rows there were.
func (a *app) listRows(ctx context.Context, cl *apiclient.Client, r resource, f getFlags) (int, error) {
	answer, err := a.list(ctx, cl, r.name, f.query(), f.limit)
	if err != nil {
		return 0, err
	}
	items := answer.Items
	switch a.output {
	case "json", "yaml":
		err = a.printObject(map[string]any{"items": items, "as_of": answer.AsOf, "unreachable": orEmpty(answer.Unreachable)}, nil)
		return len(items), err
	case "name":
		for _, raw := range items {
			id, err := r.id(raw)
			if err != nil {
				return 0, err
			}
			fmt.Fprintln(a.out, clean(id))
		}
		return len(items), nil
	}
	if len(items) == 0 {
		if f.filter != "" {
			fmt.Fprintf(a.err, "No %s match %s\n", r.name, f.filter)
		} else {
			fmt.Fprintln(a.err, r.empty)
		}
		a.printStale(answer.Freshness)
		return 0, nil
	}
	wide := a.output == "wide"
	var header []string
	if !f.noHeaders {
		header = r.header(wide)
	}
	t := newTable(a.out, header...)
	for _, raw := range items {
		cells, err := r.cells(raw, wide)
		if err != nil {
			return 0, err
		}
		t.row(cells...)
	}
	if err := t.flush(); err != nil {
		return 0, err
	}
	if answer.More {
		fmt.Fprintf(a.err, "… there are more; --limit 0 prints all\n")
	}
	a.printStale(answer.Freshness)
	return len(items), nil
}

func orEmpty(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

// printStale names the regions whose rows are not current.
func (a *app) printStale(answer apiclient.Freshness) {
	for _, name := range answer.Unreachable {
		f := answer.AsOf[name]
		old := "not heard since this hub started"
		if f.AgeMS != nil {
			old = "rows as of " + shortDuration(time.Duration(*f.AgeMS)*time.Millisecond) + " ago"
		}
		fmt.Fprintf(a.err, "region %s is %s: %s; see `quarry describe region %s`\n", name, f.State, old, name)
	}
}

// watchRows prints the newest state of each row as it changes, until
// interrupted.
func (a *app) watchRows(ctx context.Context, cl *apiclient.Client, r resource, f getFlags) error {
	wide := a.output == "wide"
	line := func(mark string, raw json.RawMessage) error {
		switch a.output {
		case "json":
			_, err := fmt.Fprintf(a.out, "%s\n", raw)
			return err
		case "yaml":
			y, err := yaml.JSONToYAML(raw)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.out, "---\n%s", y)
			return err
		case "name":
			id, err := r.id(raw)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.out, clean(id))
			return err
		}
		cells, err := r.cells(raw, wide)
		if err != nil {
			return err
		}
		t := newTable(a.out)
		t.row(append([]string{time.Now().Format(time.TimeOnly), mark}, cells...)...)
		return t.flush()
	}
	if (a.output == "table" || wide) && !f.noHeaders {
		t := newTable(a.out)
		t.row(append([]string{"TIME", ""}, r.header(wide)...)...)
		if err := t.flush(); err != nil {
			return err
		}
	}
	// A resync tells rows again: only what differs from what was printed is a
	// change.
	printed := map[string]uint64{}
	for ch, err := range cl.Watch(ctx, r.name, f.query()) {
		if err != nil {
			return a.hubError(err)
		}
		switch ch.Type {
		case apiclient.Row:
			h := fnv.New64a()
			_, _ = h.Write(ch.Item)
			if printed[ch.Key] == h.Sum64() {
				continue
			}
			printed[ch.Key] = h.Sum64()
			if err := line("", ch.Item); err != nil {
				return err
			}
		case apiclient.Gone:
			delete(printed, ch.Key)
			if a.output == "table" || wide {
				fmt.Fprintf(a.out, "%s  gone  %s\n", time.Now().Format(time.TimeOnly), clean(ch.Key))
			}
		case apiclient.Broken:
			fmt.Fprintf(a.err, "quarry: the hub does not answer (%v); trying again\n", ch.Err)
		}
	}
	return interrupted(ctx)
}

// interrupted is the end of something that only ends when somebody says so.
func interrupted(ctx context.Context) error {
	if ctx.Err() != nil {
		return withCode(exitInterrupted, ctx.Err())
	}
	return nil
}

// hubError gives an error of the hub its exit code and says what to do.
func (a *app) hubError(err error) error {
	var p *apiclient.Problem
	switch {
	case err == nil:
		return nil
	case errors.Is(err, apiclient.ErrUnreachable):
		return withCode(exitUnreachable, fmt.Errorf("%w; start one with `quarry demo` or `quarry hub`, or name another with --hub URL, QUARRY_HUB or `quarry config set-context`", err))
	case errors.As(err, &p):
		code := exitError
		switch {
		case p.Code == "not-fresh":
			code = exitPartial
		case p.Status == 404:
			code = exitNotFound
		case p.Status == 403 || p.Status == 401:
			code = exitDenied
		case p.Status == 409 || p.Status == 412:
			code = exitRefused
		case p.Status == 400 || p.Status == 422:
			code = exitUsage
		}
		if p.Caret != "" {
			return withCode(code, fmt.Errorf("%w\n%s", err, p.Caret))
		}
		return withCode(code, err)
	}
	return err
}

// complete asks the hub for names, silently and for a fifth of a second.
func (a *app) complete(res, prefix string) []string {
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	r, err := findResource(res)
	if err != nil {
		return nil
	}
	cl, err := a.client()
	if err != nil {
		return nil
	}
	answer, err := a.list(ctx, cl, r.name, apiclient.Query{Fields: nameField[r.name]}, 1000)
	if err != nil {
		return nil
	}
	var out []string
	for _, raw := range answer.Items {
		var m map[string]any
		if json.Unmarshal(raw, &m) != nil {
			continue
		}
		if s, _ := m[nameField[r.name]].(string); strings.HasPrefix(s, prefix) && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

func newSummary(a *app) *cobra.Command {
	var by, filter string
	var requireFresh time.Duration
	c := &cobra.Command{
		Use:     "summary --by region,kind",
		Short:   "Count placements and bytes by any few-valued fields",
		Example: "  quarry summary --by region,kind\n  quarry summary --by state --filter 'registered = false'",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			groups, fresh, err := cl.Summarize(c.Context(), "placements", by, apiclient.Query{Filter: filter, RequireFresh: requireFresh})
			if err != nil {
				return a.hubError(err)
			}
			if groups == nil {
				groups = []apiclient.Group{}
			}
			return a.printObject(map[string]any{"groups": groups, "as_of": fresh.AsOf, "unreachable": orEmpty(fresh.Unreachable)}, func() error {
				if len(groups) == 0 {
					fmt.Fprintln(a.err, "Nothing to count: no placements match.")
					return nil
				}
				defer a.printStale(fresh)
				fields := strings.Split(by, ",")
				var head []string
				for i := range fields {
					fields[i] = strings.TrimSpace(fields[i])
					head = append(head, strings.ToUpper(fields[i]))
				}
				t := newTable(a.out, append(head, "COUNT", "SIZE")...)
				for _, g := range groups {
					var cells []string
					for _, f := range fields {
						cells = append(cells, fmt.Sprint(g[f]))
					}
					bytes := "?"
					if n, ok := g["bytes"].(json.Number); ok {
						if v, err := strconv.ParseUint(n.String(), 10, 64); err == nil {
							bytes = byteSize(v)
						}
					}
					t.row(append(cells, fmt.Sprint(g["count"]), bytes)...)
				}
				return t.flush()
			})
		},
	}
	c.Flags().StringVar(&by, "by", "region,kind", "fields to group by")
	c.Flags().StringVar(&filter, "filter", "", "only rows that match this expression")
	c.Flags().DurationVar(&requireFresh, "require-fresh", 0, "fail (exit code 7) when a region is older than this, such as 30s")
	return c
}

func newEvents(a *app) *cobra.Command {
	var watch bool
	var limit int
	var filter string
	c := &cobra.Command{
		Use: "events", Short: "What changed: the ordered log of events", Args: cobra.NoArgs,
		Example: "  quarry events --watch\n  quarry events --filter 'type = \"writer-changed\"' -o json",
		RunE: func(c *cobra.Command, _ []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			show := func(e catalog.Event) error {
				switch a.output {
				case "json":
					b, err := json.Marshal(e)
					if err != nil {
						return err
					}
					_, err = fmt.Fprintf(a.out, "%s\n", b)
					return err
				case "yaml":
					b, err := yaml.Marshal(e)
					if err != nil {
						return err
					}
					_, err = fmt.Fprintf(a.out, "---\n%s", b)
					return err
				}
				_, err := fmt.Fprintf(a.out, "%s  %-20s %-10s %-24s %s\n", e.Time.Local().Format(time.DateTime), e.Type, clean(e.Region), clean(e.Slate), clean(e.What))
				return err
			}
			if watch {
				var all uint64 // from the oldest that is kept
				if oldest, err := a.list(c.Context(), cl, "events", apiclient.Query{Fields: "seq"}, 1); err != nil {
					return err
				} else if len(oldest.Items) > 0 {
					var e catalog.Event
					if err := json.Unmarshal(oldest.Items[0], &e); err != nil {
						return err
					}
					all = e.Seq - 1
				}
				for got, err := range cl.Events(c.Context(), &all, apiclient.Query{Filter: filter}) {
					if err != nil {
						return a.hubError(err)
					}
					var e catalog.Event
					if err := json.Unmarshal(got.Item, &e); err != nil {
						return err
					}
					if err := show(e); err != nil {
						return err
					}
				}
				return interrupted(c.Context())
			}
			answer, err := a.list(c.Context(), cl, "events", apiclient.Query{Filter: filter}, limit)
			if err != nil {
				return err
			}
			if a.output == "json" || a.output == "yaml" {
				return a.printObject(map[string]any{"items": answer.Items, "as_of": answer.AsOf, "unreachable": orEmpty(answer.Unreachable)}, nil)
			}
			if len(answer.Items) == 0 {
				fmt.Fprintln(a.err, "No events yet.")
			}
			for _, raw := range answer.Items {
				var e catalog.Event
				if err := json.Unmarshal(raw, &e); err != nil {
					return err
				}
				if err := show(e); err != nil {
					return err
				}
			}
			return nil
		},
	}
	c.Flags().BoolVarP(&watch, "watch", "w", false, "print all kept events, then new ones as they come")
	c.Flags().IntVar(&limit, "limit", 500, "at most so many; 0: all that are kept")
	c.Flags().StringVar(&filter, "filter", "", "only events that match this expression")
	return c
}

func newRegion(a *app) *cobra.Command {
	c := &cobra.Command{Use: "region", Short: "A person's word about regions"}
	var yes bool
	accept := &cobra.Command{
		Use: "accept NAME", Short: "Accept a region whose bucket is another, or came back with much less", Args: cobra.ExactArgs(1),
		Long: `A region is held back (blind with region-reset, or reset) when its agent comes with another
bucket, or with far fewer slates than before. Look at it first: quarry describe region NAME.
Accepting says that the bucket is right as it is now. Slates that are not there become
missing; none is dropped.`,
		ValidArgsFunction: func(_ *cobra.Command, _ []string, p string) ([]string, cobra.ShellCompDirective) {
			return a.complete("regions", p), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.confirm(yes, fmt.Sprintf("accept region %s as it is now", args[0])); err != nil {
				return err
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			if _, err := cl.Accept(c.Context(), args[0], "", false); err != nil {
				return a.hubError(err)
			}
			_, err = fmt.Fprintf(a.out, "region %s accepted\n", args[0])
			return err
		},
	}
	accept.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.AddCommand(accept)
	return c
}

func newForget(a *app) *cobra.Command {
	c := &cobra.Command{Use: "forget", Short: "Remove rows of things that are no more"}
	var region string
	var yes bool
	p := &cobra.Command{
		Use: "placement NAME --region R", Short: "Remove a missing placement's row", Args: cobra.ExactArgs(1),
		Long: `Removes the row of a placement that is missing. Nothing in any bucket is touched; should the
slate come back, it is listed again. A placement that is not missing is refused (exit code 4).`,
		ValidArgsFunction: func(_ *cobra.Command, _ []string, p string) ([]string, cobra.ShellCompDirective) {
			return a.complete("slates", p), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) error {
			if region == "" {
				return usagef("--region is needed: in which region is the placement of %q to be forgotten?", args[0])
			}
			if err := a.confirm(yes, fmt.Sprintf("forget the placement of %s in %s", args[0], region)); err != nil {
				return err
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			if _, err := cl.Forget(c.Context(), args[0], region, "", false); err != nil {
				return a.hubError(err)
			}
			_, err = fmt.Fprintf(a.out, "forgotten: %s in %s\n", args[0], region)
			return err
		},
	}
	p.Flags().StringVar(&region, "region", "", "region of the placement")
	p.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.AddCommand(p)
	return c
}

// who is the person at the keyboard, as far as the machine knows.
func who() string {
	for _, k := range []string{"QUARRY_USER", "USER", "LOGNAME"} {
		if v := os.Getenv(k); v != "" {
			return v
		}
	}
	return "unknown"
}

// confirm asks before something a person should mean. Without a terminal
// --yes is the only way.
func (a *app) confirm(yes bool, what string) error {
	if yes {
		return nil
	}
	f, ok := a.in.(*os.File)
	if !ok || !isTerminal(f) {
		return usagef("to %s give --yes, for there is no terminal to ask at", what)
	}
	fmt.Fprintf(a.err, "Really %s? Type yes: ", what)
	var answer string
	if _, err := fmt.Fscanln(a.in, &answer); err != nil || answer != "yes" {
		return withCode(exitRefused, fmt.Errorf("not done: the answer was not \"yes\""))
	}
	return nil
}
