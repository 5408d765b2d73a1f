package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

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
	c, err := apiclient.New(url, apiclient.Options{By: a.by(), AnswerWithin: a.within})
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
	orphaned             bool   // holds only
	named                string // the one row asked for
}

// shape is how rows are shown: with --fields a table of just these; a list of
// names needs the names.
func (f *getFlags) shape(r resource, output string) resource {
	if f.fields == "" {
		return r
	}
	switch output {
	case "name":
		f.fields = ""
	case "table", "wide":
		return r.only(f.fields)
	}
	return r
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
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) == 0:
				return fmt.Errorf("say what to get: %s", strings.Join(names, ", "))
			case len(args) > 2:
				return fmt.Errorf("one resource and at most one name, not also %q", args[2])
			}
			return nil
		},
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
			if f.limit < 0 {
				return usagef("--limit %d: a number of rows, or 0 for all", f.limit)
			}
			if len(args) == 2 {
				f.named = args[1]
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
			if f.orphaned {
				return a.listOrphaned(c.Context(), cl, r, f)
			}
			if f.watch {
				return a.watchRows(c.Context(), cl, r, f)
			}
			n, err := a.listRows(c.Context(), cl, r, f)
			if err == nil && n == 0 && len(args) == 2 {
				return a.notFound(c.Context(), cl, r, args[1])
			}
			return err
		},
	}
	fl := c.Flags()
	fl.StringVar(&f.filter, "filter", "", "only rows that match this expression")
	fl.StringVar(&f.sort, "sort-by", "", "fields to sort by, such as 'bytes desc, slate'")
	fl.StringVar(&f.fields, "fields", "", "only these fields of -o json, such as 'name,kind,bytes'; in a table they are the columns")
	fl.DurationVar(&f.requireFresh, "require-fresh", 0, "fail (exit code 7) when a region is older than this, such as 30s")
	fl.IntVar(&f.limit, "limit", 500, "at most so many rows; 0: all")
	fl.BoolVarP(&f.watch, "watch", "w", false, "keep printing rows as they change, newest state each")
	fl.BoolVar(&f.noHeaders, "no-headers", false, "no header line")
	fl.BoolVar(&f.orphaned, "orphaned", false, "holds only: checkpoints of Quarry's that no hold and no policy claims any more")
	return c
}

// nameField is the field by which a row of a resource is named.
var nameField = map[string]string{
	"slates": "name", "regions": "name", "clusters": "name",
	"policies": "name", "holds": "name", "freezes": "scope", "pins": "slate",
	"decisions":  "id",
	"placements": "slate", "owners": "slate", "restore-points": "slate", "findings": "slate",
}

func narrow(r resource, name, filter string) (string, error) {
	by := nameField[r.name] + " = " + quote(name)
	if r.name == "decisions" {
		var err error
		if by, err = decisionFilter(name); err != nil {
			return "", err
		}
		by = "(" + by + ")"
	}
	if filter == "" {
		return by, nil
	}
	return by + " AND (" + filter + ")", nil
}

// notFound says so, and where the name leads if it is the root of a slate that
// has another name.
func (a *app) notFound(ctx context.Context, cl *apiclient.Client, r resource, name string) error {
	hint := fmt.Sprintf("see `quarry get %s`", r.name)
	if nameField[r.name] != "name" || r.name == "slates" {
		if at, _, err := rowsOf[catalog.Placement](ctx, a, cl, "placements", "root = "+quote(name), 1); err == nil && len(at) > 0 && at[0].Slate != name {
			hint = fmt.Sprintf("what lies at that root is named %q", at[0].Slate)
		}
	}
	return withCode(exitNotFound, fmt.Errorf("no %s named %q; %s", r.aliases[0], name, hint))
}

// answer is a list, read whole.
type answer struct {
	Items []json.RawMessage
	apiclient.Freshness
	More bool // limit cut it
}

// listJSON is what -o json prints: what was asked for first.
type listJSON struct {
	Items       []json.RawMessage `json:"items"`
	AsOf        any               `json:"as_of"`
	Unreachable []string          `json:"unreachable"`
	NotDeciding string            `json:"not_deciding,omitempty"`
}

func (l *answer) json() listJSON {
	return listJSON{l.Items, l.AsOf, orEmpty(l.Unreachable), l.NotDeciding}
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
// Tables need all rows for the width of their columns, and so does YAML.
func (a *app) listRows(ctx context.Context, cl *apiclient.Client, r resource, f getFlags) (int, error) {
	shown := f.shape(r, a.output)
	if a.output == "json" || a.output == "name" {
		return a.streamRows(ctx, cl, r, f.query(), f.limit)
	}
	q := f.query()
	if a.output == "table" && q.Fields == "" {
		q.Fields = r.shown
	}
	answer, err := a.list(ctx, cl, r.name, q, f.limit)
	if err != nil {
		return 0, err
	}
	items := answer.Items
	if a.output == "yaml" {
		return len(items), a.printObject(answer.json(), nil)
	}
	if len(items) == 0 {
		if f.named != "" {
			return 0, nil // the caller says so
		}
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
		header = shown.header(wide)
	}
	t := newTable(a.out, header...)
	for _, raw := range items {
		cells, err := shown.cells(raw, wide)
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
	if answer.NotDeciding != "" {
		fmt.Fprintf(a.err, "this hub is %s\n", answer.NotDeciding)
	}
}

// slow tells a hub that took the connection and did not answer in time from
// one that is not there.
func slow(err error) bool {
	n, ok := errors.AsType[net.Error](err)
	if !ok || !n.Timeout() {
		return false
	}
	op, ok := errors.AsType[*net.OpError](err)
	return !ok || op.Op != "dial"
}

// hubError gives an error of the hub its exit code and says what to do.
func (a *app) hubError(err error) error {
	var p *apiclient.Problem
	switch {
	case err == nil:
		return nil
	case slow(err):
		return withCode(exitTimeout, fmt.Errorf("%w; it may be busy: ask for less, or give it longer with --request-timeout", err))
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
		if p.Caret != "" && isTerminal(a.err) {
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
