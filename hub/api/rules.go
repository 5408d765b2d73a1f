package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"net/http"

	"github.com/quarry-db/quarry/hub/query"
	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
)

// DocumentsRequest brings policies and holds.
type DocumentsRequest struct {
	File    string `json:"file" doc:"What the file is called, for messages."`
	Content string `json:"content" doc:"YAML documents, separated by lines of ---."`
}

// AppliedDocuments is the answer to a file of documents.
type AppliedDocuments struct {
	Done    bool             `json:"done" doc:"false: validate_only, it would be done."`
	By      string           `json:"by" doc:"Whom the record names."`
	Changes []regions.Change `json:"changes" doc:"What became of each document, in the file's order by kind."`
	// Withdrawn is empty in a dry run: what would be withdrawn is the loop's to say.
	Withdrawn []state.Withdrawal `json:"withdrawn" doc:"Permits that the documents forbid from now on, with how far agents had carried them out. Empty with validate_only."`
}

// WhyRequest says why something is done.
type WhyRequest struct {
	Why string `json:"why,omitempty" doc:"For the record."`
}

// ScopeRequest says what to freeze or thaw.
type ScopeRequest struct {
	Scope string `json:"scope" doc:"all, region/NAME or slate/NAME."`
	Why   string `json:"why,omitempty" doc:"For the record."`
}

// JoinRequest says how a region joins.
type JoinRequest struct {
	As string `json:"as,omitempty" doc:"joining (the default), or active for one that is joining."`
}

var (
	documentsType = query.TypeOf[DocumentsRequest]("requests", nil, "file")
	appliedType   = query.TypeOf[AppliedDocuments]("answers", nil, "by")
	whyType       = query.TypeOf[WhyRequest]("requests", nil, "why")
	scopeType     = query.TypeOf[ScopeRequest]("requests", nil, "scope")
	joinType      = query.TypeOf[JoinRequest]("requests", nil, "as")
	explainedType = query.TypeOf[state.Explanation]("explanations", values, "slate")
	trimsType     = query.TypeOf[state.Trims]("sums", values, "slates")
	testedType    = query.TypeOf[state.Tested]("tests", values, "slates")
)

// ruled lists the resources of what people decided.
func ruled() []*resource {
	return []*resource{
		{
			name: view.Policies, one: "policy", doc: "What people want kept and allow to be done.",
			typ:  query.TypeOf[catalog.Policy](view.Policies, values, "name"),
			rows: func(v *view.View, _ *query.Filter) iter.Seq[any] { return anyRow(v.Policies()) },
			get:  func(v *view.View, name string) any { return found(v.Policy(name)) },
			key:  func(row any) string { return row.(*catalog.Policy).Name },
		},
		{
			name: view.Holds, one: "hold", doc: "What keeps history whatever policies permit.",
			typ:  query.TypeOf[catalog.Hold](view.Holds, values, "name"),
			rows: func(v *view.View, _ *query.Filter) iter.Seq[any] { return anyRow(v.Holds()) },
			get:  func(v *view.View, name string) any { return found(v.Hold(name)) },
			key:  func(row any) string { return row.(*catalog.Hold).Name },
		},
		{
			name: view.Freezes, one: "freeze", doc: "Scopes in which nothing irreversible is done.",
			typ:  query.TypeOf[catalog.Freeze](view.Freezes, values, "scope"),
			rows: func(v *view.View, _ *query.Filter) iter.Seq[any] { return anyRow(v.Freezes()) },
			key:  func(row any) string { return row.(*catalog.Freeze).Scope },
		},
		decisionRows(),
		{
			name: view.Pins, one: "pin", region: "region", doc: "The checkpoints with which Quarry holds history in slates: for whom, where, and what each costs.",
			typ:  query.TypeOf[catalog.Pin](view.Pins, values, "slate", "region", "name", "root", "id"),
			rows: func(v *view.View, _ *query.Filter) iter.Seq[any] { return anyRow(v.Pins()) },
			key:  func(row any) string { r := row.(*catalog.Pin); return view.PinKey(r.Region, r.Root, r.ID) },
		},
	}
}

const maxDocuments = 2 << 20 // a file of documents as JSON

