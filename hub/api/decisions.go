package api

import (
	"fmt"
	"iter"

	"github.com/quarry-db/quarry/hub/query"
	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// CloseBreakerRequest is a person's word that deciding may go on.
type CloseBreakerRequest struct {
	Slates uint64 `json:"slates" doc:"How many slates are meant to be touched at once, as the breaker says it: another number is refused. For a while so many may be. 0: none is meant, and what is too much opens it again."`
	Why    string `json:"why,omitempty" doc:"For the record."`
}

var (
	breakerType = query.TypeOf[catalog.BreakerRow]("breaker", values, "why")
	closeType   = query.TypeOf[CloseBreakerRequest]("requests", nil, "slates")
)

func decisionRows() *resource {
	typ := query.TypeOf[catalog.DecisionRow](view.Decisions, values, "number")
	typ.Default = "number desc"
	return &resource{
		name: view.Decisions, one: "decision", region: "region", order: typ.Default,
		doc:  "Instructions to the agents of regions: who asked for them, how far they have come, what the agents saw and did.",
		typ:  typ,
		rows: func(v *view.View, _ *query.Filter) iter.Seq[any] { return anyRow(v.Decisions()) },
		get:  func(v *view.View, id string) any { return found(v.Decision(id)) },
		key:  func(row any) string { return row.(*catalog.DecisionRow).ID },
	}
}

func breakerOperation() *operation {
	return &operation{
		method: "GET", path: "/v1/breaker", id: "get_breaker", summary: "Say how the breaker stands",
		doc:    "It opens when more is wanted at once than looks meant. While it is open nothing is decided but what stops something.",
		answer: ref(breakerType.Shape.Name),
		handle: func(c *call) error {
			v, err := c.current()
			if err != nil {
				return err
			}
			b := v.Breaker()
			return c.answer(breakerType.AppendJSON(nil, &b, nil))
		},
	}
}

// decisionWords are the commands about decisions.
var decisionWords = []wording{
	{"/v1/decisions/{name}:approve", "approve_decision", "Agree to a decision",
		"Of one that needs more than one person. Whoever asked for it, and whoever agreed, is not another person.", whyType,
		func(c *call, v *view.View, by string) (state.Command, string, error) {
			req, err := bodyOf[WhyRequest](c)
			if err != nil {
				return nil, "", err
			}
			d, err := state.ApproveIn(v, c.name, by)
			if err == nil {
				err = c.named()
			}
			if err != nil {
				return nil, "", err
			}
			what := fmt.Sprintf("decision %s is approved", d.ID)
			if d.Stage == catalog.StageProposed {
				what = fmt.Sprintf("decision %s has %d of %d approvals", d.ID, len(d.Approved), d.Needs)
			}
			return state.Approve{ID: c.name, By: by, Why: req.Why}, what, nil
		}},
	{"/v1/decisions/{name}:refuse", "refuse_decision", "Refuse a decision", "Of one that was not sent yet.", whyType,
		func(c *call, v *view.View, by string) (state.Command, string, error) {
			req, err := bodyOf[WhyRequest](c)
			if err != nil {
				return nil, "", err
			}
			_, err = state.RefuseIn(v, c.name)
			return state.RefuseDecision{ID: c.name, By: by, Why: req.Why}, fmt.Sprintf("decision %s is refused", c.name), err
		}},
	{"/v1/breaker:close", "close_breaker", "Let deciding go on", "A person's word, after the breaker opened, that so many slates are meant.", closeType,
		func(c *call, v *view.View, by string) (state.Command, string, error) {
			req, err := bodyOf[CloseBreakerRequest](c)
			if err != nil {
				return nil, "", err
			}
			switch b := v.Breaker(); {
			case !b.Open:
				err = state.ErrNoBreaker
			case req.Slates != 0 && req.Slates != b.Slates:
				err = fmt.Errorf("%d are meant, %d would be touched: look again at what asks for them: %w", req.Slates, b.Slates, state.ErrBreakerCount)
			}
			return state.CloseBreaker{By: by, Why: req.Why, Slates: req.Slates}, "the breaker is closed", err
		}},
}
