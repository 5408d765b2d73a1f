package cmd

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// Rows of what people decided, for get.
var (
	policyRows = kindOfRow("policies", []string{"policy", "po"}, func(p *catalog.Policy) string { return p.Name },
		"No policies: nothing may be cut. The smallest useful one is in `quarry policy --help`; apply it with `quarry apply -f FILE`.",
		column[catalog.Policy]{head: "POLICY", cell: func(p *catalog.Policy) string { return p.Name }},
		column[catalog.Policy]{head: "REVISION", cell: func(p *catalog.Policy) string { return fmt.Sprint(p.Revision) }},
		column[catalog.Policy]{head: "SELECTS", cell: func(p *catalog.Policy) string { return p.Selects }},
		column[catalog.Policy]{head: "TRIMS", cell: func(p *catalog.Policy) string { return p.Trims }},
		column[catalog.Policy]{head: "PER REGION", cell: func(p *catalog.Policy) string { return fmt.Sprint(p.PerRegion) }},
		column[catalog.Policy]{head: "APPLIED", cell: func(p *catalog.Policy) string { return age(p.AppliedAt) }},
		column[catalog.Policy]{head: "BY", cell: func(p *catalog.Policy) string { return p.AppliedBy }},
		column[catalog.Policy]{head: "OWNER", wide: true, cell: func(p *catalog.Policy) string { return p.Owner }},
	)
	holdRows = kindOfRow("holds", []string{"hold", "ho"}, func(h *catalog.Hold) string { return h.Name },
		"No holds. `quarry hold NAME` keeps the history of a slate until it is released.",
		column[catalog.Hold]{head: "HOLD", cell: func(h *catalog.Hold) string { return h.Name }},
		column[catalog.Hold]{head: "REVISION", cell: func(h *catalog.Hold) string { return fmt.Sprint(h.Revision) }},
		column[catalog.Hold]{head: "SELECTS", cell: func(h *catalog.Hold) string { return h.Selects }},
		column[catalog.Hold]{head: "FORBIDS", cell: func(h *catalog.Hold) string { return strings.Join(h.Scope, ",") }},
		column[catalog.Hold]{head: "FROM", cell: func(h *catalog.Hold) string { return fmt.Sprint(h.From) }},
		column[catalog.Hold]{head: "UNTIL", cell: untilText},
		column[catalog.Hold]{head: "CHECKPOINTS", cell: checkpointsText},
		column[catalog.Hold]{head: "HOLDS", cell: func(h *catalog.Hold) string {
			if h.HeldBytes == nil {
				return "-"
			}
			return byteSize(*h.HeldBytes)
		}},
		column[catalog.Hold]{head: "APPLIED", cell: func(h *catalog.Hold) string { return age(h.AppliedAt) }},
		column[catalog.Hold]{head: "BY", cell: func(h *catalog.Hold) string { return h.AppliedBy }},
	)
	pinRows = kindOfRow("pins", []string{"pin"}, func(p *catalog.Pin) string { return p.Name },
		"Quarry holds nothing in any slate. Policies that trim and holds with --checkpoint do.",
		column[catalog.Pin]{head: "SLATE", cell: func(p *catalog.Pin) string { return p.Slate }},
		column[catalog.Pin]{head: "REGION", cell: func(p *catalog.Pin) string { return p.Region }},
		column[catalog.Pin]{head: "FOR", cell: func(p *catalog.Pin) string { return heldFor(p.Name) }},
		column[catalog.Pin]{head: "POSITION", cell: func(p *catalog.Pin) string { return num(p.Position) }},
		column[catalog.Pin]{head: "HOLDS", cell: func(p *catalog.Pin) string { return size(p.HeldBytes) }},
		column[catalog.Pin]{head: "MADE", cell: func(p *catalog.Pin) string {
			if p.CreatedAt == nil {
				return "-"
			}
			return age(*p.CreatedAt)
		}},
		column[catalog.Pin]{head: "CHECKPOINT", cell: func(p *catalog.Pin) string { return p.ID }},
		column[catalog.Pin]{head: "ROOT", wide: true, cell: func(p *catalog.Pin) string { return p.Root }},
		column[catalog.Pin]{head: "MANIFEST", wide: true, cell: func(p *catalog.Pin) string { return fmt.Sprint(p.ManifestID) }},
	)
	freezeRows = kindOfRow("freezes", []string{"freeze", "fr"}, func(f *catalog.Freeze) string { return f.Scope },
		"Nothing is frozen.",
		column[catalog.Freeze]{head: "SCOPE", cell: func(f *catalog.Freeze) string { return f.Scope }},
		column[catalog.Freeze]{head: "SINCE", cell: func(f *catalog.Freeze) string { return age(f.At) }},
		column[catalog.Freeze]{head: "BY", cell: func(f *catalog.Freeze) string { return f.By }},
		column[catalog.Freeze]{head: "WHY", cell: func(f *catalog.Freeze) string { return f.Why }},
	)
)

// checkpointsText says in which regions agents hold it with how many checkpoints.
func checkpointsText(h *catalog.Hold) string {
	if len(h.Where) == 0 {
		return "-"
	}
	var in []string
	for _, w := range h.Where {
		if !slices.Contains(in, w.Region) {
			in = append(in, w.Region)
		}
	}
	slices.Sort(in)
	return fmt.Sprintf("%d in %s", len(h.Where), strings.Join(in, ","))
}

func untilText(h *catalog.Hold) string {
	out := "released"
	if h.Until != nil {
		out = h.Until.UTC().Format(time.RFC3339)
	}
	switch {
	case h.Releasing != "":
		out += fmt.Sprintf(" (legal; %s asked)", h.Releasing)
	case h.Legal:
		out += " (legal)"
	}
	return out
}

// heldFor is what a checkpoint of Quarry's is for, by its name.
func heldFor(name string) string {
	purpose, _, _ := strings.Cut(strings.TrimPrefix(name, catalog.HoldName), ":")
	return purpose
}
