package api

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/quarry-db/quarry/hub/query"
	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// CarryRequest is a person's word to do what the rules permit.
type CarryRequest struct {
	UpTo   *uint64 `json:"up_to,omitempty" doc:"How far, inclusive; absent: as far as may be."`
	Region string  `json:"region,omitempty" doc:"Where the name means several databases: the one in this region."`
	Plan   string  `json:"plan,omitempty" doc:"The plan that was looked at: another one that is found now is refused."`
	Why    string  `json:"why,omitempty" doc:"For the record."`
}

// Carried is what is planned, or was decided.
type Carried struct {
	Done bool   `json:"done" doc:"false: validate_only, it would be done."`
	By   string `json:"by" doc:"Whom the record names."`
	state.CarryPlan
	// Decisions are those that were made, and those under way that say the same.
	Decisions []catalog.DecisionRow `json:"decisions" doc:"Those that were made, and those under way that say the same; none: what is planned is published already."`
}

// Would is in how many regions something is to be done.
func (c *Carried) Would() (n int) {
	for i := range c.Steps {
		if d := c.Steps[i].Doing; d != "published" && d != "none" {
			n++
		}
	}
	return n
}

var (
	carryType   = query.TypeOf[CarryRequest]("requests", nil, "plan")
	carriedType = query.TypeOf[Carried]("answers", values, "slate")
)

// carried are the verbs that people have carried out by name.
var carried = []struct {
	word, summary, doc string
	verb               catalog.Verb
}{
	{"trim", "Have a slate's history cut as far as may be", "Publishes a permit in each region where the slate is, up to the floor or a lower position. " +
		"Refused with the reasons where the verdict is to wait, and above the floor.", catalog.VerbPermit},
}

func carryOperations() []*operation {
	var ops []*operation
	for _, w := range carried {
		ops = append(ops, &operation{
			method: "POST", path: "/v1/slates/{name}:" + w.word, id: w.word + "_slate", summary: w.summary,
			doc:    w.doc + " It is judged anew when it is asked for; with validate_only the plan is the answer, and a verdict that waits is one too.",
			params: []*param{pDry, hKey, hBy}, body: carryType, answer: ref(carriedType.Shape.Name), refuses: []int{400, 403, 404, 409, 413, 415, 422, 503},
			handle: func(c *call) error { return c.carry(w.verb) },
		})
	}
	return ops
}

func (c *call) carry(verb catalog.Verb) error {
	return c.work(func(by string) ([]byte, error) {
		req, err := bodyOf[CarryRequest](c)
		if err != nil {
			return nil, err
		}
		v, err := c.current()
		if err != nil {
			return nil, err
		}
		out := Carried{Done: !c.dry(), By: by, Decisions: []catalog.DecisionRow{}}
		planned, err := state.PlanFor(v, verb, c.name, req.Region, req.UpTo, c.o.Now())
		if err == nil {
			err = stillPlanned(req.Plan, planned.Plan)
		}
		if err != nil {
			return nil, c.refusal(err)
		}
		out.CarryPlan = *planned
		if c.dry() {
			return carriedType.AppendJSON(nil, &out, nil), nil
		}
		var made []state.Decided
		if err := c.src.Do(c.r.Context(), state.Carry{Verb: verb, Slate: c.name, Region: req.Region, UpTo: req.UpTo, Plan: req.Plan, By: by, Why: req.Why, Decided: &made}); err != nil {
			return nil, c.refusal(err)
		}
		if out.Decisions, err = c.shown(made); err != nil {
			return nil, err
		}
		return carriedType.AppendJSON(nil, &out, nil), nil
	})
}

// stillPlanned refuses a plan that a person has looked at when another one is
// found now; "": any will do.
func stillPlanned(seen, found string) error {
	if seen == "" || seen == found {
		return nil
	}
	return fmt.Errorf("%w: plan %s is not what is found now, which is %s; look at it again", state.ErrPlanExpired, seen, found)
}

// shown are decisions as the view has them now.
func (c *call) shown(made []state.Decided) ([]catalog.DecisionRow, error) {
	v, err := c.current()
	if err != nil {
		return nil, err
	}
	out := []catalog.DecisionRow{}
	for i := range made {
		if d := v.Decision(made[i].Decision.ID); d != nil {
			out = append(out, *d)
		}
	}
	return out, nil
}

// refusedByRules is the problem of a person's word that the rules refuse.
func refusedByRules(err error) *Problem {
	if r, ok := errors.AsType[*state.Refused](err); ok {
		p := problem(http.StatusConflict, CodeRefused, "", "", "%v", err)
		for _, why := range r.Reasons {
			p.Reasons = append(p.Reasons, catalog.Reason{Code: string(why.Code), Message: why.Message})
		}
		return p
	}
	switch {
	case errors.Is(err, state.ErrPlanExpired):
		return problem(http.StatusConflict, CodePlanExpired, "plan", "", "%v", err)
	case errors.Is(err, state.ErrBreaker):
		return problem(http.StatusConflict, CodeBreakerOpen, "", "see quarry breaker", "%v", err)
	case errors.Is(err, state.ErrStage), errors.Is(err, state.ErrSamePerson), errors.Is(err, state.ErrQuota), errors.Is(err, state.ErrNoBreaker), errors.Is(err, state.ErrBreakerCount):
		return problem(http.StatusConflict, CodeRefused, "", "", "%v", err)
	case errors.Is(err, errors.ErrUnsupported):
		return problem(http.StatusBadRequest, CodeBadParameter, "", "", "%v", err)
	}
	return nil
}
