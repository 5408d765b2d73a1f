package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/apiclient"
	"github.com/quarry-db/quarry/pkg/catalog"
)

func newDescribe(a *app) *cobra.Command {
	c := &cobra.Command{Use: "describe", Short: "All about one slate, region or decision"}
	slate := &cobra.Command{
		Use: "slate NAME", Aliases: []string{"slates", "sl"}, Short: "All about one slate, in every region", Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(_ *cobra.Command, _ []string, p string) ([]string, cobra.ShellCompDirective) {
			return a.complete("slates", p), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) error { return a.describeSlate(c.Context(), args[0]) },
	}
	region := &cobra.Command{
		Use: "region NAME", Aliases: []string{"regions", "rg"}, Short: "All about one region", Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(_ *cobra.Command, _ []string, p string) ([]string, cobra.ShellCompDirective) {
			return a.complete("regions", p), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) error { return a.describeRegion(c.Context(), args[0]) },
	}
	c.AddCommand(slate, region, newDescribeDecision(a))
	return c
}

// rowsOf lists all rows of a resource that match, decoded.
func rowsOf[T any](ctx context.Context, a *app, cl *apiclient.Client, resource, filter string, limit int) ([]T, apiclient.Freshness, error) {
	answer, err := a.list(ctx, cl, resource, apiclient.Query{Filter: filter}, limit)
	if err != nil {
		return nil, apiclient.Freshness{}, err
	}
	rows := make([]T, 0, len(answer.Items))
	for _, raw := range answer.Items {
		var v T
		if err := json.Unmarshal(raw, &v); err != nil {
			return nil, apiclient.Freshness{}, fmt.Errorf("the hub's answer is not understood; is it of another version? %w", err)
		}
		rows = append(rows, v)
	}
	return rows, answer.Freshness, nil
}

type slateDescription struct {
	Slate         string                 `json:"slate"`
	Placements    []catalog.Placement    `json:"placements"`
	RestorePoints []catalog.RestorePoint `json:"restore_points"`
	Findings      []catalog.Finding      `json:"findings"`
	Trims         []state.Explanation    `json:"trims"` // one of each lineage
	Events        []catalog.Event        `json:"events"`
}

func (a *app) describeSlate(ctx context.Context, name string) error {
	if err := a.checkOutput(); err != nil {
		return err
	}
	cl, err := a.client()
	if err != nil {
		return err
	}
	d := slateDescription{Slate: name}
	q := "slate = " + quote(name)
	var answer apiclient.Freshness
	if d.Placements, answer, err = rowsOf[catalog.Placement](ctx, a, cl, "placements", q, 0); err != nil {
		return err
	}
	if len(d.Placements) == 0 {
		r, _ := findResource("slates")
		return a.notFound(ctx, cl, r, name)
	}
	if d.RestorePoints, _, err = rowsOf[catalog.RestorePoint](ctx, a, cl, "restore-points", q, 0); err != nil {
		return err
	}
	if d.Findings, _, err = rowsOf[catalog.Finding](ctx, a, cl, "findings", q, 0); err != nil {
		return err
	}
	if d.Events, err = lastEvents(ctx, a, cl, q); err != nil {
		return err
	}
	if d.Trims, err = a.trimsOf(ctx, cl, name, d.Placements); err != nil {
		return err
	}
	return a.printObject(d, func() error {
		fmt.Fprintf(a.out, "%s\n", a.colour("1", clean(name)))
		lineages := map[string]bool{}
		for i := range d.Placements {
			lineages[d.Placements[i].Lineage] = true
			a.printPlacement(&d.Placements[i], d.RestorePoints)
		}
		if len(lineages) > 1 {
			fmt.Fprintf(a.out, "\nThese placements are of %d lineages: equal names, but not copies of one database.\nTheir positions cannot be compared.\n", len(lineages))
		}
		for i := range d.Trims {
			if e := &d.Trims[i]; e.Policy.Name == "" && len(e.Published)+len(e.UnderWay) == 0 {
				continue // no policy speaks of it
			}
			fmt.Fprintln(a.out)
			if err := a.printExplanation(&d.Trims[i]); err != nil {
				return err
			}
		}
		a.printFindings(d.Findings)
		a.printEvents(d.Events)
		a.printStale(answer)
		return nil
	})
}

