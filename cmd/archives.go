package cmd

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// archiveRow is a partition of a snapshot repository in one region.
type archiveRow struct {
	Slate  string `json:"slate"`
	Region string `json:"region"`
	Root   string `json:"root"`
	// Newest and Archived are the highest and the lowest position that the
	// pointer lists; null: that is not known, which is not 0.
	Newest   *uint64 `json:"newest"`
	Archived *uint64 `json:"archived"`
	// Lag is how far Newest is behind that of the region with the highest.
	Lag      *uint64 `json:"lag"`
	Listed   uint64  `json:"restore_points"`
	Verified uint64  `json:"verified_restore_points"`
	Orphans  int     `json:"orphans"`
	// NewestAt is when the newest restore point was made, by its maker's clock.
	NewestAt *time.Time             `json:"newest_at"`
	State    catalog.PlacementState `json:"state"`
	Reason   string                 `json:"state_reason"`
}

type archivesJSON struct {
	Items       []archiveRow `json:"items"`
	AsOf        any          `json:"as_of"`
	Unreachable []string     `json:"unreachable"`
	NotDeciding string       `json:"not_deciding,omitempty"`
}

func newArchives(a *app) *cobra.Command {
	var filter string
	c := &cobra.Command{
		Use: "archives [NAME]", Short: "List snapshot repositories: what each region can restore", Args: cobra.MaximumNArgs(1),
		Long: `Lists the partitions of all snapshot repositories, region by region: the newest and the lowest
position that can be restored, how many restore points are verified, how old the newest is, and
how far the region is behind the others. One whose pointer cannot be read is listed as unreadable,
with no position: what it can restore is not known, and holds back what is cut elsewhere.`,
		Example:           "  quarry archives\n  quarry archives archive/0 -o json\n  quarry archives --filter 'region = \"eu\"'",
		ValidArgsFunction: a.completeOne("slates"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			which := "kind = " + quote(string(catalog.KindSnapshots))
			if len(args) == 1 {
				which += " AND slate = " + quote(args[0])
			}
			if filter != "" {
				which += " AND (" + filter + ")"
			}
			placed, fresh, err := rowsOf[catalog.Placement](c.Context(), a, cl, "placements", which, 0)
			if err != nil {
				return err
			}
			points, _, err := rowsOf[catalog.RestorePoint](c.Context(), a, cl, "restore-points", `source = "snapshot"`, 0)
			if err != nil {
				return err
			}
			rows := archiveRows(placed, points)
			if len(rows) == 0 && len(args) == 1 {
				return withCode(exitNotFound, fmt.Errorf("no snapshot repository named %q; see `quarry archives`", args[0]))
			}
			return a.printObject(archivesJSON{rows, fresh.AsOf, orEmpty(fresh.Unreachable), fresh.NotDeciding}, func() error {
				if len(rows) == 0 {
					fmt.Fprintln(a.err, "No snapshot repositories. Agents find them by their layout below --discover.")
				} else if err := a.printArchives(rows); err != nil {
					return err
				}
				a.printStale(fresh)
				return nil
			})
		},
	}
	c.Flags().StringVar(&filter, "filter", "", "only placements that match; see quarry get --help")
	return c
}

// archiveRows are by partition and region.
func archiveRows(placed []catalog.Placement, points []catalog.RestorePoint) []archiveRow {
	rows := []archiveRow{}
	type lineage struct{ slate, lineage string }
	highest := map[lineage]uint64{}
	of := map[int]lineage{}
	slices.SortFunc(placed, func(x, y catalog.Placement) int {
		return cmp.Or(cmp.Compare(x.Slate, y.Slate), cmp.Compare(x.Region, y.Region), cmp.Compare(x.Root, y.Root))
	})
	for i := range placed {
		p := &placed[i]
		r := archiveRow{Slate: p.Slate, Region: p.Region, Root: p.Root, Newest: p.Position, Archived: p.Archived, Listed: p.RestorePoints,
			Verified: p.VerifiedRestorePoints, Orphans: len(p.Orphans), State: p.State, Reason: p.StateReason}
		if p.State == catalog.StateUnreadable {
			r.Newest, r.Archived = nil, nil
		}
		for j := range points {
			if rp := &points[j]; rp.Region == p.Region && rp.Root == p.Root && rp.Position != nil && p.Position != nil && *rp.Position == *p.Position && rp.CreatedAt != nil {
				r.NewestAt = rp.CreatedAt
			}
		}
		id := lineage{p.Slate, p.Lineage}
		of[len(rows)] = id
		if r.Newest != nil {
			highest[id] = max(highest[id], *r.Newest)
		}
		rows = append(rows, r)
	}
	for i := range rows {
		if r := &rows[i]; r.Newest != nil {
			lag := highest[of[i]] - *r.Newest
			r.Lag = &lag
		}
	}
	return rows
}

func (a *app) printArchives(rows []archiveRow) error {
	if a.output == "name" {
		for i := range rows {
			fmt.Fprintln(a.out, clean(rows[i].Region+"/"+rows[i].Root))
		}
		return nil
	}
	head := []string{"PARTITION", "REGION", "NEWEST", "ARCHIVED", "LAG", "VERIFIED", "AGE", "STATE"}
	if a.output == "wide" {
		head = append(head, "ORPHANS", "ROOT")
	}
	t := newTable(a.out, head...)
	for i := range rows {
		r := &rows[i]
		cells := []string{r.Slate, r.Region, numOr(r.Newest, "?"), numOr(r.Archived, "?"), numOr(r.Lag, "?"), fmt.Sprintf("%d/%d", r.Verified, r.Listed),
			ageOr(r.NewestAt, "?"), strings.TrimSuffix(string(r.State)+": "+r.Reason, ": ")}
		if a.output == "wide" {
			cells = append(cells, fmt.Sprint(r.Orphans), r.Root)
		}
		t.row(cells...)
	}
	return t.flush()
}
