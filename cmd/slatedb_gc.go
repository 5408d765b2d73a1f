package cmd

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/slatedb"
)

// ageFlags are how old garbage must be.
func ageFlags(c *cobra.Command, o *slatedb.CollectOptions) {
	c.Flags().DurationVar(&o.MinAge, "min-age", 15*time.Minute, "how old an object must be; less only for a database that nobody else has open")
	c.Flags().DurationVar(&o.FenceAge, "fence-age", 24*time.Hour, "the same for WAL objects that may be fences, which stop stalled writers")
}

func checkAges(o *slatedb.CollectOptions) error {
	if o.MinAge <= 0 || o.FenceAge <= 0 {
		return usagef("--min-age %v, --fence-age %v: times such as 15m and 24h", o.MinAge, o.FenceAge)
	}
	return nil
}

const gcLong = `Garbage are manifests that no checkpoint names, WAL objects before the last flush, tables
that no manifest names and the compactor's old states. The rules are those of SlateDB's own
collector, and stricter ones: no checkpoint is removed, and one that has expired holds for
as long again as it was given, by the store's clock; nothing is taken when something that may
hold it cannot be read. Tables go only where a compactor has left its state.`

func newSlateDBGCPlan(a *app, f *slatedbFlags) *cobra.Command {
	var o slatedb.CollectOptions
	c := &cobra.Command{
		Use: "gc-plan ROOT", Short: "Show what a collection would remove, and why the rest stays", Args: cobra.ExactArgs(1), Long: gcLong,
		RunE: func(c *cobra.Command, args []string) error {
			if err := checkAges(&o); err != nil {
				return err
			}
			return f.admin(c.Context(), args[0], func(db *slatedb.Admin, _ *bucket.Bucket) error {
				plan, err := db.PlanCollection(c.Context(), o)
				if err != nil {
					return err
				}
				return a.printObject(plan, func() error { return a.printCollection(plan, "would be removed") })
			})
		},
	}
	ageFlags(c, &o)
	return c
}

func newSlateDBGC(a *app, f *slatedbFlags) *cobra.Command {
	var o slatedb.CollectOptions
	var yes, dry bool
	c := &cobra.Command{
		Use: "gc ROOT", Short: "Remove what nothing needs", Args: cobra.ExactArgs(1),
		Long: gcLong + `

It shows the plan and asks. It may run beside writers, readers, compactors and other
collectors, and may be stopped and run again at any moment.`,
		RunE: func(c *cobra.Command, args []string) error {
			if err := checkAges(&o); err != nil {
				return err
			}
			if err := a.checkOutput(); err != nil {
				return err
			}
			ctx := c.Context()
			return f.admin(ctx, args[0], func(db *slatedb.Admin, _ *bucket.Bucket) error {
				plan, err := db.PlanCollection(ctx, o)
				if err != nil {
					return err
				}
				if dry {
					return a.printObject(plan, func() error { return a.printCollection(plan, "would be removed") })
				}
				if !yes && len(plan.Garbage) > 0 {
					if a.output == "table" || a.output == "wide" {
						if err := a.printCollection(plan, "would be removed"); err != nil {
							return err
						}
					}
					if err := a.confirm(yes, fmt.Sprintf("remove %s of %s", plural(len(plan.Garbage), "object"), args[0])); err != nil {
						return err
					}
				}
				o.Only = plan.Garbage
				if show := a.progress("removed"); show != nil {
					o.Progress = func(done, total int, _ string) { show(done, total) }
				}
				gone, err := db.Collect(ctx, o)
				if err != nil {
					if len(gone.Garbage) > 0 {
						err = fmt.Errorf("%w; %s were removed before, run it again", err, plural(len(gone.Garbage), "object"))
					}
					return err
				}
				return a.printObject(gone, func() error { return a.printCollection(gone, "removed") })
			})
		},
	}
	ageFlags(c, &o)
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.Flags().BoolVar(&dry, "dry-run", false, "only show the plan")
	return c
}

func (a *app) printCollection(p slatedb.Collection, verb string) error {
	if a.output == "wide" || a.output == "name" {
		for _, g := range p.Garbage {
			fmt.Fprintln(a.out, clean(g.Key))
		}
		if a.output == "name" {
			return nil
		}
	}
	t := newTable(a.out, "CLASS", "FATE", "OBJECTS", "BYTES")
	type sum struct {
		n     int
		bytes int64
	}
	sums := map[slatedb.Class]sum{}
	for _, g := range p.Garbage {
		s := sums[g.Class]
		sums[g.Class] = sum{s.n + 1, s.bytes + g.Size}
	}
	for _, c := range []slatedb.Class{slatedb.ClassCompactions, slatedb.ClassWAL, slatedb.ClassTable, slatedb.ClassManifest} {
		if s := sums[c]; s.n > 0 {
			t.row(string(c), verb, fmt.Sprint(s.n), byteSize(uint64(s.bytes)))
		}
		for _, k := range p.Kept {
			if k.Class == c {
				t.row(string(c), "kept: "+string(k.Why), fmt.Sprint(k.Objects), byteSize(uint64(k.Bytes)))
			}
		}
	}
	if err := t.flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(a.out, "\n%s %s, %s (manifest %d, ages counted to %s)\n", plural(len(p.Garbage), "object"), verb, byteSize(uint64(p.Bytes)), p.ManifestID, p.Now.UTC().Format(time.RFC3339))
	return err
}
