package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"

	"github.com/quarry-db/quarry/hub/ledger"
	"github.com/quarry-db/quarry/hub/query"
	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// Problem is an RFC 9457 problem: what every refusal looks like.
type Problem struct {
	Type   string `json:"type" doc:"urn:quarry:problem:CODE."`
	Title  string `json:"title" doc:"What kind of problem, in words."`
	Status int    `json:"status" doc:"The HTTP status."`
	Detail string `json:"detail" doc:"What is wrong with this request."`
	Code   string `json:"code" doc:"Stable name of the kind of problem, for programs."`
	Field  string `json:"field,omitempty" doc:"The parameter or field that is wrong."`
	Line   int    `json:"line,omitempty" doc:"policy-rejected: where in the file, 1-based."`
	Column int    `json:"column,omitempty" doc:"Where in the field or line, 1-based, in characters."`
	Caret  string `json:"caret,omitempty" doc:"The field's value and, on a second line, a caret under the column."`
	Hint   string `json:"hint,omitempty" doc:"What to do."`
	// Regions explains not-fresh.
	Regions []RegionAge `json:"regions,omitempty" doc:"not-fresh: the regions that are not fresh enough."`
	// Reasons explain refused.
	Reasons []catalog.Reason `json:"reasons,omitempty" doc:"refused: the facts that hold it back, in the codes of the rules."`

	header http.Header
}

// RegionAge says how old what we know of a region is.
type RegionAge struct {
	Name  string `json:"name"`
	State string `json:"state"`
	AgeMS *int64 `json:"age_ms" doc:"null: not heard since this hub started."`
}

func (p *Problem) Error() string { return p.Detail }

// The codes of problems. They never change their meaning.
const (
	CodeBadFilter       = "bad-filter"
	CodeBadOrder        = "bad-order"
	CodeBadFields       = "bad-fields"
	CodeBadPageToken    = "bad-page-token"
	CodeBadCursor       = "bad-cursor"
	CodeBadParameter    = "bad-parameter"
	CodeUnknownParam    = "unknown-parameter"
	CodeBadBody         = "bad-body"
	CodeNotFound        = "not-found"
	CodeMethod          = "method-not-allowed"
	CodeNotFresh        = "not-fresh"
	CodeEventsGone      = "events-gone"
	CodeNothingToAccept = "nothing-to-accept"
	CodeNotMissing      = "not-missing"
	CodeKeyReused       = "idempotency-key-reused"
	CodeHost            = "host-refused"
	CodeOrigin          = "cross-origin-refused"
	CodeTooMany         = "too-many-watchers"
	CodeNotReady        = "not-ready"
	CodeTimeout         = "timed-out"
	CodeNotDeciding     = "not-deciding"
	CodeInternal        = "internal"
	CodeRejected        = "policy-rejected"
	CodeLineages        = "several-lineages"
	CodeRefused         = "refused"
	CodePlanExpired     = "plan-expired"
	CodeBreakerOpen     = "breaker-open"
)

var titles = map[string]string{
	CodeBadFilter:       "The filter cannot be understood",
	CodeBadOrder:        "The order cannot be understood",
	CodeBadFields:       "A field to show is not known",
	CodeBadPageToken:    "The page token does not belong here",
	CodeBadCursor:       "The cursor does not belong here",
	CodeBadParameter:    "A parameter has a value that cannot be",
	CodeUnknownParam:    "A parameter is not known",
	CodeBadBody:         "The body cannot be understood",
	CodeNotFound:        "There is no such thing",
	CodeMethod:          "The method is not allowed here",
	CodeNotFresh:        "A region is not fresh enough",
	CodeEventsGone:      "The events after that number are not kept any more",
	CodeNothingToAccept: "There is nothing to accept",
	CodeNotMissing:      "Only a missing placement can be forgotten",
	CodeKeyReused:       "The idempotency key was used for another request",
	CodeHost:            "The request is addressed to another host",
	CodeOrigin:          "Another web site may not write here",
	CodeTooMany:         "Too many streams are open",
	CodeNotReady:        "The hub has not loaded its view yet",
	CodeTimeout:         "The hub did not answer in time",
	CodeNotDeciding:     "This hub does not decide",
	CodeInternal:        "The hub failed",
	CodeRejected:        "The documents are refused as a whole",
	CodeLineages:        "The name means several databases",
	CodeRefused:         "A rule does not allow it",
	CodePlanExpired:     "What was planned is not what is found now",
	CodeBreakerOpen:     "The breaker is open",
}

func problem(status int, code, field, hint, format string, args ...any) *Problem {
	return &Problem{Type: "urn:quarry:problem:" + code, Title: titles[code], Status: status, Code: code, Field: field, Hint: hint, Detail: fmt.Sprintf(format, args...)}
}

// codes of refused parts of queries.
var queryCodes = map[string]string{"filter": CodeBadFilter, "order_by": CodeBadOrder, "fields": CodeBadFields, "page_token": CodeBadPageToken}

// asProblem makes a problem of any error a handler returns.
func (a *API) asProblem(r *http.Request, err error) *Problem {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p
	}
	if q, ok := errors.AsType[*query.Error](err); ok {
		p := problem(http.StatusBadRequest, or(queryCodes[q.Param], CodeBadParameter), q.Param, q.Hint, "%s", q.Msg)
		p.Column, p.Caret = q.Column, q.Caret()
		return p
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return problem(http.StatusNotFound, CodeNotFound, "", "", "%v", err)
	case errors.Is(err, state.ErrNothingToAccept):
		return problem(http.StatusConflict, CodeNothingToAccept, "", "", "%v", err)
	case errors.Is(err, state.ErrNotMissing):
		return problem(http.StatusConflict, CodeNotMissing, "", "", "%v", err)
	case errors.Is(err, ledger.ErrNotDeciding), errors.Is(err, state.ErrNotDeciding), errors.Is(err, ledger.ErrUnknown):
		return problem(http.StatusServiceUnavailable, CodeNotDeciding, "", "nothing was done, unless it says that this is not known", "%v", err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), r.Context().Err() != nil:
		return problem(http.StatusServiceUnavailable, CodeTimeout, "", "try again", "%v", err)
	}
	a.o.Log.Error("web API", "method", r.Method, "path", r.URL.Path, "err", err)
	return problem(http.StatusInternalServerError, CodeInternal, "", "the hub's log says more", "%v", err)
}

func (p *Problem) write(w http.ResponseWriter) {
	b, err := json.Marshal(p)
	if err != nil {
		panic("api: problem: " + err.Error()) // plain fields always marshal
	}
	h := w.Header()
	for k, v := range p.header {
		h[k] = v
	}
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(p.Status)
	_, _ = w.Write(append(b, '\n')) // whoever asked may be gone
}
