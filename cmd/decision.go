package cmd

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/apiclient"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/reaction"
)

// decisionRows are decisions, for get.
var decisionRows = kindOfRow("decisions", []string{"decision", "de"}, func(d *catalog.DecisionRow) string { return d.ID },
	"No decisions: nobody and no policy has asked for anything yet. A policy with a trim section does by itself; see `quarry policy --help`.",
	column[catalog.DecisionRow]{head: "DECISION", cell: func(d *catalog.DecisionRow) string { return shortID(d.ID) }},
	column[catalog.DecisionRow]{head: "VERB", cell: func(d *catalog.DecisionRow) string { return string(d.Verb) }},
	column[catalog.DecisionRow]{head: "SLATE", cell: func(d *catalog.DecisionRow) string { return d.Slate }},
	column[catalog.DecisionRow]{head: "REGION", cell: func(d *catalog.DecisionRow) string { return d.Region }},
	column[catalog.DecisionRow]{head: "POSITION", cell: func(d *catalog.DecisionRow) string { return numOr(d.Position, "-") }},
	column[catalog.DecisionRow]{head: "STAGE", cell: func(d *catalog.DecisionRow) string { return string(d.Stage) }},
	column[catalog.DecisionRow]{head: "BY", cell: func(d *catalog.DecisionRow) string { return d.By }},
	column[catalog.DecisionRow]{head: "PROPOSED", cell: func(d *catalog.DecisionRow) string { return age(d.Proposed) }},
	column[catalog.DecisionRow]{head: "WHY", cell: heldUpBy},
	column[catalog.DecisionRow]{head: "NUMBER", wide: true, cell: func(d *catalog.DecisionRow) string { return fmt.Sprint(d.Number) }},
	column[catalog.DecisionRow]{head: "APPROVED", wide: true, cell: approvedText},
	column[catalog.DecisionRow]{head: "POLICY", wide: true, cell: policyText},
	column[catalog.DecisionRow]{head: "PLAN", wide: true, cell: func(d *catalog.DecisionRow) string { return d.Plan }},
	column[catalog.DecisionRow]{head: "SENT", wide: true, cell: func(d *catalog.DecisionRow) string { return ageOr(d.Sent, "-") }},
	column[catalog.DecisionRow]{head: "ENDED", wide: true, cell: func(d *catalog.DecisionRow) string { return ageOr(d.Ended, "-") }},
	column[catalog.DecisionRow]{head: "ID", wide: true, cell: func(d *catalog.DecisionRow) string { return d.ID }},
)

// shortID is enough of an id for people: commands take it where it is the only
// one that begins so.
func shortID(id string) string { return id[:min(len(id), 8)] }

// heldUpBy is the first thing that keeps a decision from being sent, or from
// having had its effect.
func heldUpBy(d *catalog.DecisionRow) string {
	switch {
	case len(d.Waiting) > 0:
		return d.Waiting[0]
	case len(d.Reasons) > 0:
		return d.Reasons[0].String()
	}
	return d.Why
}

func approvedText(d *catalog.DecisionRow) string {
	if d.Needs == 0 {
		return ""
	}
	var who []string
	for _, a := range d.Approved {
		who = append(who, a.By)
	}
	return strings.TrimSpace(fmt.Sprintf("%d of %d %s", len(who), d.Needs, strings.Join(who, ",")))
}

func policyText(d *catalog.DecisionRow) string {
	if d.Policy == "" || d.Revision == 0 {
		return d.Policy
	}
	return fmt.Sprintf("%s@%d", d.Policy, d.Revision)
}

// decision finds the one that a person means: by its id, the beginning of one,
// or its number.
func (a *app) decision(ctx context.Context, cl *apiclient.Client, what string) (*catalog.DecisionRow, apiclient.Freshness, error) {
	filter, err := decisionFilter(what)
	if err != nil {
		return nil, apiclient.Freshness{}, err
	}
	rows, fresh, err := rowsOf[catalog.DecisionRow](ctx, a, cl, "decisions", filter, 10)
	switch {
	case err != nil:
		return nil, fresh, err
	case len(rows) == 0:
		return nil, fresh, withCode(exitNotFound, fmt.Errorf("no decision %q; see `quarry get decisions`, and `quarry audit` for those of long ago", what))
	case len(rows) > 1:
		var which []string
		for i := range rows {
			which = append(which, rows[i].ID)
		}
		return nil, fresh, usagef("%q may be %d decisions: %s; give more of the id", what, len(rows), strings.Join(which, ", "))
	}
	return &rows[0], fresh, nil
}

