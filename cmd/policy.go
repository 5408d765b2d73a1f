package cmd

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/regions"
)

func newPolicy(a *app) *cobra.Command {
	c := &cobra.Command{
		Use: "policy", Short: "Try policies out, take them out of force, and have editors know them",
		Long: `Policies say what people want kept and allow to be done. The smallest useful one:

  apiVersion: quarry/v1
  kind: Policy
  metadata: {name: archives}
  select: {kinds: [snapshots]}
  trim:
    require: {all: true}            # or {atLeast: 2, include: [ams]}
    safetyGap: {positions: 0}       # optional, also age
  restorePoints: {perRegion: 1}

Put it in force with quarry apply -f FILE; quarry get policies lists what is in force.`,
	}
	c.AddCommand(newPolicyTest(a), newPolicyRemove(a), newPolicySchema(a))
	return c
}

func newPolicyTest(a *app) *cobra.Command {
	var file string
	c := &cobra.Command{
		Use: "test -f FILE", Short: "Say what a file of policies and holds would change", Args: cobra.NoArgs,
		Long: `Compares the verdicts under the file with those in force, over everything the hub knows: counts
first, then each slate whose verdict would be another. Nothing is changed.`,
		RunE: func(c *cobra.Command, _ []string) error {
			if file == "" {
				return usagef("-f FILE is needed: the documents to test; - is standard input")
			}
			if err := a.checkOutput(); err != nil {
				return err
			}
			name, content, err := a.documents(file)
			if err != nil {
				return err
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			var t state.Tested
			if err := cl.TestPolicies(c.Context(), name, content, &t); err != nil {
				return a.rejected(err)
			}
			return a.printObject(t, func() error { return a.printTested(&t) })
		},
	}
	c.Flags().StringVarP(&file, "filename", "f", "", "file with policies and holds; - is standard input")
	_ = c.MarkFlagFilename("filename", "yaml", "yml")
	return c
}

func (a *app) printTested(t *state.Tested) error {
	fmt.Fprintf(a.out, "%s looked at: %d opened, %d raised, %d lowered, %d closed, %d wait for other reasons, %d unchanged\n",
		plural(int(t.Slates), "slate"), t.Opened, t.Raised, t.Lowered, t.Closed, t.Reasoned, t.Unchanged)
	if len(t.Changes) == 0 {
		return nil
	}
	rows := newTable(a.out, "SLATE", "CHANGE", "NOW", "THEN", "WHY")
	for _, c := range t.Changes {
		rows.row(c.Slate, c.Change, numOr(c.Before, "wait"), numOr(c.After, "wait"), strings.Join(c.Reasons, ","))
	}
	if err := rows.flush(); err != nil {
		return err
	}
	if all := t.Opened + t.Raised + t.Lowered + t.Closed + t.Reasoned; all > uint64(len(t.Changes)) {
		fmt.Fprintf(a.err, "… the first %d of %d\n", len(t.Changes), all)
	}
	return nil
}

func newPolicyRemove(a *app) *cobra.Command {
	var why string
	var yes bool
	c := &cobra.Command{
		Use: "remove NAME", Short: "Take a policy out of force", Args: cobra.ExactArgs(1),
		Long:              "What only this policy permitted is not permitted any more. What it restricted may be.",
		ValidArgsFunction: a.completeOne("policies"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.confirm(yes, "remove policy "+args[0]); err != nil {
				return err
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			done, err := cl.RemovePolicy(c.Context(), args[0], why, "", false)
			return a.said(done, err)
		},
	}
	whyFlag(c, &why)
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

func newPolicySchema(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "schema", Short: "Print the JSON Schema of policies and holds, for editors", Args: cobra.NoArgs,
		Long: `Prints the JSON Schema (2020-12) of policies and holds. Editors that know YAML complete and check
with it; the first line of a file then is
  # yaml-language-server: $schema=policy.schema.json`,
		RunE: func(*cobra.Command, []string) error { return a.printJSON(regions.Schema()) },
	}
}
