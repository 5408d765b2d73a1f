package cmd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quarry-db/quarry/hub/api"
	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/apiclient"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// carrying is a command that has the rules' word about a slate carried out: dry
// until a person says yes.
type carrying struct {
	verb                 string // as in /v1/slates/{name}:verb
	short, long, example string
	show                 func(a *app, p *api.Carried) error
}

type carryFlags struct {
	region, plan, why string
	upTo              uint64
	yes, dry, wait    bool
	timeout           time.Duration
}

func (a *app) newCarry(w carrying) *cobra.Command {
	var f carryFlags
	c := &cobra.Command{
		Use: w.verb + " NAME", Short: w.short, Long: w.long, Example: w.example, Args: cobra.ExactArgs(1),
		ValidArgsFunction: a.completeOne("slates"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := f.check(a); err != nil {
				return err
			}
			ask := apiclient.Carry{Region: f.region, Plan: f.plan, Why: f.why}
			if c.Flags().Changed("up-to") {
				ask.UpTo = &f.upTo
			}
			return a.carry(c.Context(), w, args[0], ask, f)
		},
	}
	c.Flags().Uint64Var(&f.upTo, "up-to", 0, "how far, inclusive; not given: as far as may be; a policy that trims by itself goes on as far at its next pass")
	f.register(a, c, "where the name means several databases: the one in this region", "the effect was seen", 5*time.Minute)
	return c
}

// register has a command that carries something out take the flags of them all.
func (f *carryFlags) register(a *app, c *cobra.Command, region, seen string, timeout time.Duration) {
	fl := c.Flags()
	fl.StringVar(&f.region, "region", "", region)
	fl.StringVar(&f.plan, "plan", "", "the plan that was printed: another one that is found now is refused")
	fl.BoolVar(&f.yes, "yes", false, "do it without asking")
	fl.BoolVar(&f.dry, "dry-run", false, "print the plan and do nothing")
	fl.BoolVar(&f.wait, "wait", false, "wait until the agents have said what became of it and "+seen)
	fl.DurationVar(&f.timeout, "timeout", timeout, "how long --wait waits (exit code 8)")
	whyFlag(c, &f.why)
	_ = c.RegisterFlagCompletionFunc("region", a.completeOne("regions"))
}

// check refuses flags that contradict each other, before anything is asked.
func (f *carryFlags) check(a *app) error {
	switch {
	case f.dry && (f.yes || f.wait):
		return usagef("--dry-run does nothing: leave out --yes and --wait")
	case f.timeout <= 0:
		return usagef("--timeout %s: how long --wait waits, such as 5m", f.timeout)
	}
	return a.checkOutput()
}

// carry shows the plan, and has it carried out when a person says so.
func (a *app) carry(ctx context.Context, w carrying, slate string, ask apiclient.Carry, f carryFlags) error {
	cl, err := a.client()
	if err != nil {
		return err
	}
	human := a.output != "json" && a.output != "yaml"
	asks := !f.yes && !f.dry && human && a.terminal()
	var planned api.Carried
	if err := cl.CarryOut(ctx, w.verb, slate, ask, "", true, &planned); err != nil {
		return a.ruledOut(err)
	}
	waiting := waits(&planned.Explanation)
	if human || !f.yes || waiting != nil {
		if err := a.printObject(&planned, func() error { return w.show(a, &planned) }); err != nil {
			return err
		}
	}
	if waiting != nil {
		return waiting
	}
	if planned.Would() == 0 && !f.yes {
		why, held := idle(&planned)
		if human && held == nil {
			fmt.Fprintln(a.err, "There is nothing to do: "+why)
		}
		return held
	}
	if !f.yes && !asks {
		if human && !f.dry {
			fmt.Fprintf(a.err, "Nothing was done. To do it: quarry %s %s%s --plan %s --yes\n", w.verb, shellWord(slate), f.again(ask.UpTo), planned.Plan)
		}
		return nil
	}
	if asks {
		if err := a.confirm(false, fmt.Sprintf("%s %s as planned", w.verb, slate)); err != nil {
			return err
		}
		ask.Plan = planned.Plan // what was looked at, and nothing else
	}
	var done api.Carried
	if err := cl.CarryOut(ctx, w.verb, slate, ask, "", false, &done); err != nil {
		return a.ruledOut(err)
	}
	var late error
	if f.wait && len(done.Decisions) > 0 {
		done.Decisions, late = a.seeThrough(ctx, cl, done.Decisions, f.timeout)
	}
	if err := a.printCarried(&done, human); err != nil {
		return err
	}
	if len(done.Decisions) == 0 {
		_, held := idle(&done)
		return held
	}
	if late != nil || !f.wait {
		return late
	}
	return endOf(done.Decisions)
}

// idle says why there is nothing to do, and gives the refusal when that is
// because nothing may be done anywhere.
func idle(p *api.Carried) (why string, held error) {
	var published, byHold, none []string
	for i := range p.Steps {
		switch s := &p.Steps[i]; {
		case s.Doing == "published":
			published = append(published, s.Region)
		case s.Doing == "none" && s.Why == state.CutByHold:
			byHold = append(byHold, s.Region)
		case s.Doing == "none":
			none = append(none, fmt.Sprintf("in %s nothing is: %s", s.Region, s.Why))
		}
	}
	rest := clean(strings.Join(none, "; "))
	switch {
	case len(published) > 0 && len(none) == 0:
		return "it is published already", nil
	case len(published) > 0:
		return fmt.Sprintf("it is published already in %s; %s", strings.Join(published, ", "), rest), nil
	case len(byHold) > 0:
		return state.CutByHold, nil
	case len(none) > 0:
		return rest, withCode(exitRefused, fmt.Errorf("%s: nothing is published; %s", p.Slate, rest))
	}
	return "nothing is asked of any region", nil
}

