package cmd

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions/plan"
)

func newExplain(a *app) *cobra.Command {
	c := &cobra.Command{Use: "explain", Short: "Say what may be done with a slate, and why"}
	var region string
	trim := &cobra.Command{
		Use: "trim NAME", Short: "Say how far a slate's history may be cut", Args: cobra.ExactArgs(1),
		Long: `Says how far the history of a slate may be cut, and which fact holds it back: the verdict, then
every region that has to agree with what it has verified, then holds and readers, then why.
Nothing is changed.`,
		Example:           "  quarry explain trim archive/0\n  quarry explain trim archive/0 -o json | jq .binding_region",
		ValidArgsFunction: a.completeOne("slates"),
		RunE: func(c *cobra.Command, args []string) error {
			e, err := a.explained(c.Context(), args[0], region)
			if err != nil {
				return err
			}
			return a.printObject(e, func() error { return a.printExplanation(e) })
		},
	}
	trim.Flags().StringVar(&region, "region", "", "where the name means several databases: the one in this region")
	_ = trim.RegisterFlagCompletionFunc("region", a.completeOne("regions"))
	c.AddCommand(trim)
	return c
}

// completeOne completes one argument with names of a resource.
func (a *app) completeOne(resource string) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return a.complete(resource, prefix), cobra.ShellCompDirectiveNoFileComp
	}
}

func (a *app) explained(ctx context.Context, slate, region string) (*state.Explanation, error) {
	if err := a.checkOutput(); err != nil {
		return nil, err
	}
	cl, err := a.client()
	if err != nil {
		return nil, err
	}
	e := new(state.Explanation)
	if err := cl.Explain(ctx, "trim", slate, region, e); err != nil {
		return nil, a.hubError(err)
	}
	return e, nil
}