// trimsOf gives the verdict on each database that goes by a name: one of each
// lineage, asked for by a region where it is.
func (a *app) trimsOf(ctx context.Context, cl *apiclient.Client, name string, placed []catalog.Placement) ([]state.Explanation, error) {
	out, seen := []state.Explanation{}, map[string]bool{}
	for i := range placed {
		p := &placed[i]
		if seen[p.Lineage+"\x00"+p.PositionDomain] {
			continue
		}
		seen[p.Lineage+"\x00"+p.PositionDomain] = true
		var e state.Explanation
		switch err := cl.Explain(ctx, "trim", name, p.Region, &e); {
		case err == nil:
			if !slices.ContainsFunc(out, func(o state.Explanation) bool { return o.Lineage == e.Lineage && o.PositionDomain == e.PositionDomain }) {
				out = append(out, e)
			}
		case errors.Is(err, fs.ErrNotExist): // it went meanwhile
		default:
			if problem, ok := errors.AsType[*apiclient.Problem](err); !ok || problem.Code != "several-lineages" {
				return nil, a.hubError(err)
			}
		}
	}
	return out, nil
}

func lastEvents(ctx context.Context, a *app, cl *apiclient.Client, filter string) ([]catalog.Event, error) {
	events, _, err := rowsOf[catalog.Event](ctx, a, cl, "events", filter, 0)
	if err != nil {
		return nil, err
	}
	if len(events) > 12 {
		events = events[len(events)-12:]
	}
	return events, nil
}

func (a *app) printPlacement(p *catalog.Placement, points []catalog.RestorePoint) {
	w := a.out
	line := func(k, format string, args ...any) {
		fmt.Fprintf(w, "  %-16s %s\n", k, clean(fmt.Sprintf(format, args...)))
	}
	fmt.Fprintf(w, "\n%s\n", a.colour("1", "in "+clean(p.Region)))
	state := string(p.State)
	if p.StateReason != "" {
		state += ": " + p.StateReason
	}
	line("state", "%s (since %s)", state, age(p.StateSince))
	line("root", "%s", p.Root)
	line("kind", "%s (from %s)", p.Kind, p.KindFrom)
	line("seen", "%s ago", age(p.ObservedAt))
	kept := ""
	if !p.IncarnationKept {
		kept = " (not recorded: the agent may not write to the bucket)"
	}
	line("incarnation", "%s%s", p.Incarnation, kept)
	if p.Predecessor != "" {
		line("before it", "%s was at this root", p.Predecessor)
	}
	if p.ManifestID != nil {
		line("manifest", "%s (version %s)", num(p.ManifestID), num(p.ManifestVersion))
	}
	if p.WriterEpoch != nil {
		moved := ""
		if p.WriterSince != nil {
			moved = ", seen to change " + age(*p.WriterSince) + " ago"
		}
		line("writer epoch", "%s%s", num(p.WriterEpoch), moved)
	}
	if p.CompactorEpoch != nil {
		line("compactor epoch", "%s%s", num(p.CompactorEpoch), parenthesis(p.Compaction))
	}
	line("position", "%s", positionText(p.Position, p.PositionDomain))
	if p.TrimmedTo != nil {
		line("trimmed to", "%d", *p.TrimmedTo)
	}
	if p.Archived != nil {
		line("archived", "%d (the lowest of its listed snapshots)", *p.Archived)
	}
	if p.WALTail != nil {
		line("WAL", "tail %s, %s objects not in tables yet", num(p.WALTail), num(p.WALGap))
	}
	if p.L0Count != nil {
		line("trees", "%s L0 tables, %s sorted runs, %s segments", num(p.L0Count), num(p.RunCount), num(p.SegmentCount))
	}
	if p.Backlog != nil {
		line("backlog", "%d batches", *p.Backlog)
	}
	line("size", "%s", size(p.Bytes))
	if p.ListedBytes != nil {
		when := ""
		if p.ListedAt != nil {
			when = ", listed " + age(*p.ListedAt) + " ago"
		}
		line("in the bucket", "%s in %s objects%s", size(p.ListedBytes), num(p.ListedObjects), when)
	}
	line("owner", "%s%s%s", ownerText(p.Owner, p.Registered), parenthesis(p.Contact), labelText(p.Labels))
	if p.Disagreement != "" {
		line("disagreement", "%s", p.Disagreement)
	}
	for _, e := range p.External {
		line("clone of", "%s: reads %d of its tables", e.Path, e.Tables)
	}
	for _, c := range p.PinnedBy {
		line("pinned by clone", "%s", c)
	}
	if len(p.Readers) == 0 {
		line("readers", "none seen (readers that follow without checkpoints leave no trace)")
	}
	for _, r := range readerLines(p.Readers, time.Now()) {
		line("reader", "%s", r)
	}
	for _, c := range p.Checkpoints {
		if c.Name != "" {
			line("checkpoint", "%s %q, manifest %d", c.ID, c.Name, c.ManifestID)
		}
	}
	n := 0
	for _, r := range points {
		if r.Region != p.Region || r.Root != p.Root {
			continue
		}
		n++
		why := ""
		if r.Reason != "" {
			why = ": " + r.Reason
		}
		line("restore point", "%s %s %s%s", positionText(r.Position, r.PositionDomain), r.State, firstOf(r.Name, r.ID), why)
	}
	if n == 0 {
		line("restore points", "none")
	}
	for _, o := range p.Orphans {
		line("orphan", "%s (%s, %s): no restore point", o.Path, o.What, byteSize(o.Bytes))
	}
}

