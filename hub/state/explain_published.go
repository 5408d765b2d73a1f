package state

import (
	"time"

	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// Published is the permit that lies in a region's bucket for the owner there to
// follow.
type Published struct {
	Region string `json:"region"`
	Number uint64 `json:"number" doc:"Of the permit, as in its object's name."`
	// UpTo is nil when it was withdrawn.
	UpTo      *uint64   `json:"up_to" doc:"Inclusive; null: withdrawn, nothing may be cut."`
	NotAfter  time.Time `json:"not_after" doc:"By the clock of the agent that wrote it; after that it is no permit."`
	Over      bool      `json:"over" doc:"It is surely no permit any more."`
	Decision  string    `json:"decision" doc:"By which it was written."`
	TrimmedTo *uint64   `json:"trimmed_to" doc:"What the owner was observed to have cut; null: not known."`
}

// UnderWay is a decision about a slate that is not at its end.
type UnderWay struct {
	ID       string        `json:"id"`
	Verb     catalog.Verb  `json:"verb"`
	Region   string        `json:"region"`
	Position *uint64       `json:"position"`
	Stage    catalog.Stage `json:"stage"`
	By       string        `json:"by"`
	Waiting  []string      `json:"waiting" doc:"Why it was not sent yet, and what to do."`
}

// acted adds what has been done about the slate, and what is under way.
func (e *Explanation) acted(s *Subject, v *view.View, now time.Time) {
	e.Published, e.UnderWay = []Published{}, []UnderWay{}
	for i := range s.Sites {
		site := &s.Sites[i]
		if p := site.Permit; p != nil {
			e.Published = append(e.Published, Published{Region: site.Region, Number: p.Number, UpTo: p.UpTo, NotAfter: p.NotAfter,
				Over: p.UpTo != nil && !p.MayRule(now), Decision: p.Decision, TrimmedTo: site.TrimmedTo})
		}
	}
	for d := range v.Decisions() {
		if d.Slate == s.Name && !d.Stage.Settled() && (d.Lineage == "" || d.Lineage == s.Lineage) {
			e.UnderWay = append(e.UnderWay, UnderWay{d.ID, d.Verb, d.Region, d.Position, d.Stage, d.By, d.Waiting})
		}
	}
}
