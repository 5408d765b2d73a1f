package cmd

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// resource is one kind of row: how it is spelled, what its table shows, and
// what to say when there is none.
type resource struct {
	name    string   // plural, as in /v1/<name>
	aliases []string // singular and short forms
	header  func(wide bool) []string
	cells   func(raw json.RawMessage, wide bool) ([]string, error)
	id      func(raw json.RawMessage) (string, error)
	empty   string
	// shown are the fields that the narrow table reads; empty: any.
	shown string
}

type column[T any] struct {
	head string
	wide bool
	cell func(*T) string
}

// kindOfRow ties a row type to its columns.
func kindOfRow[T any](name string, aliases []string, id func(*T) string, empty string, cols ...column[T]) resource {
	decode := func(raw json.RawMessage) (*T, error) {
		var v T
		if err := json.Unmarshal(raw, &v); err != nil {
			return nil, fmt.Errorf("the hub's answer is not understood; is it of another version? %w", err)
		}
		return &v, nil
	}
	return resource{
		name: name, aliases: aliases, empty: empty,
		header: func(wide bool) []string {
			var h []string
			for _, c := range cols {
				if !c.wide || wide {
					h = append(h, c.head)
				}
			}
			return h
		},
		cells: func(raw json.RawMessage, wide bool) ([]string, error) {
			v, err := decode(raw)
			if err != nil {
				return nil, err
			}
			var out []string
			for _, c := range cols {
				if !c.wide || wide {
					out = append(out, c.cell(v))
				}
			}
			return out, nil
		},
		id: func(raw json.RawMessage) (string, error) {
			v, err := decode(raw)
			if err != nil {
				return "", err
			}
			return id(v), nil
		},
	}
}

// reading says which fields are enough for the table when it is not wide: what
// a slate is in each region, with all its readers, is most of its row.
func (r resource) reading(fields string) resource {
	r.shown = fields
	return r
}

