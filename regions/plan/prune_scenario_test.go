package plan

import (
	"cmp"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
)

// shows are the commands that show something.
func (w *world) shows() map[string]func() string {
	return map[string]func() string{"trim": w.trim, "prune": w.prune}
}

// doPrune carries out the commands that only stories about pruning need.
func (w *world) doPrune(f []string, text func(string) string, arg func(int) string) bool {
	at := func() *Point {
		r := w.find(arg(1))
		for i := range r.Points {
			if r.Points[i].Position == w.position(arg(2)) {
				return &r.Points[i]
			}
		}
		w.t.Fatalf("%s has no restore point at %s", arg(1), arg(2))
		return nil
	}
	ago := func(i int) time.Time {
		d, err := regions.ParseDuration(arg(i))
		if err != nil {
			w.t.Fatal(err)
		}
		return w.now.Add(-time.Duration(d))
	}
	switch f[0] {
	case "last-lost":
		w.s.Lost = text("last-lost")
	case "found":
		w.s.Lost = ""
	case "made":
		at().Made = ago(3)
	case "permitted":
		r := w.find(arg(1))
		if r.Permitted = nil; arg(2) != "none" {
			r.Permitted = new(w.position(arg(2)))
		}
	case "orphan":
		r := w.find(arg(1))
		r.Orphans = append(r.Orphans, Orphan{ID: arg(2), ChangedAt: ago(3)})
	case "under-way":
		at().Leaving = true
	default:
		return false
	}
	return true
}

// prune asks Prune with the floor that Trim gives, and asks again from the
// evidence as it would be recorded (P9).
func (w *world) prune() string {
	policies := []regions.Policy{w.p}
	v, _ := Under(policies, w.s, w.now)
	got := Prune(policies, w.s, v.UpTo, w.now)
	raw, err := json.Marshal(w.s)
	if err != nil {
		w.t.Fatal(err)
	}
	var kept Slate
	if err := json.Unmarshal(raw, &kept); err != nil {
		w.t.Fatal(err)
	}
	if again := Prune(policies, kept, v.UpTo, w.now); !reflect.DeepEqual(got, again) {
		w.t.Errorf("from the evidence that was recorded it says %+v, and said %+v", again, got)
	}
	if why := wrongPruning(policies, &w.s, v.UpTo, w.now, &got); why != "" {
		w.t.Errorf("%s: %+v", why, got)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %d verified are left\n", got.Action, got.Left)
	for _, r := range got.Reasons {
		w.told[r.Code] = true
		fmt.Fprintf(&b, "  %s\n", r)
	}
	for i := range got.Regions {
		r := &got.Regions[i]
		fmt.Fprintf(&b, "%s %s, %d of %d are left", r.Region, r.Action, r.Left, r.Keep)
		if r.Sweep {
			fmt.Fprintf(&b, ", and orphans of %s go", r.OlderThan)
		}
		fmt.Fprintln(&b)
		for _, why := range r.Reasons {
			w.told[why.Code] = true
			fmt.Fprintf(&b, "  %s\n", why)
		}
		for j := range r.Points {
			f := &r.Points[j]
			w.told[Code(f.Why)] = true
			word := "gone"
			if f.Stays {
				word = "stays"
			}
			fmt.Fprintf(&b, "  %d %s: %s, %s\n", f.Position, word, f.Why, f.Message)
		}
	}
	return b.String()
}

// wrongPruning says what is wrong with a pruning, by the promises alone and not
// by how Prune comes to it; empty: nothing.
func wrongPruning(policies []regions.Policy, s *Slate, floor *uint64, now time.Time, got *Pruning) string {
	keep, total := 1, 0
	for i := range policies {
		r := &policies[i].RestorePoints
		keep, total = max(keep, r.PerRegion), max(total, r.Total)
	}
	counts := func(p *Point) bool {
		return p.State == catalog.RestoreVerified && !p.Leaving && now.Sub(p.VerifiedAt) <= FreshFor
	}
	fleet, removed := 0, 0
	for i := range s.Regions {
		r := &s.Regions[i]
		if r.Heard && (r.State == catalog.RegionConnected || r.State == catalog.RegionSuspect) && r.Lineage == s.Lineage && r.Unreadable == "" && r.Membership != catalog.Retired && (r.Placed || len(r.Points) > 0) {
			for j := range r.Points {
				if counts(&r.Points[j]) {
					fleet++
				}
			}
		}
	}
	for i := range got.Regions {
		one := &got.Regions[i]
		if (one.Action == Wait) != (len(one.Reasons)+len(got.Reasons) > 0) || (one.Action == Remove) != (len(one.Remove) > 0 || one.Sweep) {
			return fmt.Sprintf("%s: %s with %d to remove and %d reasons", one.Region, one.Action, len(one.Remove), len(one.Reasons))
		}
		if len(one.Remove) == 0 {
			continue
		}
		asked := slices.ContainsFunc(policies, func(p regions.Policy) bool {
			return p.Select.InRegion(one.Region) && p.RestorePoints.Keep != (regions.Keep{})
		})
		if !asked || s.Frozen != "" || s.Lost != "" {
			return "something goes though nobody asked, or it is frozen"
		}
		var r *Region
		for j := range s.Regions {
			if s.Regions[j].Name == one.Region {
				r = &s.Regions[j]
			}
		}
		if !r.Heard || r.Membership != catalog.Active || r.State != catalog.RegionConnected && r.State != catalog.RegionSuspect || r.Unreadable != "" || r.Lineage != s.Lineage {
			return one.Region + " is not believed, and something goes there"
		}
		going := map[string]bool{}
		for _, id := range one.Remove {
			going[id] = true
		}
		whole, lowest, highest, low := 0, ^uint64(0), uint64(0), ^uint64(0)
		for j := range r.Points {
			p := &r.Points[j]
			highest = max(highest, p.Position)
			if !p.Leaving {
				low = min(low, p.Position)
			}
			switch {
			case going[p.ID] && p.Leaving:
				return p.ID + " goes twice"
			case going[p.ID]:
				if counts(p) {
					removed++
				}
				if !counts(p) && p.State != catalog.RestoreIncomplete {
					return p.ID + " goes, and nobody has looked at it lately"
				}
			case !p.Leaving:
				lowest = min(lowest, p.Position)
				if counts(p) {
					whole++
				}
			}
		}
		for j := range r.Points {
			if p := &r.Points[j]; going[p.ID] && p.Position == highest {
				return "the newest goes: " + p.ID
			}
		}
		if whole < keep {
			return fmt.Sprintf("%s is left with %d, %d must stay", one.Region, whole, keep)
		}
		if lowest != low {
			if floor == nil || r.Permitted == nil || lowest > *floor || lowest > *r.Permitted {
				return fmt.Sprintf("%s: the lowest is lifted from %d to %d", one.Region, low, lowest)
			}
		}
		for _, pin := range s.Pins {
			if pin.Kind == PinConsumer {
				continue
			}
			begins := uint64(0) // what the history of the pin is restored from
			for j := range r.Points {
				if p := &r.Points[j]; counts(p) && pin.Position != nil && p.Position <= *pin.Position {
					begins = max(begins, p.Position)
				}
			}
			for j := range r.Points {
				if p := &r.Points[j]; going[p.ID] && p.Position >= begins {
					return fmt.Sprintf("%s goes, and %s keeps what begins at %v", p.ID, pin.ID, cmp.Or(pin.Position, new(uint64)))
				}
			}
		}
	}
	if removed > 0 && fleet-removed < total {
		return fmt.Sprintf("the fleet is left with %d, %d must stay", fleet-removed, total)
	}
	return ""
}
