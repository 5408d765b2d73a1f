package cmd

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/slatedb"
)

// repairable are the findings that repair can cure.
var repairable = []string{string(slatedb.FilterFormatMismatch), string(slatedb.SegmentsLost), string(slatedb.BoundaryAhead)}

func newSlateDBRepair(a *app, f *slatedbFlags) *cobra.Command {
	var o slatedb.RepairOptions
	var only []string
	var yes, dry bool
	c := &cobra.Command{
		Use: "repair ROOT", Short: "Cure findings for which a new manifest is enough; dry unless --yes", Args: cobra.ExactArgs(1),
		Long: `Cures what verify found, where one new manifest is the cure: filter formats and segments that
a process of release 0.12 has lost, and a collector's boundary that makes every open spin.
The newest manifest is patched: epochs never fall, checkpoints stay, every object it names
is there. Afterwards the database is verified again.

Without --yes it only says what it would do. With it, somebody must vouch for the writer,
which would undo the repair or lose by it: --writer-stopped says that no process has the
database open for writing nor opens it meanwhile, --fence stops whoever has.`,
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			for _, code := range only {
				if !slices.Contains(repairable, code) {
					return usagef("--finding %q: one of %s", code, strings.Join(repairable, ", "))
				}
				o.Only = append(o.Only, slatedb.Code(code))
			}
			if o.WriterStopped && o.Fence {
				return usagef("--writer-stopped or --fence, not both: where no writer is there is none to fence")
			}
			o.DryRun = dry || !yes
			return f.admin(c.Context(), args[0], func(db *slatedb.Admin, _ *bucket.Bucket) error {
				done, err := db.Repair(c.Context(), o)
				if err != nil {
					return err
				}
				return a.printObject(done, func() error { return a.printRepair(done, o.DryRun) })
			})
		},
	}
	fl := c.Flags()
	fl.StringArrayVar(&only, "finding", nil, "cure only this finding; may be given several times")
	fl.BoolVar(&yes, "yes", false, "do it")
	fl.BoolVar(&dry, "dry-run", false, "only say what would be done (so it is without --yes)")
	fl.BoolVar(&o.WriterStopped, "writer-stopped", false, "no process has the database open for writing, nor opens it meanwhile")
	fl.BoolVar(&o.Fence, "fence", false, "fence whoever has the database open for writing")
	_ = c.RegisterFlagCompletionFunc("finding", cobra.FixedCompletions(repairable, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func (a *app) printRepair(r slatedb.Repaired, dry bool) error {
	w := a.out
	for _, f := range r.Cured {
		fmt.Fprintf(w, "%s  %s\n    %s\n    it hurts %s\n", a.colour("31", string(f.Code)), clean(f.Object), clean(f.What), clean(f.Who))
	}
	switch {
	case len(r.Cured) == 0:
		fmt.Fprintf(w, "nothing to repair in manifest %d\n", r.ManifestID)
	case dry:
		fmt.Fprintf(w, "\nwould put, after manifest %d:\n", r.ManifestID)
	default:
		fmt.Fprintf(w, "\nput, after manifest %d, as manifest %d:\n", r.ManifestID, r.Written)
	}
	for _, c := range r.Cure {
		fmt.Fprintf(w, "    %s\n", clean(c))
	}
	left := slices.DeleteFunc(slices.Clone(r.Left), func(f slatedb.Finding) bool { return dry && slices.Contains(r.Cured, f) })
	for _, f := range left {
		fmt.Fprintf(w, "%s  %s: %s: %s\n", "left:", clean(string(f.Code)), clean(f.Object), clean(f.Cure))
	}
	if dry && len(r.Cured) > 0 {
		fmt.Fprintf(w, "\nNothing was done. To do it: --yes, with --writer-stopped or --fence.\n")
	}
	return nil
}