// again are the flags that make the same request once more.
func (f *carryFlags) again(upTo *uint64) (out string) {
	if upTo != nil {
		out += fmt.Sprintf(" --up-to %d", *upTo)
	}
	if f.region != "" {
		out += " --region " + shellWord(f.region)
	}
	return out
}

// shellWord is s as a shell reads it as one word.
func shellWord(s string) string {
	plain := func(r rune) bool {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-_./:@%+,", r)
	}
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }) {
		return s
	}
	return "'" + strings.ReplaceAll(clean(s), "'", `'\''`) + "'"
}

// terminal reports whether there is a person to ask.
func (a *app) terminal() bool {
	f, ok := a.in.(*os.File)
	return ok && isTerminal(f)
}

// printCarried says what was decided, and what has become of it.
func (a *app) printCarried(done *api.Carried, human bool) error {
	if !human {
		return a.printObject(done, nil)
	}
	if len(done.Decisions) == 0 {
		why, held := idle(done)
		if held != nil {
			return nil // which is said as an error
		}
		_, err := fmt.Fprintln(a.out, "nothing to decide: "+why)
		return err
	}
	return a.printDecided(done.Decisions)
}

// printDecided shows decisions, a line for each.
func (a *app) printDecided(of []catalog.DecisionRow) error {
	if len(of) == 0 {
		_, err := fmt.Fprintln(a.out, "nothing was decided")
		return err
	}
	t := newTable(a.out, "DECISION", "VERB", "REGION", "POSITION", "STAGE", "WHY")
	for i := range of {
		d := &of[i]
		t.row(shortID(d.ID), string(d.Verb), d.Region, numOr(d.Position, "-"), string(d.Stage), heldUpBy(d))
	}
	return t.flush()
}

// ruledOut gives a refusal by the rules its exit code, a line for each reason.
func (a *app) ruledOut(err error) error {
	if p, ok := errors.AsType[*apiclient.Problem](err); ok && p.Status == 409 && p.Code != "refused" {
		return withCode(exitRefused, fmt.Errorf("%s: %w", p.Code, errors.New(strings.TrimPrefix(err.Error(), p.Code+": "))))
	}
	return a.hubError(err)
}

// seeThrough waits until nothing more is expected of decisions, and gives them
// as they are then. On a terminal it says on stderr how far they are.
func (a *app) seeThrough(ctx context.Context, cl *apiclient.Client, of []catalog.DecisionRow, limit time.Duration) ([]catalog.DecisionRow, error) {
	within, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var which []string
	for i := range of {
		which = append(which, "id = "+quote(of[i].ID))
	}
	show := isTerminal(a.err) && (a.output == "table" || a.output == "wide")
	defer func() {
		if show {
			fmt.Fprint(a.err, "\r\x1b[K")
		}
	}()
	for {
		// A hub that is started anew meanwhile goes on where it was.
		now, _, err := rowsOf[catalog.DecisionRow](within, a, cl, "decisions", strings.Join(which, " OR "), 0)
		if err == nil && len(now) > 0 {
			slices.SortFunc(now, func(a, b catalog.DecisionRow) int { return strings.Compare(a.Region, b.Region) })
			of = now
		}
		open := slices.ContainsFunc(of, func(d catalog.DecisionRow) bool { return !d.Stage.Settled() })
		switch {
		case !open:
			return of, nil
		case ctx.Err() != nil:
			return of, interrupted(ctx)
		case within.Err() != nil:
			return of, withCode(exitTimeout, fmt.Errorf("not at its end after %s: %s; it goes on by itself, see `quarry get decisions`", limit, progressText(of)))
		case err != nil && !errors.Is(err, apiclient.ErrUnreachable) && !slow(err):
			return of, err
		}
		if show {
			fmt.Fprintf(a.err, "\r\x1b[K%s", progressText(of))
		}
		select {
		case <-within.Done():
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// progressText is how far decisions are, in a line.
func progressText(of []catalog.DecisionRow) string {
	ended := 0
	var open []string
	for i := range of {
		d := &of[i]
		if d.Stage.Settled() {
			ended++
			continue
		}
		what := fmt.Sprintf("%s %s", d.Region, d.Stage)
		if len(d.Waiting) > 0 {
			what += " (" + d.Waiting[0] + ")"
		}
		open = append(open, what)
	}
	return clean(fmt.Sprintf("%d of %d at their end; %s", ended, len(of), strings.Join(open, ", ")))
}

// endOf is the exit code that decisions at their end come to.
func endOf(of []catalog.DecisionRow) error {
	count := map[catalog.Stage]int{}
	for i := range of {
		count[of[i].Stage]++
	}
	done := count[catalog.StageDone]
	if done == len(of) {
		return nil
	}
	var what []string
	for _, s := range catalog.Stages {
		if n := count[s]; n > 0 {
			what = append(what, fmt.Sprintf("%d %s", n, s))
		}
	}
	code := exitError
	switch {
	case done > 0:
		code = exitPartial
	case count[catalog.StageFailed]+count[catalog.StageNotEffective] == 0:
		code = exitRefused
	}
	return withCode(code, fmt.Errorf("%s; see `quarry describe decision ID`", strings.Join(what, ", ")))
}