func ruleOperations() []*operation {
	params := []*param{pDry, hKey, hBy}
	refuses := []int{400, 403, 404, 409, 413, 415, 422}
	ops := []*operation{{
		method: "GET", path: "/v1/slates/{name}:explain", id: "explain_slate", summary: "Say what may be done with a slate, and why",
		doc: "The verdict from what is known now: permit with the floor, or wait with the reasons. The name is percent-encoded.",
		params: []*param{q("verb", "string", "trim", "What to explain; trim, which is the default."),
			q("region", "string", "eu", "Where the name means several databases: the one in this region.")},
		answer: ref(explainedType.Shape.Name), refuses: []int{400, 404, 409},
		handle: func(c *call) error { return c.explain() },
	}, {
		method: "GET", path: "/v1/trims:summarize", id: "summarize_trims", summary: "Sum up what may be trimmed and what waits",
		doc:    "Over all slates that any policy selects.",
		answer: ref(trimsType.Shape.Name), refuses: []int{400},
		handle: func(c *call) error {
			v, err := c.current()
			if err != nil {
				return err
			}
			return c.answer(trimsType.AppendJSON(nil, state.SumTrims(v, c.o.Now()), nil))
		},
	}, {
		method: "POST", path: "/v1/documents:apply", id: "apply_documents", summary: "Put policies and holds in force",
		doc: "All documents of the file, or none: a field or region that is not known refuses the whole file, and what was in force stays. " +
			"A document that says what it said before keeps its revision.",
		params: params, body: documentsType, limit: maxDocuments, answer: ref(appliedType.Shape.Name), refuses: refuses,
		handle: func(c *call) error { return c.apply() },
	}, {
		method: "POST", path: "/v1/policies:test", id: "test_policies", summary: "Compare the verdicts under a file with those in force",
		doc:  "Over the live inventory. Nothing is changed.",
		body: documentsType, limit: maxDocuments, answer: ref(testedType.Shape.Name), refuses: []int{400, 403, 409, 413, 415},
		handle: func(c *call) error { return c.testPolicies() },
	}}
	ops = append(append(ops, carryOperations()...), pruneOperation(), breakerOperation())
	for _, w := range append(words, decisionWords...) {
		ops = append(ops, &operation{
			method: "POST", path: w.path, id: w.id, summary: w.summary, doc: w.doc, params: params, body: w.body, answer: ref(doneType.Shape.Name), refuses: refuses,
			handle: func(c *call) error { return c.word(w.do) },
		})
	}
	return ops
}

// wording is a command that is answered with one sentence: it checks what it can
// in the view, so that a dry run says the same, and makes the command.
type wording struct {
	path, id, summary, doc string
	body                   *query.Type
	do                     func(c *call, v *view.View, by string) (state.Command, string, error)
}