// decisionFilter selects what a person may mean by a decision. A number that
// also begins an id selects both: nobody approves the wrong one.
func decisionFilter(what string) (string, error) {
	what = strings.ToLower(what)
	if what == "" || strings.Trim(what, "0123456789abcdef-") != "" {
		return "", withCode(exitNotFound, fmt.Errorf("no decision %q: an id is of the digits 0 to f, its first ones are enough; see `quarry get decisions`", what))
	}
	filter := "id = " + quote(what+"*")
	if _, err := strconv.ParseUint(what, 10, 64); err == nil {
		filter = "number = " + what + " OR " + filter
	}
	return filter, nil
}

// completeDecisions completes one argument with ids of decisions that match,
// each with what it is.
func (a *app) completeDecisions(filter string) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		cl, err := a.client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		answer, err := a.list(ctx, cl, "decisions", apiclient.Query{Filter: filter, Fields: "id,verb,slate,region,stage"}, 200)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var out []string
		for _, raw := range answer.Items {
			var d catalog.DecisionRow
			if json.Unmarshal(raw, &d) == nil && strings.HasPrefix(d.ID, prefix) {
				out = append(out, fmt.Sprintf("%s\t%s of %s in %s, %s", d.ID, d.Verb, firstOf(d.Slate, "everything"), d.Region, d.Stage))
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

func newDescribeDecision(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "decision ID", Aliases: []string{"decisions", "de"}, Short: "All about one decision: who asked, what keeps it, what the agent did", Args: cobra.ExactArgs(1),
		Long: `Shows one decision: what is to be done and by whose word, why it waits, the steps that the agent
took with what came of each and how long it took, what it saw, and the lines of the audit.
ID is an id, as much of its beginning as says which one is meant, or the decision's number.`,
		ValidArgsFunction: a.completeDecisions(""),
		RunE:              func(c *cobra.Command, args []string) error { return a.describeDecision(c.Context(), args[0]) },
	}
}

type decisionDescription struct {
	Decision *catalog.DecisionRow `json:"decision"`
	Audit    []state.AuditEntry   `json:"audit"`
}

func (a *app) describeDecision(ctx context.Context, what string) error {
	if err := a.checkOutput(); err != nil {
		return err
	}
	cl, err := a.client()
	if err != nil {
		return err
	}
	d, fresh, err := a.decision(ctx, cl, what)
	if err != nil {
		return err
	}
	out := decisionDescription{Decision: d, Audit: []state.AuditEntry{}}
	lines, err := cl.AuditOf(ctx, "decision/"+d.ID)
	if err != nil {
		return a.hubError(err)
	}
	for _, raw := range lines {
		var e state.AuditEntry
		if err := json.Unmarshal(raw, &e); err != nil {
			return fmt.Errorf("an entry of the audit: %w", err)
		}
		out.Audit = append(out.Audit, e)
	}
	return a.printObject(out, func() error {
		a.printDecision(d)
		if err := a.printAuditOf(out.Audit); err != nil {
			return err
		}
		a.printStale(fresh)
		return nil
	})
}

// printDecision shows what came of a decision, then what keeps it, then how the
// agent did it.
func (a *app) printDecision(d *catalog.DecisionRow) {
	fmt.Fprintf(a.out, "%s   %s\n", a.colour("1", clean(decisionText(d))), a.colour(stageColour(d.Stage), string(d.Stage)))
	line := func(k, format string, args ...any) {
		fmt.Fprintf(a.out, "  %-16s %s\n", k, clean(fmt.Sprintf(format, args...)))
	}
	line("id", "%s (number %d)", d.ID, d.Number)
	line("asked for by", "%s%s", d.By, parenthesis(d.Why))
	if d.Policy != "" {
		line("policy", "%s", policyText(d))
	}
	if d.Root != "" {
		line("root", "%s, incarnation %s", d.Root, d.Incarnation)
	}
	for _, p := range parameterLines(d.Parameter) {
		line(p[0], "%s", p[1])
	}
	for _, p := range d.Must {
		line("must be so", "%s %s", p.What, p.Value)
	}
	if d.Plan != "" || d.Evidence != "" {
		line("evidence", "%s", strings.TrimSpace(d.Plan+" "+d.Evidence))
	}
	line("proposed", "%s (%s ago)", d.Proposed.Local().Format(time.DateTime), age(d.Proposed))
	if d.Needs > 0 {
		line("approvals", "%d of %d", len(d.Approved), d.Needs)
		for _, p := range d.Approved {
			line("approved by", "%s, %s ago", p.By, age(p.At))
		}
	}
	switch {
	case d.Sent != nil:
		line("sent", "%s after that, term %d, sequence %d", shortDuration(d.Sent.Sub(d.Proposed)), d.Term, d.Sequence)
	case d.Ended == nil:
		line("sent", "not yet; it expires in %s", shortDuration(time.Until(d.NotAfter)))
	}
	if d.Ended != nil {
		line("ended", "%s (%s ago)", d.Ended.Local().Format(time.DateTime), age(*d.Ended))
	}
	for _, w := range d.Waiting {
		line("waits", "%s", w)
	}
	for _, r := range d.Reasons {
		line("because", "%s", r)
	}
	if d.Outcome == nil {
		return
	}
	if saw := sawText(&d.Outcome.Saw); len(saw) > 0 {
		fmt.Fprintf(a.out, "\nwhat the agent saw\n")
		for _, s := range saw {
			line(s[0], "%s", s[1])
		}
	}
	if len(d.Outcome.Steps) > 0 {
		fmt.Fprintf(a.out, "\nwhat the agent did\n")
		for _, n := range stepTrees(d.Outcome.Steps) {
			for l := range strings.Lines(n.String()) {
				fmt.Fprintf(a.out, "  %s", l)
			}
		}
	}
}

func (a *app) printAuditOf(lines []state.AuditEntry) error {
	if len(lines) == 0 {
		return nil
	}
	fmt.Fprintf(a.out, "\naudit\n")
	t := newTable(a.out)
	for _, e := range lines {
		t.row(fmt.Sprintf("  %d", e.Number), e.At.Local().Format(time.DateTime), e.Who, e.What, e.Why)
	}
	return t.flush()
}

// decisionText is a decision in one line: what, of what, where, how far.
func decisionText(d *catalog.DecisionRow) string {
	out := string(d.Verb)
	if d.Slate != "" {
		out += " of " + d.Slate
	}
	out += " in " + d.Region
	if d.Position != nil {
		out += fmt.Sprintf(" up to %s", positionText(d.Position, d.PositionDomain))
	}
	return strings.TrimSpace(out)
}

func stageColour(s catalog.Stage) string {
	switch s {
	case catalog.StageDone:
		return "32"
	case catalog.StageRefused, catalog.StageFailed, catalog.StageNotEffective:
		return "31"
	}
	return "33"
}

func parameterLines(p catalog.Parameters) (out [][2]string) {
	add := func(ok bool, name, format string, args ...any) {
		if ok {
			out = append(out, [2]string{name, fmt.Sprintf(format, args...)})
		}
	}
	add(p.Restorable > 0, "restore points", "%s must stay restorable", plural(int(p.Restorable), "newest one"))
	add(p.Purpose != "", "purpose", "%s", p.Purpose)
	add(p.Replaces != "", "replaces", "checkpoint %s", p.Replaces)
	add(p.Checkpoint != "", "checkpoint", "%s", p.Checkpoint)
	add(p.ValidFor > 0, "valid for", "%s", p.ValidFor)
	for _, r := range p.Remove {
		add(true, "removes", "%s", r)
	}
	add(p.Grace > 0, "grace", "%s", p.Grace)
	add(p.SweepOrphans, "sweeps", "orphans older than %s", p.OrphansOlder)
	add(p.Reason != "", "reason", "%s", p.Reason)
	return out
}

func sawText(s *catalog.Saw) (out [][2]string) {
	number := func(name string, n *uint64) {
		if n != nil {
			out = append(out, [2]string{name, fmt.Sprint(*n)})
		}
	}
	number("in force", s.Position)
	number("its own limit", s.Limit)
	number("permit number", s.Permit)
	if s.Checkpoint != "" {
		out = append(out, [2]string{"checkpoint", s.Checkpoint})
	}
	number("manifest", s.Manifest)
	number("verified", s.Verified)
	number("lowest listed", s.Lowest)
	number("trimmed to", s.TrimmedTo)
	for _, r := range s.Removed {
		out = append(out, [2]string{"removed", r})
	}
	if s.Objects > 0 {
		out = append(out, [2]string{"that was", fmt.Sprintf("%s, %s", plural(int(s.Objects), "object"), byteSize(s.Bytes))})
	}
	return out
}

// stepTrees puts the steps of an outcome together again as they were run: each
// says how deep it is in the one before it.
func stepTrees(steps []catalog.Step) []*reaction.Node {
	var roots, path []*reaction.Node
	for _, s := range steps {
		n := &reaction.Node{What: s.Name, Kind: reaction.KindDo, State: reaction.Done, Took: s.Took, Error: s.Error}
		path = path[:min(int(s.Depth), len(path))]
		if len(path) == 0 {
			roots = append(roots, n)
		} else {
			path[len(path)-1].Of = append(path[len(path)-1].Of, n)
		}
		path = append(path, n)
		if s.Error == "" {
			continue
		}
		for _, above := range path { // what failed below failed
			above.State = reaction.Failed
		}
	}
	return roots
}