// resources are all kinds of rows `get` knows.
var resources = []resource{
	kindOfRow("slates", []string{"slate", "sl"}, func(s *catalog.Slate) string { return s.Name },
		"No slates. Is an agent connected (`quarry get regions`), and does its --discover name the right prefixes?",
		column[catalog.Slate]{head: "SLATE", cell: func(s *catalog.Slate) string { return s.Name }},
		column[catalog.Slate]{head: "KIND", cell: func(s *catalog.Slate) string { return string(s.Kind) }},
		column[catalog.Slate]{head: "STATE", cell: func(s *catalog.Slate) string { return string(s.State) }},
		column[catalog.Slate]{head: "REGIONS", cell: func(s *catalog.Slate) string { return strings.Join(s.Regions, ",") }},
		column[catalog.Slate]{head: "OWNER", cell: func(s *catalog.Slate) string { return ownerText(s.Owner, s.Registered) }},
		column[catalog.Slate]{head: "EPOCH", cell: slateEpochs},
		column[catalog.Slate]{head: "READERS", cell: func(s *catalog.Slate) string { return fmt.Sprint(s.Readers) }},
		column[catalog.Slate]{head: "RESTORE POINTS", cell: func(s *catalog.Slate) string { return fmt.Sprint(s.RestorePoints) }},
		column[catalog.Slate]{head: "SIZE", cell: func(s *catalog.Slate) string { return size(s.Bytes) }},
		column[catalog.Slate]{head: "SEEN", cell: func(s *catalog.Slate) string { return age(s.ObservedAt) }},
		column[catalog.Slate]{head: "LABELS", wide: true, cell: func(s *catalog.Slate) string { return strings.TrimSpace(labelText(s.Labels)) }},
		column[catalog.Slate]{head: "LINEAGES", wide: true, cell: func(s *catalog.Slate) string { return strings.Join(s.Lineages, ",") }},
	).reading("name,kind,state,regions,owner,registered,where.kind,where.writer_epoch,readers,restore_points,bytes,observed_at"),
	kindOfRow("placements", []string{"placement", "pl"}, func(p *catalog.Placement) string { return p.Region + "/" + p.Root },
		"No placements. Is an agent connected? See `quarry get regions`.",
		column[catalog.Placement]{head: "REGION", cell: func(p *catalog.Placement) string { return p.Region }},
		column[catalog.Placement]{head: "SLATE", cell: func(p *catalog.Placement) string { return p.Slate }},
		column[catalog.Placement]{head: "KIND", cell: func(p *catalog.Placement) string { return string(p.Kind) }},
		column[catalog.Placement]{head: "STATE", cell: func(p *catalog.Placement) string { return string(p.State) }},
		column[catalog.Placement]{head: "MANIFEST", cell: func(p *catalog.Placement) string { return numIf(isDatabase(p.Kind), p.ManifestID) }},
		column[catalog.Placement]{head: "EPOCH", cell: func(p *catalog.Placement) string { return numIf(hasWriter(p.Kind), p.WriterEpoch) }},
		column[catalog.Placement]{head: "POSITION", cell: func(p *catalog.Placement) string { return positionText(p.Position, p.PositionDomain) }},
		column[catalog.Placement]{head: "READERS", cell: func(p *catalog.Placement) string { return fmt.Sprint(counted(p.Readers)) }},
		column[catalog.Placement]{head: "SIZE", cell: func(p *catalog.Placement) string { return size(p.Bytes) }},
		column[catalog.Placement]{head: "OWNER", cell: func(p *catalog.Placement) string { return ownerText(p.Owner, p.Registered) }},
		column[catalog.Placement]{head: "SEEN", cell: func(p *catalog.Placement) string { return age(p.ObservedAt) }},
		column[catalog.Placement]{head: "TRIMMED TO", wide: true, cell: func(p *catalog.Placement) string { return num(p.TrimmedTo) }},
		column[catalog.Placement]{head: "WAL GAP", wide: true, cell: func(p *catalog.Placement) string { return numIf(isDatabase(p.Kind), p.WALGap) }},
		column[catalog.Placement]{head: "L0", wide: true, cell: func(p *catalog.Placement) string { return numIf(isDatabase(p.Kind), p.L0Count) }},
		column[catalog.Placement]{head: "RUNS", wide: true, cell: func(p *catalog.Placement) string { return numIf(isDatabase(p.Kind), p.RunCount) }},
		column[catalog.Placement]{head: "ROOT", wide: true, cell: func(p *catalog.Placement) string { return p.Root }},
		column[catalog.Placement]{head: "INCARNATION", wide: true, cell: func(p *catalog.Placement) string { return p.Incarnation }},
		column[catalog.Placement]{head: "WHY", wide: true, cell: func(p *catalog.Placement) string { return p.StateReason }},
	),
	kindOfRow("regions", []string{"region", "rg"}, func(r *catalog.Region) string { return r.Name },
		"No regions: this hub's region set is empty.",
		column[catalog.Region]{head: "REGION", cell: func(r *catalog.Region) string { return r.Name }},
		column[catalog.Region]{head: "STATE", cell: func(r *catalog.Region) string { return string(r.State) }},
		column[catalog.Region]{head: "MEMBERSHIP", cell: func(r *catalog.Region) string { return string(r.Membership) }},
		column[catalog.Region]{head: "HEARD", cell: func(r *catalog.Region) string { return ageOr(r.HeardAt, "never") }},
		column[catalog.Region]{head: "CLUSTERS", cell: func(r *catalog.Region) string { return strings.Join(r.Clusters, ",") }},
		column[catalog.Region]{head: "PLACEMENTS", cell: func(r *catalog.Region) string { return fmt.Sprint(r.Placements) }},
		column[catalog.Region]{head: "MISSING", cell: func(r *catalog.Region) string { return fmt.Sprint(r.Missing) }},
		column[catalog.Region]{head: "WHY", cell: func(r *catalog.Region) string { return r.Reason }},
		column[catalog.Region]{head: "BUCKET", wide: true, cell: func(r *catalog.Region) string { return r.Bucket }},
		column[catalog.Region]{head: "REQUESTS/H", wide: true, cell: func(r *catalog.Region) string { return spendText(r) }},
		column[catalog.Region]{head: "CANNOT KEEP", wide: true, cell: func(r *catalog.Region) string { return r.CannotKeep }},
	),
	kindOfRow("clusters", []string{"cluster", "cl"}, func(c *catalog.Cluster) string { return c.Region + "/" + c.Name },
		"No clusters: no agent has ever connected to this hub. Start one: quarry agent --region R --cluster C --bucket URL --discover \"\" --hub HOST:PORT",
		column[catalog.Cluster]{head: "CLUSTER", cell: func(c *catalog.Cluster) string { return c.Name }},
		column[catalog.Cluster]{head: "REGION", cell: func(c *catalog.Cluster) string { return c.Region }},
		column[catalog.Cluster]{head: "STATE", cell: func(c *catalog.Cluster) string { return c.State }},
		column[catalog.Cluster]{head: "HEARD", cell: func(c *catalog.Cluster) string { return ageOr(c.HeardAt, "never") }},
		column[catalog.Cluster]{head: "VERSION", cell: func(c *catalog.Cluster) string { return c.Version }},
		column[catalog.Cluster]{head: "AGENT", cell: func(c *catalog.Cluster) string { return c.Agent }},
		column[catalog.Cluster]{head: "WHY", cell: func(c *catalog.Cluster) string { return c.Reason }},
		column[catalog.Cluster]{head: "CLOCK SKEW", wide: true, cell: func(c *catalog.Cluster) string {
			if c.ClockSkewMS == nil {
				return "?"
			}
			return (time.Duration(*c.ClockSkewMS) * time.Millisecond).String()
		}},
	),
	kindOfRow("owners", []string{"owner", "ow"}, func(o *catalog.OwnerRow) string { return o.Region + "/" + o.Root },
		"No owners: no slate has been seen yet.",
		column[catalog.OwnerRow]{head: "SLATE", cell: func(o *catalog.OwnerRow) string { return o.Slate }},
		column[catalog.OwnerRow]{head: "REGION", cell: func(o *catalog.OwnerRow) string { return o.Region }},
		column[catalog.OwnerRow]{head: "OWNER", cell: func(o *catalog.OwnerRow) string { return ownerText(o.Owner, o.Declared) }},
		column[catalog.OwnerRow]{head: "CONTACT", cell: func(o *catalog.OwnerRow) string { return o.Contact }},
		column[catalog.OwnerRow]{head: "WRITER EPOCH", cell: func(o *catalog.OwnerRow) string { return num(o.WriterEpoch) }},
		column[catalog.OwnerRow]{head: "MOVED", cell: func(o *catalog.OwnerRow) string { return ageOr(o.MovedAt, "?") }},
		column[catalog.OwnerRow]{head: "DISAGREEMENT", cell: func(o *catalog.OwnerRow) string { return o.Disagreement }},
	),
	kindOfRow("restore-points", []string{"restore-point", "rp"}, func(r *catalog.RestorePoint) string { return r.Region + "/" + r.Root + "@" + r.ID },
		"No restore points: no snapshot repository lists a snapshot, and no slate has a named checkpoint without expiry.",
		column[catalog.RestorePoint]{head: "SLATE", cell: func(r *catalog.RestorePoint) string { return r.Slate }},
		column[catalog.RestorePoint]{head: "REGION", cell: func(r *catalog.RestorePoint) string { return r.Region }},
		column[catalog.RestorePoint]{head: "POSITION", cell: func(r *catalog.RestorePoint) string { return positionText(r.Position, r.PositionDomain) }},
		column[catalog.RestorePoint]{head: "STATE", cell: func(r *catalog.RestorePoint) string { return string(r.State) }},
		column[catalog.RestorePoint]{head: "SOURCE", cell: func(r *catalog.RestorePoint) string { return string(r.Source) }},
		column[catalog.RestorePoint]{head: "CREATED", cell: func(r *catalog.RestorePoint) string { return ageOr(r.CreatedAt, "?") }},
		column[catalog.RestorePoint]{head: "VERIFIED", cell: func(r *catalog.RestorePoint) string { return ageOr(r.VerifiedAt, "never") }},
		column[catalog.RestorePoint]{head: "NAME", cell: func(r *catalog.RestorePoint) string { return r.Name }},
		column[catalog.RestorePoint]{head: "ID", wide: true, cell: func(r *catalog.RestorePoint) string { return r.ID }},
		column[catalog.RestorePoint]{head: "SIZE", wide: true, cell: func(r *catalog.RestorePoint) string { return size(r.Bytes) }},
		column[catalog.RestorePoint]{head: "WHY", cell: func(r *catalog.RestorePoint) string { return r.Reason }},
	),
	kindOfRow("findings", []string{"finding", "fi"}, func(f *catalog.Finding) string { return f.Region + "/" + f.Code + "/" + f.Object },
		"No findings: nothing wrong or dangerous was seen.",
		column[catalog.Finding]{head: "SLATE", cell: func(f *catalog.Finding) string { return f.Slate }},
		column[catalog.Finding]{head: "REGION", cell: func(f *catalog.Finding) string { return f.Region }},
		column[catalog.Finding]{head: "CODE", cell: func(f *catalog.Finding) string { return f.Code }},
		column[catalog.Finding]{head: "OBJECT", cell: func(f *catalog.Finding) string { return f.Object }},
		column[catalog.Finding]{head: "WHO IS HURT", cell: func(f *catalog.Finding) string { return f.Who }},
		column[catalog.Finding]{head: "CURE", cell: func(f *catalog.Finding) string { return f.Cure }},
		column[catalog.Finding]{head: "WHAT", wide: true, cell: func(f *catalog.Finding) string { return f.What }},
	),
	decisionRows, policyRows, holdRows, pinRows, freezeRows,
}