// words are the commands about documents and regions.
var words = []wording{
	{"/v1/policies/{name}:remove", "remove_policy", "Take a policy out of force", "What only it permitted is not permitted any more.", whyType,
		func(c *call, v *view.View, by string) (state.Command, string, error) {
			req, err := bodyOf[WhyRequest](c)
			if err != nil {
				return nil, "", err
			}
			_, err = v.Rules().RemovePolicy(c.name)
			return state.RemovePolicy{Name: c.name, By: by, Why: req.Why, Withdrawn: &c.withdrawn}, fmt.Sprintf("policy %s is removed", c.name), err
		}},
	{"/v1/holds/{name}:release", "release_hold", "End a hold", "A legal hold needs the word of two people: the first is remembered.", whyType,
		func(c *call, v *view.View, by string) (state.Command, string, error) {
			req, err := bodyOf[WhyRequest](c)
			if err != nil {
				return nil, "", err
			}
			_, done, err := v.Rules().Release(c.name, by)
			if h := v.Hold(c.name); err == nil && h != nil && h.Legal {
				err = c.named()
			}
			what := fmt.Sprintf("hold %s is released", c.name)
			if !done {
				what = fmt.Sprintf("the release of legal hold %s is asked for; another person has to agree", c.name)
			}
			return state.ReleaseHold{Name: c.name, By: by, Why: req.Why}, what, err
		}},
	{"/v1/freezes:freeze", "freeze", "Stop everything irreversible in a scope", "Until somebody thaws the same scope.", scopeType,
		func(c *call, v *view.View, by string) (state.Command, string, error) {
			req, err := bodyOf[ScopeRequest](c)
			if err != nil {
				return nil, "", err
			}
			_, err = v.Rules().Frozen(regions.Freeze{Scope: req.Scope})
			return state.Freeze{Scope: req.Scope, By: by, Why: req.Why, Withdrawn: &c.withdrawn}, req.Scope + " is frozen", err
		}},
	{"/v1/freezes:thaw", "thaw", "End a freeze", "Of exactly that scope; others stay.", scopeType,
		func(c *call, v *view.View, by string) (state.Command, string, error) {
			req, err := bodyOf[ScopeRequest](c)
			if err != nil {
				return nil, "", err
			}
			_, err = v.Rules().Thawed(req.Scope)
			return state.Thaw{Scope: req.Scope, By: by, Why: req.Why}, req.Scope + " is thawed", err
		}},
	{"/v1/regions/{name}:join", "join_region", "Take a region into the set",
		"As joining: from now on it is heard before anything is cut, whatever atLeast says. With active it is one of those that atLeast counts.", joinType,
		func(c *call, v *view.View, by string) (state.Command, string, error) {
			req, err := bodyOf[JoinRequest](c)
			if err != nil {
				return nil, "", err
			}
			to := or(catalog.Membership(req.As), catalog.Joining)
			if to != catalog.Joining && to != catalog.Active {
				return nil, "", problem(http.StatusBadRequest, CodeBadBody, "as", "joining or active", "as: %q", req.As)
			}
			if err := regions.CheckName(c.name); err != nil {
				return nil, "", err
			}
			r := v.Region(c.name)
			switch {
			case r == nil && to == catalog.Active:
				return nil, "", fmt.Errorf("region %s is not in the region set; it joins first: %w", c.name, fs.ErrNotExist)
			case r == nil:
				set := setOf(v)
				set.Insert(regions.Region{Name: c.name, Membership: to})
				if err := set.Validate(); err != nil {
					return nil, "", err
				}
			case r.Membership == to && r.Retiring != "":
				return state.JoinRegion{Region: c.name, By: by, Active: to == catalog.Active}, fmt.Sprintf("region %s stays %s", c.name, to), nil
			case r.Membership == to:
				return nil, "", fmt.Errorf("region %s is %s: %w", c.name, to, fs.ErrExist)
			case r.Membership == catalog.Retired && to == catalog.Active:
				return nil, "", fmt.Errorf("region %s is retired; it joins first: %w", c.name, state.ErrMembership)
			case r.Membership == catalog.Active:
				return nil, "", fmt.Errorf("region %s is active, which is more than joining: %w", c.name, fs.ErrExist)
			}
			return state.JoinRegion{Region: c.name, By: by, Active: to == catalog.Active}, fmt.Sprintf("region %s is %s", c.name, to), nil
		}},
	{"/v1/regions/{name}:retire", "retire_region", "Have a region agree to nothing any more",
		"What waits for it waits no more. Its agents are refused; its rows stay as they were last seen. A region that a policy requires needs the word of two people: the first is remembered, and joining takes it back.", whyType,
		func(c *call, v *view.View, by string) (state.Command, string, error) {
			req, err := bodyOf[WhyRequest](c)
			if err != nil {
				return nil, "", err
			}
			_, done, err := v.Rules().Retire(setOf(v), c.name, by)
			if err == nil && len(v.Rules().Requires(c.name)) > 0 {
				err = c.named()
			}
			if err != nil {
				return nil, "", err
			}
			what := fmt.Sprintf("region %s is retired", c.name)
			if !done {
				what = fmt.Sprintf("that region %s retires is asked for; policy %s requires it, so another person has to agree", c.name, v.Rules().Requires(c.name)[0])
			}
			return state.RetireRegion{Region: c.name, By: by, Why: req.Why}, what, nil
		}},
}

// setOf is the region set as a view shows it: names and memberships.
func setOf(v *view.View) regions.Set {
	set := regions.Set{Format: regions.Format, Number: 1}
	for r := range v.Regions() {
		set.Regions = append(set.Regions, regions.Region{Name: r.Name, Membership: r.Membership, Retiring: r.Retiring})
	}
	return set
}

