package cmd

import (
	"fmt"
	"os"
	"os/user"

	"github.com/spf13/cobra"
)

func newRegion(a *app) *cobra.Command {
	c := &cobra.Command{Use: "region", Short: "A person's word about regions"}
	var yes bool
	accept := &cobra.Command{
		Use: "accept NAME", Short: "Accept a region whose bucket is another, or came back with much less", Args: cobra.ExactArgs(1),
		Long: `A region is held back (blind with region-reset, or reset) when its agent comes with another
bucket, or with far fewer slates than before. Look at it first: quarry describe region NAME.
Accepting says that the bucket is right as it is now. Slates that are not there become
missing; none is dropped.`,
		ValidArgsFunction: func(_ *cobra.Command, _ []string, p string) ([]string, cobra.ShellCompDirective) {
			return a.complete("regions", p), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.confirm(yes, fmt.Sprintf("accept region %s as it is now", args[0])); err != nil {
				return err
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			done, err := cl.Accept(c.Context(), args[0], "", false)
			if err != nil {
				return a.hubError(err)
			}
			return a.printObject(done, func() error {
				_, err := fmt.Fprintf(a.out, "region %s accepted\n", args[0])
				return err
			})
		},
	}
	accept.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.AddCommand(accept, newRegionJoin(a), newRegionRetire(a))
	return c
}

func newForget(a *app) *cobra.Command {
	c := &cobra.Command{Use: "forget", Short: "Remove rows of things that are no more"}
	var region string
	var yes bool
	p := &cobra.Command{
		Use: "placement NAME --region R", Short: "Remove a missing placement's row", Args: cobra.ExactArgs(1),
		Long: `Removes the row of a placement that is missing. Nothing in any bucket is touched; should the
slate come back, it is listed again. A placement that is not missing is refused (exit code 4).`,
		ValidArgsFunction: func(_ *cobra.Command, _ []string, p string) ([]string, cobra.ShellCompDirective) {
			return a.complete("slates", p), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) error {
			if region == "" {
				return usagef("--region is needed: in which region is the placement of %q to be forgotten?", args[0])
			}
			if err := a.confirm(yes, fmt.Sprintf("forget the placement of %s in %s", args[0], region)); err != nil {
				return err
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			done, err := cl.Forget(c.Context(), args[0], region, "", false)
			if err != nil {
				return a.hubError(err)
			}
			return a.printObject(done, func() error {
				_, err := fmt.Fprintf(a.out, "forgotten: %s in %s\n", args[0], region)
				return err
			})
		},
	}
	p.Flags().StringVar(&region, "region", "", "region of the placement")
	p.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.AddCommand(p)
	return c
}

// by is whom the hub records: who says so, else the person at the keyboard.
func (a *app) by() string { return firstOf(a.as, who()) }

// who is the person at the keyboard, as far as the machine knows.
func who() string {
	for _, k := range []string{"QUARRY_USER", "USER", "LOGNAME"} {
		if v := os.Getenv(k); v != "" {
			return v
		}
	}
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	return "unknown"
}

// confirm asks before something a person should mean. Without a terminal
// --yes is the only way.
func (a *app) confirm(yes bool, what string) error {
	if yes {
		return nil
	}
	f, ok := a.in.(*os.File)
	if !ok || !isTerminal(f) {
		return usagef("to %s give --yes, for there is no terminal to ask at", what)
	}
	fmt.Fprintf(a.err, "Really %s? Type yes: ", what)
	var answer string
	if _, err := fmt.Fscanln(a.in, &answer); err != nil || answer != "yes" {
		return withCode(exitRefused, fmt.Errorf("not done: the answer was not \"yes\""))
	}
	return nil
}
