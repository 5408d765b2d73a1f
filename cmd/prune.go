package cmd

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quarry-db/quarry/hub/api"
	"github.com/quarry-db/quarry/pkg/apiclient"
	"github.com/quarry-db/quarry/regions/plan"
)

func newPrune(a *app) *cobra.Command {
	var f carryFlags
	c := &cobra.Command{
		Use: "prune NAME", Short: "Remove the restore points that policies do not keep", Args: cobra.ExactArgs(1),
		Long: `Prints each restore point of a snapshot repository, region by region, and why it stays or goes. On
a terminal it then asks; with --yes it does not ask, and with neither, or with --dry-run, nothing
is done.

What goes is what no policy keeps: beyond restorePoints.perRegion and keep. The newest, the last
verified ones of a region and what a hold keeps never go; the lowest goes only as far as the log
may be cut, for its owner cuts it up to there. A policy with a keep section does the same by
itself.

When nothing may be removed the exit code is 4 and the reasons are printed. With --wait the end is
waited for: exit code 0 when all of it was seen to be gone, 4 when agents refused, 1 when it had no
effect, 7 when some did and some did not, 8 when --timeout ended.`,
		Example: `  quarry prune archive/0                     what would go, and why
  quarry prune archive/0 --region eu --yes --wait`,
		ValidArgsFunction: a.completeOne("slates"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := f.check(a); err != nil {
				return err
			}
			return a.prune(c.Context(), args[0], f)
		},
	}
	f.register(a, c, "only in this region", "it was seen to be gone", 10*time.Minute)
	return c
}

// prune shows what would go, and has it removed when a person says so.
func (a *app) prune(ctx context.Context, slate string, f carryFlags) error {
	cl, err := a.client()
	if err != nil {
		return err
	}
	human := a.output != "json" && a.output != "yaml"
	ask := apiclient.Carry{Region: f.region, Plan: f.plan, Why: f.why}
	var planned api.Pruned
	if err := cl.CarryOut(ctx, "prune", slate, ask, "", true, &planned); err != nil {
		return a.ruledOut(err)
	}
	going, why := beyond(&planned, f.region)
	if human || !f.yes || going == 0 {
		if err := a.printObject(&planned, func() error { return a.printPruning(&planned, f.region) }); err != nil {
			return err
		}
	}
	switch {
	case going == 0 && len(why) > 0:
		return withCode(exitRefused, fmt.Errorf("nothing of %s is removed: %s", planned.Slate, strings.Join(why, ", ")))
	case going == 0:
		if human {
			fmt.Fprintln(a.err, "There is nothing to do: nothing is beyond policy.")
		}
		return nil
	case f.dry || !f.yes && (!human || !a.terminal()):
		if human && !f.dry {
			fmt.Fprintf(a.err, "Nothing was done. To do it: quarry prune %s%s --plan %s --yes\n", shellWord(slate), f.again(nil), planned.Plan)
		}
		return nil
	case !f.yes:
		if err := a.confirm(false, fmt.Sprintf("prune %s as planned", slate)); err != nil {
			return err
		}
		ask.Plan = planned.Plan // what was looked at, and nothing else
	}
	var done api.Pruned
	if err := cl.CarryOut(ctx, "prune", slate, ask, "", false, &done); err != nil {
		return a.ruledOut(err)
	}
	var late error
	if f.wait && len(done.Decisions) > 0 {
		done.Decisions, late = a.seeThrough(ctx, cl, done.Decisions, f.timeout)
	}
	if !human {
		err = a.printObject(&done, nil)
	} else {
		err = a.printDecided(done.Decisions)
	}
	if err != nil || late != nil || !f.wait {
		return cmpErr(err, late)
	}
	return endOf(done.Decisions)
}

func cmpErr(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// beyond is in how many regions something goes, and for which reasons it waits.
func beyond(p *api.Pruned, region string) (going int, why []string) {
	add := func(reasons []plan.Reason) {
		for _, r := range reasons {
			if !strings.Contains(strings.Join(why, " "), string(r.Code)) {
				why = append(why, string(r.Code))
			}
		}
	}
	add(p.Reasons)
	for i := range p.Regions {
		r := &p.Regions[i]
		if region != "" && r.Region != region {
			continue
		}
		add(r.Reasons)
		if r.Action == plan.Remove && p.Action == plan.Remove {
			going++
		}
	}
	return going, why
}

// printPruning shows each restore point and why it stays or goes.
func (a *app) printPruning(p *api.Pruned, region string) error {
	cut := "nothing of its log may be cut now"
	if p.UpTo != nil {
		cut = fmt.Sprintf("its log may be cut up to %d", *p.UpTo)
	}
	fmt.Fprintf(a.out, "%s (%s)   prune: %s; %s\n", clean(p.Slate), p.PositionDomain, strings.ToUpper(string(p.Action)), cut)
	t := newTable(a.out, "  REGION", "POSITION", "RESTORE POINT", "STATE", "AGE", "", "WHY")
	var notes []string
	for i := range p.Regions {
		r := &p.Regions[i]
		if region != "" && r.Region != region {
			continue
		}
		for j := range r.Points {
			f := &r.Points[j]
			word := a.colour("33", "goes")
			if f.Stays {
				word = "stays"
			} else if f.Why == plan.GoUnderWay {
				word = "going"
			}
			t.row("  "+r.Region, fmt.Sprint(f.Position), f.ID, string(f.State), age(f.Made), word, string(f.Why)+": "+f.Message)
		}
		if r.Sweep {
			notes = append(notes, fmt.Sprintf("  %s: folders that nothing lists and that have not changed for %s go too", r.Region, r.OlderThan))
		}
		if len(r.Remove) > 0 && r.Bytes > 0 {
			notes = append(notes, fmt.Sprintf("  %s: %d verified ones stay, %s go", r.Region, r.Left, byteSize(r.Bytes)))
		}
		for _, why := range r.Reasons {
			notes = append(notes, fmt.Sprintf("  %s: %s: %s", r.Region, a.colour("33", string(why.Code)), clean(why.Message)))
		}
	}
	if err := t.flush(); err != nil {
		return err
	}
	for _, n := range notes {
		fmt.Fprintln(a.out, n)
	}
	var policies []string
	for _, r := range p.Policies {
		policies = append(policies, fmt.Sprintf("%s@%d", r.Name, r.Revision))
	}
	by := "no policy"
	if len(policies) > 0 {
		by = "policy " + strings.Join(policies, ", ")
	}
	fmt.Fprintf(a.out, "  %s · plan %s · term %d\n", by, p.Plan, p.Term)
	for _, r := range p.Reasons {
		fmt.Fprintf(a.out, "%s: %s\n", a.colour("33", string(r.Code)), clean(r.Message))
	}
	return nil
}