// word carries a person's word to the loop, unless it is only to be checked.
func (c *call) word(do func(*call, *view.View, string) (state.Command, string, error)) error {
	return c.work(func(by string) ([]byte, error) {
		v, err := c.current()
		if err != nil {
			return nil, err
		}
		command, what, err := do(c, v, by)
		if err == nil && !c.dry() {
			err = c.src.Do(c.r.Context(), command)
		}
		if err != nil {
			return nil, c.refusal(err)
		}
		return doneType.AppendJSON(nil, &Done{Done: !c.dry(), What: what, By: by, Withdrawn: c.withdrawn}, nil), nil
	})
}

func bodyOf[T any](c *call) (T, error) {
	var out T
	err := json.Unmarshal(c.body, &out)
	return out, err
}

func (c *call) apply() error {
	return c.work(func(by string) ([]byte, error) {
		v, err := c.current()
		if err != nil {
			return nil, err
		}
		docs, err := c.documents()
		if err != nil {
			return nil, err
		}
		out := AppliedDocuments{Done: !c.dry(), By: by, Withdrawn: []state.Withdrawal{}}
		if c.dry() {
			_, out.Changes, err = v.Rules().Apply(docs, setOf(v), by, c.o.Now())
		} else {
			err = c.src.Do(c.r.Context(), state.ApplyDocuments{Documents: docs, By: by, Changes: &out.Changes, Withdrawn: &out.Withdrawn})
		}
		if err != nil {
			return nil, c.refusal(err)
		}
		return appliedType.AppendJSON(nil, &out, nil), nil
	})
}

func (c *call) documents() (regions.Documents, error) {
	req, err := bodyOf[DocumentsRequest](c)
	if err != nil {
		return regions.Documents{}, err
	}
	docs, err := regions.ParseDocuments(or(req.File, "the file"), []byte(req.Content))
	if err != nil {
		return docs, c.refusal(err)
	}
	return docs, nil
}

func (c *call) testPolicies() error {
	if err := c.read(); err != nil {
		return err
	}
	v, err := c.current()
	if err != nil {
		return err
	}
	docs, err := c.documents()
	if err != nil {
		return err
	}
	by, err := c.by()
	if err != nil {
		return err
	}
	now := c.o.Now()
	after, _, err := v.Rules().Apply(docs, setOf(v), by, now)
	if err != nil {
		return c.refusal(err)
	}
	return c.answer(testedType.AppendJSON(nil, state.TestTrim(v, after, now), nil))
}

func (c *call) explain() error {
	if verb := c.query.Get("verb"); verb != "" && verb != "trim" {
		return problem(http.StatusBadRequest, CodeBadParameter, "verb", "verb=trim is what there is", "verb: %q cannot be explained", verb)
	}
	v, err := c.current()
	if err != nil {
		return err
	}
	e, err := state.ExplainTrim(v, c.name, c.query.Get("region"), c.o.Now())
	if err != nil {
		return c.refusal(err)
	}
	return c.answer(explainedType.AppendJSON(nil, e, nil))
}

// refusal makes a problem of what the rules say no to.
func (c *call) refusal(err error) error {
	if d, ok := errors.AsType[*regions.DocumentError](err); ok {
		p := problem(http.StatusConflict, CodeRejected, d.Field, "nothing was applied; what was in force stays", "%v", d)
		p.Line, p.Column = d.Line, d.Column
		return p
	}
	if p := refusedByRules(err); p != nil {
		return p
	}
	switch {
	case errors.Is(err, state.ErrLineages):
		return problem(http.StatusConflict, CodeLineages, "region", "name one of the regions", "%v", err)
	case errors.Is(err, state.ErrMembership), errors.Is(err, regions.ErrSecondPerson), errors.Is(err, fs.ErrExist):
		return problem(http.StatusConflict, CodeRefused, "", "", "%v", err)
	case errors.Is(err, regions.ErrInvalid):
		return problem(http.StatusBadRequest, CodeBadBody, "", "", "%v", err)
	}
	return err
}