// findResource accepts plural, singular and short forms.
func findResource(name string) (resource, error) {
	var names []string
	for _, r := range resources {
		if r.name == name {
			return r, nil
		}
		for _, al := range r.aliases {
			if al == name {
				return r, nil
			}
		}
		names = append(names, r.name)
	}
	if name == "events" || name == "event" || name == "ev" {
		return resource{}, usagef("events are no rows but a log; see `quarry events`")
	}
	return resource{}, usagef("no resource %q; there are: %s", name, strings.Join(names, ", "))
}

func slateEpochs(s *catalog.Slate) string {
	var out []string
	none := true
	for _, p := range s.Where {
		out = append(out, numIf(hasWriter(p.Kind), p.WriterEpoch))
		none = none && out[len(out)-1] == "-"
	}
	if none {
		return "-"
	}
	return strings.Join(out, ",")
}

// counted is how many readers are not lapsed.
func counted(readers []catalog.Reader) int {
	n := 0
	for _, r := range readers {
		if !r.Lapsed {
			n++
		}
	}
	return n
}

// isDatabase tells kinds that are SlateDB databases, with manifests and trees.
func isDatabase(k catalog.Kind) bool {
	return k != catalog.KindBuffer && k != catalog.KindSnapshots
}

// hasWriter tells kinds that have a writer epoch.
func hasWriter(k catalog.Kind) bool { return k != catalog.KindSnapshots }

// numIf is "-" for a number that a kind does not have, and "?" for one that it
// has and that was not observed.
func numIf(has bool, p *uint64) string {
	if p == nil && !has {
		return "-"
	}
	return num(p)
}

func ownerText(owner string, registered bool) string {
	switch {
	case owner != "":
		return owner
	case registered:
		return "(registered)"
	}
	return "(discovered)"
}

func positionText(p *uint64, domain string) string {
	if p == nil {
		return "?"
	}
	return fmt.Sprintf("%d %s", *p, domain)
}

func ageOr(t *time.Time, none string) string {
	if t == nil {
		return none
	}
	return age(*t)
}

func spendText(r *catalog.Region) string {
	var total float64
	for _, v := range r.RequestsPerHour {
		total += v
	}
	if r.RequestBudget > 0 {
		return fmt.Sprintf("%.0f of %.0f", total, r.RequestBudget)
	}
	return fmt.Sprintf("%.0f", total)
}
