package cmd

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/quarry-db/quarry/pkg/apiclient"
	"github.com/quarry-db/quarry/pkg/catalog"
)

func newEvents(a *app) *cobra.Command {
	var watch, noHeaders bool
	var limit int
	var filter string
	c := &cobra.Command{
		Use: "events", Short: "What changed: the ordered log of events", Args: cobra.NoArgs,
		Example: "  quarry events --watch\n  quarry events --filter 'type = \"writer-changed\"' -o json",
		RunE: func(c *cobra.Command, _ []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			if limit < 0 {
				return usagef("--limit %d: a number of events, or 0 for all", limit)
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			rows := &flowingTable{width: []int{len(time.DateTime), len("snapshot-incomplete"), 10, 20}}
			if !noHeaders {
				rows.header = []string{"TIME", "TYPE", "REGION", "SLATE", "WHAT"}
			}
			add := func(e *catalog.Event) {
				rows.row(e.Time.Local().Format(time.DateTime), e.Type, e.Region, e.Slate, e.What)
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
					switch a.output {
					case "json":
						_, err = fmt.Fprintf(a.out, "%s\n", got.Item)
					case "yaml":
						err = a.printYAMLDocument(got.Item)
					default:
						var e catalog.Event
						if err := json.Unmarshal(got.Item, &e); err != nil {
							return err
						}
						add(&e)
						_, err = fmt.Fprint(a.out, rows.take())
					}
					if err != nil {
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
				return a.printObject(answer.json(), nil)
			}
			if len(answer.Items) == 0 && filter != "" {
				fmt.Fprintf(a.err, "No events match %s\n", filter)
			} else if len(answer.Items) == 0 {
				fmt.Fprintln(a.err, "No events yet: no agent has reported anything that changed.")
			}
			for _, raw := range answer.Items {
				var e catalog.Event
				if err := json.Unmarshal(raw, &e); err != nil {
					return err
				}
				add(&e)
			}
			if _, err := fmt.Fprint(a.out, rows.take()); err != nil {
				return err
			}
			if answer.More {
				fmt.Fprintln(a.err, "… there are newer ones; --limit 0 prints all")
			}
			return nil
		},
	}
	c.Flags().BoolVarP(&watch, "watch", "w", false, "print all kept events, then new ones as they come")
	c.Flags().BoolVar(&noHeaders, "no-headers", false, "no header line")
	c.Flags().IntVar(&limit, "limit", 500, "at most so many; 0: all that are kept")
	c.Flags().StringVar(&filter, "filter", "", "only events that match this expression")
	return c
}
