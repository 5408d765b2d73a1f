package state

import (
	"fmt"
	"strings"

	"github.com/quarry-db/quarry/pkg/catalog"
)

func (s *State) quarantined(e Quarantined) {
	r, p := s.reporter(e.Session)
	if r == nil {
		return
	}
	if e.Fact != 0 && e.Fact <= 255 && e.Revision.Start == p.start {
		s.holdAside(r, factKey{catalog.FactKind(e.Fact), e.Key}, e.Revision, e.Sum, e.Staged)
		e.Kind = kindName(catalog.FactKind(e.Fact)) // as a snapshot will look for it
	}
	s.setAside(r, e.Kind, e.Key, e.Why)
}

const quarantineCode = "record-quarantined"

// asideKey is the key of the finding about a record that was put aside.
func asideKey(kind, key string) factKey {
	return factKey{catalog.FactFinding, catalog.FindingKey(quarantineCode, "", asideObject(kind, key))}
}

func asideObject(kind, key string) string {
	object := kind + " " + strings.ReplaceAll(strings.ToValidUTF8(key, "?"), "\x00", " ")
	if len(object) > 300 {
		object = strings.ToValidUTF8(object[:300], "") + "…"
	}
	return object
}

// setAside shows a record that could not be taken, until a snapshot has it or
// lacks it.
func (s *State) setAside(r *region, kind, key, why string) {
	f := &catalog.Finding{
		Code: quarantineCode, Region: r.name, Object: asideObject(kind, key),
		What: fmt.Sprintf("a record of the agent was put aside: %s", why),
		Cure: "update the agent or the hub so that both speak the same version",
	}
	k := factKey{catalog.FactFinding, catalog.FindingKey(f.Code, "", f.Object)}
	if old := r.said[k]; old != nil && !old.gone && old.finding.What == f.What {
		old.leaving = false
		delete(r.leaving, old)
		return
	}
	s.place(r, &said{key: k, finding: f, since: s.mono})
	s.stirred[r.name] = true
}
