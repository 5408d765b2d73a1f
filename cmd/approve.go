package cmd

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/quarry-db/quarry/pkg/apiclient"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// onTrust is said where two people have to agree.
const onTrust = `
Names are taken on trust: until there is authentication the hub believes --as, QUARRY_USER or the
name of the account. Two people are two names.`

func newApprove(a *app) *cobra.Command {
	var why string
	var yes bool
	c := &cobra.Command{
		Use: "approve ID", Short: "Agree to a decision that needs more than one person", Args: cobra.ExactArgs(1),
		Long: `Agrees to a decision that waits for people; quarry get decisions --filter 'stage = "proposed"'
lists them. Whoever asked for it cannot approve it, and nobody counts twice. ID is an id, as much
of its beginning as says which one is meant, or the decision's number.
` + onTrust,
		ValidArgsFunction: a.completeDecisions(`stage = "proposed"`),
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			d, _, err := a.decision(c.Context(), cl, args[0])
			if err != nil {
				return err
			}
			if err := a.confirm(yes, fmt.Sprintf("approve decision %s, %s, asked for by %s", shortID(d.ID), decisionText(d), d.By)); err != nil {
				return err
			}
			done, err := cl.Approve(c.Context(), d.ID, why, "", false)
			return a.said(done, err)
		},
	}
	whyFlag(c, &why)
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

func newRefuse(a *app) *cobra.Command {
	var why string
	c := &cobra.Command{
		Use: "refuse ID", Short: "Refuse a decision that was not sent yet", Args: cobra.ExactArgs(1),
		Long: `Refuses a decision before an agent has it. It takes no confirmation, for it does no harm: what
should be done all the same is asked for again. One that an agent has is not taken back so; see
quarry freeze. ID is an id, as much of its beginning as says which one is meant, or the
decision's number.
` + onTrust,
		ValidArgsFunction: a.completeDecisions(`stage = "proposed" OR stage = "approved"`),
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			d, _, err := a.decision(c.Context(), cl, args[0])
			if err != nil {
				return err
			}
			done, err := cl.RefuseDecision(c.Context(), d.ID, why, "", false)
			return a.said(done, err)
		},
	}
	whyFlag(c, &why)
	return c
}

// said prints what a write came to, in one sentence.
func (a *app) said(done apiclient.Done, err error) error {
	if err != nil {
		return a.hubError(err)
	}
	return a.printObject(done, func() error {
		fmt.Fprintln(a.out, clean(done.What))
		a.printWithdrawn(done.Withdrawn)
		return nil
	})
}

// whyFlag is a person's reason, for the record.
func whyFlag(c *cobra.Command, why *string) {
	c.Flags().StringVar(why, "why", "", "why, for the record")
	c.Flags().StringVar(why, "reason", "", "why, for the record")
	_ = c.Flags().MarkHidden("reason")
}

func newBreaker(a *app) *cobra.Command {
	c := &cobra.Command{
		Use: "breaker", Short: "Show whether the breaker is open, and close it", Args: cobra.NoArgs,
		Long: `The breaker opens when more slates would be touched at once than looks meant, as by a typo in a
policy: then none of it is done, and nothing else is decided but what stops something, until a
person has looked and closes it.`,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			var b catalog.BreakerRow
			if err := cl.Breaker(c.Context(), &b); err != nil {
				return a.hubError(err)
			}
			return a.printObject(b, func() error { return a.printBreaker(&b) })
		},
	}
	c.AddCommand(newBreakerClose(a))
	return c
}

func (a *app) printBreaker(b *catalog.BreakerRow) error {
	switch {
	case b.Open:
		fmt.Fprintf(a.out, "%s since %s (%s ago): %s\n", a.colour("31", "open"), b.Since.UTC().Format("2006-01-02T15:04:05Z"), age(*b.Since), clean(b.Why))
		fmt.Fprintf(a.out, "look at what asks for it (quarry get policies, quarry events); if it is meant: %s\n", closeIt(b))
	case b.Since != nil:
		fmt.Fprintf(a.out, "closed by %s %s ago%s\n", clean(b.By), age(*b.Since), parenthesis(clean(b.Why)))
	default:
		fmt.Fprintln(a.out, "closed; it was never open")
	}
	return nil
}

// closeIt is the command that closes an open breaker.
func closeIt(b *catalog.BreakerRow) string {
	n := "N"
	if b.Slates > 0 {
		n = fmt.Sprint(b.Slates)
	}
	return "quarry breaker close --slates " + n + " --why TEXT"
}

func newBreakerClose(a *app) *cobra.Command {
	var why string
	var slates uint64
	c := &cobra.Command{
		Use: "close --slates N --why TEXT", Short: "Say that what opened the breaker is meant", Args: cobra.NoArgs,
		Long: `Closes the breaker. N is how many slates are meant to be touched, as quarry breaker says it:
another number is refused (exit code 4), for then something else is asked for than what was looked at.
` + onTrust,
		RunE: func(c *cobra.Command, _ []string) error {
			switch {
			case slates == 0:
				return usagef("--slates N is needed: how many slates are meant; see `quarry breaker`")
			case why == "":
				return usagef("--why TEXT is needed: it goes into the audit")
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			done, err := cl.CloseBreaker(c.Context(), slates, why, "", false)
			return a.said(done, err)
		},
	}
	c.Flags().Uint64Var(&slates, "slates", 0, "how many slates are meant to be touched")
	whyFlag(c, &why)
	return c
}
