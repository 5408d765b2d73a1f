package cmd

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/quarry-db/quarry/hub/api"
	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/regions/plan"
)

func newTrim(a *app) *cobra.Command {
	return a.newCarry(carrying{
		verb: "trim", short: "Have a slate's history cut as far as may be",
		long: `Prints the plan: how far the history of a slate may be cut, what would be published in which
region, who would meet a gap, and the plan's name. On a terminal it then asks; with --yes it does
not ask, and with neither, or with --dry-run, nothing is done.

A policy with a trim section does the same by itself; this is for whoever does not want to wait,
or wants less than all (--up-to). Under a policy that trims by itself less than all is good until
its next pass, which goes on as far as may be: to keep more take quarry hold. What is carried out
is judged anew: with --plan it is refused when anything that matters has changed since that plan
was printed.

When it may not be cut at all, or not so far, the exit code is 4 and the reasons are printed.
With --wait the end is waited for: exit code 0 when every permit was seen in its bucket, 4 when
agents refused, 1 when it had no effect, 7 when some did and some did not, 8 when --timeout ended.`,
		example: `  quarry trim archive/0                      what would be done
  quarry trim archive/0 --yes --wait         do it, and see it through
  quarry trim archive/0 --up-to 5000 --plan p-0011223344556677 --yes`,
		show: func(a *app, p *api.Carried) error { return a.printTrimPlan(p) },
	})
}

// printTrimPlan shows the verdict, then what would be done, then who would have
// to begin again.
func (a *app) printTrimPlan(p *api.Carried) error {
	if err := a.printExplanation(&p.Explanation); err != nil {
		return err
	}
	if p.Action != plan.Permit {
		return nil
	}
	if p.Wanted != nil && p.UpTo != nil && *p.Wanted < *p.UpTo {
		fmt.Fprintf(a.out, "  asked for: up to %d\n", *p.Wanted)
	}
	t := newTable(a.out, "  REGION", "PUBLISHED", "UP TO", "TRIMMED TO", "WOULD")
	for i := range p.Steps {
		s := &p.Steps[i]
		t.row("  "+s.Region, numOr(s.Published, "-"), numOr(s.UpTo, "-"), numOr(s.TrimmedTo, "?"), stepWould(s))
	}
	if err := t.flush(); err != nil {
		return err
	}
	for _, s := range p.Strands {
		again := "there is no restore point of its region to begin again from: it would be stranded"
		if s.RestorePoint != nil {
			again = fmt.Sprintf("it can begin again from %d", *s.RestorePoint)
		}
		fmt.Fprintf(a.out, "  %s %s in %s reads on from %s; %s\n", s.Kind, clean(s.ID), s.Region, numOr(s.Position, "an unknown position"), again)
	}
	return nil
}

func stepWould(s *state.CarryStep) string {
	switch s.Doing {
	case "permit":
		return "publish a permit"
	case "published":
		return "nothing: it is published"
	}
	return strings.TrimSuffix("nothing: "+s.Why, ": ")
}

// waits is the refusal of a plan that waits, with its reasons; nil for one that
// permits.
func waits(e *state.Explanation) error {
	if e.Action == plan.Permit {
		return nil
	}
	var why []string
	for _, r := range e.Reasons {
		if !strings.Contains(strings.Join(why, " "), string(r.Code)) {
			why = append(why, string(r.Code))
		}
	}
	return withCode(exitRefused, fmt.Errorf("%s waits: %s", e.Slate, strings.Join(why, ", ")))
}
