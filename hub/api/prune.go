package api

import (
	"github.com/quarry-db/quarry/hub/query"
	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// PruneRequest is a person's word to remove what policies do not keep.
type PruneRequest struct {
	Region string `json:"region,omitempty" doc:"Only there; and where the name means several databases, the one in this region."`
	Plan   string `json:"plan,omitempty" doc:"The plan that was looked at: another one that is found now is refused."`
	Why    string `json:"why,omitempty" doc:"For the record."`
}

// Pruned is what is beyond policy, or was decided to be removed.
type Pruned struct {
	Done bool   `json:"done" doc:"false: validate_only, it would be done."`
	By   string `json:"by" doc:"Whom the record names."`
	state.PrunePlan
	// Decisions are those that were made, and those under way.
	Decisions []catalog.DecisionRow `json:"decisions" doc:"Those that were made, and those under way; none: nothing is beyond policy."`
}

var (
	pruneType  = query.TypeOf[PruneRequest]("requests", nil, "plan")
	prunedType = query.TypeOf[Pruned]("answers", values, "slate")
)

func pruneOperation() *operation {
	return &operation{
		method: "POST", path: "/v1/slates/{name}:prune", id: "prune_slate", summary: "Remove the restore points that policies do not keep",
		doc: "Of a snapshot repository: what policies keep in each region stays, and never less than they ask for. Refused with the reasons where nothing may be removed. " +
			"It is judged anew when it is asked for; with validate_only the plan is the answer, with each restore point and why it stays or goes.",
		params: []*param{pDry, hKey, hBy}, body: pruneType, answer: ref(prunedType.Shape.Name), refuses: []int{400, 403, 404, 409, 413, 415, 422, 503},
		handle: func(c *call) error { return c.prune() },
	}
}

func (c *call) prune() error {
	return c.work(func(by string) ([]byte, error) {
		req, err := bodyOf[PruneRequest](c)
		if err != nil {
			return nil, err
		}
		v, err := c.current()
		if err != nil {
			return nil, err
		}
		planned, err := state.PlanPrune(v, c.name, req.Region, c.o.Now())
		if err == nil {
			err = stillPlanned(req.Plan, planned.Plan)
		}
		if err != nil {
			return nil, c.refusal(err)
		}
		out := Pruned{Done: !c.dry(), By: by, PrunePlan: *planned, Decisions: []catalog.DecisionRow{}}
		if c.dry() {
			return prunedType.AppendJSON(nil, &out, nil), nil
		}
		var made []state.Decided
		if err := c.src.Do(c.r.Context(), state.Carry{Verb: catalog.VerbPrune, Slate: c.name, Region: req.Region, Plan: req.Plan, By: by, Why: req.Why, Decided: &made}); err != nil {
			return nil, c.refusal(err)
		}
		if out.Decisions, err = c.shown(made); err != nil {
			return nil, err
		}
		return prunedType.AppendJSON(nil, &out, nil), nil
	})
}
