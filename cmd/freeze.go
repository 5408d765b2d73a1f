package cmd

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/quarry-db/quarry/pkg/apiclient"
)

// scopeOf is what a freeze is about: one of its flags, else everything.
func scopeOf(region, slate string) (string, error) {
	switch {
	case region != "" && slate != "":
		return "", usagef("--region and --slate together: freeze one after the other")
	case region != "":
		return "region/" + region, nil
	case slate != "":
		return "slate/" + slate, nil
	}
	return "all", nil
}

func newFreeze(a *app) *cobra.Command {
	return a.newScoped("freeze", "Stop everything irreversible, everywhere or in a region or slate",
		`Stops everything irreversible until it is thawed: no history is cut, nothing is pruned or
deleted. It takes no confirmation, for it does no harm. quarry get freezes lists what is frozen.`,
		func(ctx context.Context, cl *apiclient.Client, scope, why string) (apiclient.Done, error) {
			return cl.Freeze(ctx, scope, why, "", false)
		})
}

func newThaw(a *app) *cobra.Command {
	return a.newScoped("thaw", "End a freeze of the same scope",
		`Ends the freeze of exactly the scope that was frozen; others stay.`,
		func(ctx context.Context, cl *apiclient.Client, scope, why string) (apiclient.Done, error) {
			return cl.Thaw(ctx, scope, why, "", false)
		})
}

func (a *app) newScoped(verb, short, long string, do func(ctx context.Context, cl *apiclient.Client, scope, why string) (apiclient.Done, error)) *cobra.Command {
	var region, slate, why string
	var yes bool
	c := &cobra.Command{
		Use: verb, Short: short, Long: long, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			scope, err := scopeOf(region, slate)
			if err != nil {
				return err
			}
			if verb == "thaw" {
				if err := a.confirm(yes, "thaw "+scope); err != nil {
					return err
				}
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			done, err := do(c.Context(), cl, scope, why)
			return a.said(done, err)
		},
	}
	c.Flags().StringVar(&region, "region", "", "only this region")
	c.Flags().StringVar(&slate, "slate", "", "only this slate")
	whyFlag(c, &why)
	if verb == "thaw" {
		c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	}
	_ = c.RegisterFlagCompletionFunc("region", a.completeOne("regions"))
	_ = c.RegisterFlagCompletionFunc("slate", a.completeOne("slates"))
	return c
}
