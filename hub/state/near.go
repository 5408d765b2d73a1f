package state

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"

	"github.com/quarry-db/quarry/hub/table"
	"github.com/quarry-db/quarry/hub/view"
)

// unknownSlate says that nothing goes by a name, and what goes by one like it.
type unknownSlate struct {
	name, region string   // region: it is not there; empty: it is nowhere
	near         []string // names; or regions where it is
}

func (e *unknownSlate) Unwrap() error { return fs.ErrNotExist }

func (e *unknownSlate) Error() string {
	switch {
	case e.region != "":
		return fmt.Sprintf("%s is not in region %s; it is in %s", e.name, e.region, strings.Join(e.near, ", "))
	case len(e.near) == 0:
		return fmt.Sprintf("nothing goes by the name %s; see quarry get slates", e.name)
	}
	return fmt.Sprintf("nothing goes by the name %s; do you mean %s?", e.name, strings.Join(e.near, " or "))
}

// severalSlates says that a name means several databases.
type severalSlates struct {
	name  string
	where []string // of each: its regions
}

func (e *severalSlates) Unwrap() error { return ErrLineages }

func (e *severalSlates) Error() string {
	return fmt.Sprintf("%s is %d databases, whose positions cannot be compared: in %s; say which with a region of it", e.name, len(e.where), strings.Join(e.where, " and in "))
}

const (
	nearMost   = 3      // names that are suggested
	nearLooks  = 20_000 // names that are compared
	nearLength = 256    // of a name, in bytes: longer ones are like no other
)

// nearNames are names of slates that somebody may have meant who wrote another:
// the nearest first.
func nearNames(v *view.View, name string) []string {
	if name == "" || len(name) > nearLength {
		return nil
	}
	type near struct {
		name string
		far  int
	}
	var found []near
	far := max(1, min(3, len(name)/3))
	consider := func(other string) {
		distance := far + 1
		switch {
		case len(other) > nearLength || slices.ContainsFunc(found, func(n near) bool { return n.name == other }):
			return
		case strings.HasPrefix(other, name+"/"):
			distance = 0 // a partition of it
		case strings.Contains(other, name):
			distance = far
		case max(len(other)-len(name), len(name)-len(other)) <= far:
			distance = levenshtein.ComputeDistance(strings.ToLower(name), strings.ToLower(other))
		}
		if distance > far {
			return
		}
		found = append(found, near{other, distance})
		slices.SortStableFunc(found, func(a, b near) int { return a.far - b.far })
		found = found[:min(len(found), nearMost)]
	}
	// Those that begin alike, then as many as there may be from the start.
	begin := name[:(len(name)+1)/2]
	for _, prefix := range []string{begin, ""} {
		looks := 0
		v.SlateTable().Names().Ascend(table.Mark{Slate: prefix}, func(_ uint64, id *table.Ident) bool {
			if looks++; looks > nearLooks || !strings.HasPrefix(id.Slate, prefix) {
				return false
			}
			consider(id.Slate)
			return true
		})
	}
	var out []string
	for _, n := range found {
		out = append(out, n.name)
	}
	return out
}
