package cmd

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newRegionJoin(a *app) *cobra.Command {
	var active, yes bool
	c := &cobra.Command{
		Use: "join NAME", Short: "Take a region into the set that has to agree", Args: cobra.ExactArgs(1),
		Long: `Takes a region into the set as joining: from now on it is heard before any history is cut,
whatever policies say about how many regions are enough. With --active a joining region
becomes one of those.`,
		ValidArgsFunction: a.completeOne("regions"),
		RunE: func(c *cobra.Command, args []string) error {
			as := "joining"
			if active {
				as = "active"
			}
			if err := a.confirm(yes, fmt.Sprintf("make region %s %s", args[0], as)); err != nil {
				return err
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			done, err := cl.JoinRegion(c.Context(), args[0], as, "", false)
			return a.said(done, err)
		},
	}
	c.Flags().BoolVar(&active, "active", false, "make a joining region active")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

func newRegionRetire(a *app) *cobra.Command {
	var why string
	var yes bool
	c := &cobra.Command{
		Use: "retire NAME", Short: "Have a region agree to nothing any more", Args: cobra.ExactArgs(1),
		Long: `What waits for the region waits no more: history that it has not archived may be cut. Its agents
are refused; its rows stay as they were last seen. Refused (exit code 4) while a policy
could not be satisfied without it.

A region that a policy requires needs the word of two people: the first is remembered, and
quarry region join NAME --active takes it back.
` + onTrust,
		ValidArgsFunction: a.completeOne("regions"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.confirm(yes, fmt.Sprintf("retire region %s", args[0])); err != nil {
				return err
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			done, err := cl.RetireRegion(c.Context(), args[0], why, "", false)
			return a.said(done, err)
		},
	}
	whyFlag(c, &why)
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}
