package cmd

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/regions/plan"
)

func newTrim(a *app) *cobra.Command {
	var region string
	c := &cobra.Command{
		Use: "trim NAME", Short: "Plan how far a slate's history is cut", Args: cobra.ExactArgs(1),
		Long: `Prints the plan: how far the history of a slate may be cut, and why. When it may not be cut at
all, the exit code is 4 and the reasons are printed. Nothing is done.`,
		ValidArgsFunction: a.completeOne("slates"),
		RunE: func(c *cobra.Command, args []string) error {
			e, err := a.explained(c.Context(), args[0], region)
			if err != nil {
				return err
			}
			if err := a.printObject(e, func() error { return a.printExplanation(e) }); err != nil {
				return err
			}
			return waits(e)
		},
	}
	c.Flags().StringVar(&region, "region", "", "where the name means several databases: the one in this region")
	_ = c.RegisterFlagCompletionFunc("region", a.completeOne("regions"))
	return c
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