// readerLines tells readers one a line, but several guards of a compactor, and
// several that have lapsed, in one line each: there can be hundreds, and all
// say the same.
func readerLines(readers []catalog.Reader, now time.Time) []string {
	var out []string
	type group struct {
		what string
		of   []catalog.Reader
	}
	guards := group{what: "guard checkpoints"}
	lapsed := group{what: "lapsed readers, not counted"}
	for _, r := range readers {
		switch {
		case r.Lapsed:
			lapsed.of = append(lapsed.of, r)
		case r.Looks == "guard":
			guards.of = append(guards.of, r)
		default:
			out = append(out, readerLine(r, now))
		}
	}
	for _, g := range []group{guards, lapsed} {
		if len(g.of) < 3 {
			for _, r := range g.of {
				out = append(out, readerLine(r, now))
			}
			continue
		}
		low, high := g.of[0].ManifestID, g.of[0].ManifestID
		var first, last *time.Time // expiry
		for _, r := range g.of {
			low, high = min(low, r.ManifestID), max(high, r.ManifestID)
			if r.Expires != nil && (first == nil || r.Expires.Before(*first)) {
				first = r.Expires
			}
			if r.Expires != nil && (last == nil || r.Expires.After(*last)) {
				last = r.Expires
			}
		}
		s := fmt.Sprintf("%d %s, manifests %d to %d", len(g.of), g.what, low, high)
		if first != nil {
			s += fmt.Sprintf(", the oldest %s, the newest %s", expiry(first, now), expiry(last, now))
		}
		out = append(out, s)
	}
	return out
}

func readerLine(r catalog.Reader, now time.Time) string {
	looks := r.Looks
	if r.Lapsed {
		looks = strings.TrimPrefix(looks+", lapsed: not counted", ", ")
	}
	name := ""
	if r.Name != "" {
		name = fmt.Sprintf(" %q", r.Name)
	}
	s := fmt.Sprintf("%s %s%s", r.From, r.ID, name)
	if r.From != "lease" {
		s += fmt.Sprintf(", manifest %d", r.ManifestID)
	}
	return s + ", " + expiry(r.Expires, now) + parenthesis(looks)
}

// expiry says when something ends or ended, counted from now.
func expiry(t *time.Time, now time.Time) string {
	switch {
	case t == nil:
		return "never expires"
	case t.Before(now):
		return "expired " + shortDuration(now.Sub(*t)) + " ago"
	}
	return "expires in " + shortDuration(t.Sub(now))
}