// printExplanation shows the answer, then the reason, then what to do.
func (a *app) printExplanation(e *state.Explanation) error {
	fmt.Fprintln(a.out, a.headline(e))
	if len(e.Regions) > 0 {
		t := newTable(a.out, "  REGION", "VERIFIED", "NEWEST", "AGE", "STATE", "NOTES")
		for i := range e.Regions {
			r := &e.Regions[i]
			old := "-"
			if r.AgeSeconds != nil {
				old = shortDuration(time.Duration(*r.AgeSeconds) * time.Second)
			}
			note := opinionText(r)
			if note == "" && (r.State == catalog.RegionConnected || r.State == catalog.RegionSuspect) {
				note = "ok"
			}
			if r.Region == e.Binding {
				note = strings.TrimSpace(note + " <- binding")
			}
			t.row("  "+r.Region, numOr(r.Verified, "-"), numOr(r.Newest, "-"), old, string(r.State), note)
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	for _, p := range e.Holds {
		where := ""
		if p.Region != "" {
			where = " in " + p.Region
		}
		fmt.Fprintf(a.out, "  %s %s%s keeps what begins at %s\n", p.Kind, clean(p.ID), where, numOr(p.Position, "an unknown position, so everything"))
	}
	fmt.Fprintln(a.out, "  "+strings.Join(boundsText(e), " · "))
	policy := "no policy"
	if e.Policy.Name != "" {
		policy = fmt.Sprintf("policy %s@%d", clean(e.Policy.Name), e.Policy.Revision)
	}
	for _, o := range e.Others {
		policy += fmt.Sprintf(", with %s@%d", clean(o.Name), o.Revision)
	}
	said := []string{policy}
	if len(e.Inventory) > 0 {
		said = append(said, inventoryText(e.Inventory))
	}
	fmt.Fprintf(a.out, "  %s · term %d · plan %s\n", strings.Join(said, " · "), e.Term, e.Plan)
	if e.HeldBytes != nil {
		fmt.Fprintf(a.out, "  history keeps %s in the buckets\n", byteSize(*e.HeldBytes))
	}
	if e.Since != nil {
		fmt.Fprintf(a.out, "  blocked since %s (%s)\n", e.Since.Format(time.RFC3339), age(*e.Since))
	}
	a.printActed(e)
	for _, r := range e.Reasons {
		fmt.Fprintf(a.out, "%s: %s\n", a.colour("33", string(r.Code)), clean(r.Message))
	}
	return nil
}

// printActed says what lies in the buckets for owners to follow, and what is
// being done.
func (a *app) printActed(e *state.Explanation) {
	for i := range e.Published {
		p := &e.Published[i]
		if p.UpTo == nil {
			fmt.Fprintf(a.out, "  permit %d in %s is withdrawn\n", p.Number, p.Region)
			continue
		}
		until := "until " + p.NotAfter.UTC().Format(time.RFC3339)
		if p.Over {
			until = "ended " + age(p.NotAfter) + " ago"
		}
		cut := "what was cut is not known"
		if p.TrimmedTo != nil {
			cut = fmt.Sprintf("cut up to %d", *p.TrimmedTo)
		}
		fmt.Fprintf(a.out, "  permit %d in %s: up to %d, %s; %s\n", p.Number, p.Region, *p.UpTo, until, cut)
	}
	for i := range e.UnderWay {
		d := &e.UnderWay[i]
		up := ""
		if d.Position != nil {
			up = fmt.Sprintf(" up to %d", *d.Position)
		}
		fmt.Fprintf(a.out, "  decision %s by %s: %s%s in %s is %s\n", shortID(d.ID), clean(d.By), d.Verb, up, d.Region, d.Stage)
		for _, w := range d.Waiting {
			fmt.Fprintf(a.out, "    %s\n", clean(w))
		}
	}
}

// boundsText is what lowers the floor beside the regions, in short.
func boundsText(e *state.Explanation) []string {
	count := func(what string, n uint64) string {
		if n == 0 {
			return what + " none"
		}
		return fmt.Sprintf("%s %d", what, n)
	}
	out := []string{"gap none"}
	if e.Gap > 0 {
		out[0] = fmt.Sprintf("gap -%d", e.Gap)
	}
	if e.Keep > 0 {
		out = append(out, fmt.Sprintf("newest %d kept", e.Keep))
	}
	holds := uint64(0)
	for i := range e.Holds {
		if k := e.Holds[i].Kind; k != plan.PinReader && k != plan.PinConsumer {
			holds++
		}
	}
	out = append(out, count("holds", holds), count("readers", e.Readers))
	if e.Quorum != "" {
		out = append(out, "quorum "+clean(e.Quorum))
	}
	return out
}

// inventoryText is up to which news of each region it was evaluated: the counter
// of its agent, without when that began.
func inventoryText(list []state.RegionRevision) string {
	out := []string{"inventory"}
	for _, r := range list {
		counter := r.Revision[strings.LastIndexByte(r.Revision, '.')+1:]
		if counter == "" {
			counter = "-"
		}
		out = append(out, clean(r.Region)+":"+counter)
	}
	return strings.Join(out, " ")
}

func (a *app) headline(e *state.Explanation) string {
	verdict := a.colour("33", "WAIT")
	if e.Action == plan.Permit {
		verdict = a.colour("32", fmt.Sprintf("PERMIT up to %s", numOr(e.UpTo, "?")))
	}
	domain := ""
	if e.PositionDomain != "" {
		domain = " (" + e.PositionDomain + ")"
	}
	return fmt.Sprintf("%s%s   trim: %s", clean(e.Slate), domain, verdict)
}

// opinionText is what counts against a region, in short.
func opinionText(r *plan.RegionOpinion) string {
	var out []string
	for _, why := range r.Reasons {
		out = append(out, why.String())
	}
	return strings.Join(out, "; ")
}

func numOr(p *uint64, or string) string {
	if p == nil {
		return or
	}
	return fmt.Sprint(*p)
}
