package cmd

import (
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
			return a.printObject(map[string]any{"groups": groups, "trims": trims, "as_of": fresh.AsOf, "unreachable": orEmpty(fresh.Unreachable)}, func() error {
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
