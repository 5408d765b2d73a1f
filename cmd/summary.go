package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/apiclient"
	"github.com/quarry-db/quarry/pkg/catalog"
)

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
			var trims *state.Trims
			var sums state.Trims
			switch err := cl.Trims(c.Context(), &sums); {
			case err == nil:
				trims = &sums
			case !errors.Is(err, fs.ErrNotExist): // a hub of before there were policies
				return a.hubError(err)
			}
			stages, breaker, err := a.decisionSums(c.Context(), cl)
			if err != nil {
				return err
			}
			return a.printObject(map[string]any{"groups": groups, "trims": trims, "decisions": stages, "breaker": breaker, "as_of": fresh.AsOf, "unreachable": orEmpty(fresh.Unreachable)}, func() error {
				a.printDecisionSums(stages, breaker)
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
				if err := t.flush(); err != nil {
					return err
				}
				return a.printTrims(trims)
			})
		},
	}
	c.Flags().StringVar(&by, "by", "region,kind", "fields to group by")
	c.Flags().StringVar(&filter, "filter", "", "only rows that match this expression")
	c.Flags().DurationVar(&requireFresh, "require-fresh", 0, "fail (exit code 7) when a region is older than this, such as 30s")
	return c
}

// decisionSums counts decisions by their stage, and says how the breaker stands.
func (a *app) decisionSums(ctx context.Context, cl *apiclient.Client) (map[string]uint64, catalog.BreakerRow, error) {
	stages, breaker := map[string]uint64{}, catalog.BreakerRow{}
	groups, _, err := cl.Summarize(ctx, "decisions", "stage", apiclient.Query{})
	if err == nil {
		err = cl.Breaker(ctx, &breaker)
	}
	if errors.Is(err, fs.ErrNotExist) { // a hub of before there were decisions
		return stages, breaker, nil
	}
	for _, g := range groups {
		if n, ok := g["count"].(json.Number); ok {
			stages[fmt.Sprint(g["stage"])], _ = strconv.ParseUint(n.String(), 10, 64)
		}
	}
	return stages, breaker, a.hubError(err)
}

// printDecisionSums says first what waits for people: an open breaker, and
// decisions that need another person.
func (a *app) printDecisionSums(stages map[string]uint64, b catalog.BreakerRow) {
	lines := 0
	say := func(format string, args ...any) {
		lines++
		fmt.Fprintf(a.out, format+"\n", args...)
	}
	if b.Open {
		say("%s since %s: %s; see `quarry breaker`", a.colour("31", "breaker-open"), b.Since.UTC().Format(time.RFC3339), clean(b.Why))
	}
	count := func(of ...catalog.Stage) (n uint64) {
		for _, s := range of {
			n += stages[string(s)]
		}
		return n
	}
	if n := count(catalog.StageProposed); n > 0 {
		say("%s for approval; see `quarry get decisions --filter 'stage = \"proposed\"'`", plural(int(n), "decision")+map[bool]string{true: " waits", false: " wait"}[n == 1])
	}
	if n := count(catalog.StageApproved, catalog.StageSent, catalog.StageClaimed); n > 0 {
		say("%s under way", plural(int(n), "decision"))
	}
	if n := count(catalog.StageFailed, catalog.StageNotEffective); n > 0 {
		say("%s without effect; see `quarry get decisions --filter 'stage = \"failed\" OR stage = \"not-effective\"'`", plural(int(n), "decision"))
	}
	if lines > 0 {
		fmt.Fprintln(a.out)
	}
}

// printTrims says below the counts what may be trimmed and what waits, when any
// policy speaks of that.
func (a *app) printTrims(t *state.Trims) error {
	if t == nil || t.Slates == 0 {
		return nil
	}
	fmt.Fprintf(a.out, "\ntrim: %d of %s permitted, %d blocked%s\n", t.Permitted, plural(int(t.Slates), "slate"), t.Blocked, blockText(t.HeldBytes, t.Since))
	for _, r := range t.Reasons {
		fmt.Fprintf(a.out, "  %s: %s%s\n", r.Code, plural(int(r.Slates), "slate"), blockText(r.HeldBytes, r.Since))
	}
	return nil
}

func blockText(held *uint64, since *time.Time) string {
	out := ""
	if held != nil {
		out += ", history keeps " + byteSize(*held)
	}
	if since != nil {
		out += ", since " + age(*since)
	}
	return out
}