func parenthesis(s string) string {
	if s == "" {
		return ""
	}
	return " (" + s + ")"
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func (a *app) printFindings(findings []catalog.Finding) {
	for i, f := range findings {
		if i == 0 {
			fmt.Fprintf(a.out, "\nfindings\n")
		}
		fmt.Fprintf(a.out, "  %s %s %s\n    %s\n", a.colour("31", f.Code), clean(f.Region), clean(f.Object), clean(f.What))
		if f.Who != "" {
			fmt.Fprintf(a.out, "    hurts: %s\n", clean(f.Who))
		}
		if f.Cure != "" {
			fmt.Fprintf(a.out, "    cure: %s\n", clean(f.Cure))
		}
	}
}

func (a *app) printEvents(events []catalog.Event) {
	for i, e := range events {
		if i == 0 {
			fmt.Fprintf(a.out, "\nlatest events\n")
		}
		fmt.Fprintf(a.out, "  %s  %-20s %s\n", e.Time.Local().Format(time.DateTime), e.Type, clean(e.What))
	}
}

type regionDescription struct {
	Region   catalog.Region    `json:"region"`
	Cost     cost              `json:"cost"` // of its agent's requests of the last hour
	Clusters []catalog.Cluster `json:"clusters"`
	Findings []catalog.Finding `json:"findings"`
	Events   []catalog.Event   `json:"events"`
}

func (a *app) describeRegion(ctx context.Context, name string) error {
	if err := a.checkOutput(); err != nil {
		return err
	}
	config, err := loadContexts()
	if err != nil {
		return withCode(exitUsage, err)
	}
	table, err := priced(config.Prices)
	if err != nil {
		return err
	}
	cl, err := a.client()
	if err != nil {
		return err
	}
	regions, _, err := rowsOf[catalog.Region](ctx, a, cl, "regions", "name = "+quote(name), 1)
	if err != nil {
		return err
	}
	if len(regions) == 0 {
		return withCode(exitNotFound, fmt.Errorf("no region named %q; see `quarry get regions`", name))
	}
	d := regionDescription{Region: regions[0], Cost: table.of(&regions[0])}
	q := "region = " + quote(name)
	if d.Clusters, _, err = rowsOf[catalog.Cluster](ctx, a, cl, "clusters", q, 0); err != nil {
		return err
	}
	if d.Findings, _, err = rowsOf[catalog.Finding](ctx, a, cl, "findings", q, 0); err != nil {
		return err
	}
	if d.Events, err = lastEvents(ctx, a, cl, q); err != nil {
		return err
	}
	return a.printObject(d, func() error {
		r := d.Region
		line := func(k, format string, args ...any) {
			fmt.Fprintf(a.out, "  %-16s %s\n", k, clean(fmt.Sprintf(format, args...)))
		}
		fmt.Fprintf(a.out, "%s\n", a.colour("1", clean(name)))
		line("state", "%s (since %s)", r.State, age(r.Since))
		if r.Reason != "" {
			line("why", "%s", r.Reason)
		}
		line("membership", "%s", r.Membership)
		line("heard", "%s", ageOr(r.HeardAt, "not since this hub started"))
		line("rows as of", "%s", ageOr(r.AsOf, "not since this hub started"))
		line("placements", "%d, %d of them missing", r.Placements, r.Missing)
		line("bucket", "%s", firstOf(r.Bucket, "?"))
		line("bucket id", "%s", firstOf(r.BucketID, "none: no agent has claimed the bucket"))
		if r.CannotKeep != "" {
			line("cannot keep", "%s", r.CannotKeep)
		}
		line("requests/h", "%s", spendText(&r))
		d.Cost.print(line)
		for _, c := range d.Clusters {
			line("cluster", "%s: %s, agent %s, version %s, heard %s%s", c.Name, c.State, c.Agent, c.Version, ageOr(c.HeardAt, "never"), parenthesis(c.Reason))
		}
		switch {
		case strings.HasPrefix(r.Reason, "region-reset") || r.State == catalog.RegionReset:
			fmt.Fprintf(a.out, "\nIf the bucket is right as it is now: quarry region accept %s\n", name)
		case r.State == catalog.RegionStale:
			fmt.Fprintf(a.out, "\nCheck its agent: is it running, and can it reach this hub?\n")
		}
		a.printFindings(d.Findings)
		a.printEvents(d.Events)
		return nil
	})
}
