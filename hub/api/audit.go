package api

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"strconv"

	"github.com/quarry-db/quarry/hub/query"
	"github.com/quarry-db/quarry/hub/state"
)

// Ledger is what the API needs of the hub's ledger. All methods may be called
// by many at once.
type Ledger interface {
	// Deciding says why the hub decides nothing; nil: it decides.
	Deciding() error
	// Audit reads the audit's records after a number, in order, from the store.
	Audit(ctx context.Context, after uint64) iter.Seq2[state.Record, error]
	// AuditHead is the end of the audit as the hub made it durable.
	AuditHead() state.AuditHead
}

// AuditRow is an entry of the audit as the ledger holds it.
type AuditRow struct {
	state.AuditEntry
	Hash string `json:"hash" doc:"SHA-256 of the entry, in hex; the next one holds it."`
}

// audited is a part of the audit.
type audited struct {
	Items []AuditRow      `json:"items"`
	Head  state.AuditHead `json:"head"`
	Next  uint64          `json:"next_after,omitempty"`
}

var (
	auditRowType     = query.TypeOf[AuditRow]("audit", nil, "number")
	auditHeadType    = query.TypeOf[state.AuditHead]("audit", nil, "number")
	auditProblemType = query.TypeOf[state.AuditProblem]("audit", nil, "number")
)

const (
	auditPage = 1000
	auditMost = 1_000_000 // entries that are verified at once
)

func auditOperations() []*operation {
	return []*operation{{
		method: "GET", path: "/v1/audit", id: "list_audit", summary: "List the audit",
		doc: "Who did what, when and why: numbered without gaps, each entry with the hash of the one before. An entry that cannot be read is left out; audit:verify names it.",
		params: []*param{q("after", "integer", "", "Only entries after this number."), q("since", "string", "24h", "Only entries younger than this."),
			q("of", "string", "decision/6f1c1c3e-9d1e-4c8c-9a50-0b6a3c1b0001", "Only entries about this."),
			q("page_size", "integer", "50", fmt.Sprintf("Entries in a page; 0 or absent is %d, and more gives as many.", auditPage))},
		answer: schema{"type": "object", "required": []string{"items", "head"}, "properties": schema{
			"items": array(ref("AuditRow")), "head": ref("AuditHead"),
			"next_after": schema{"type": "integer", "minimum": 0, "description": "after= of the next page; absent: this is the last."},
		}}, refuses: []int{400, 503},
		handle: func(c *call) error { return c.audit() },
	}, {
		method: "GET", path: "/v1/audit:verify", id: "verify_audit", summary: "Verify the audit",
		doc:    "Reads all of it from the store and names entries that were edited, are missing or stand in another's place, up to the newest that this hub recorded.",
		params: []*param{q("head", "string", "17:9f86d0…", "number:hash that was kept earlier: the entry must still be that one.")},
		answer: schema{"type": "object", "required": []string{"entries", "head", "problems"}, "properties": schema{
			"entries": schema{"type": "integer", "minimum": 0}, "head": ref("AuditHead"), "problems": array(ref("AuditProblem")),
		}}, refuses: []int{400, 503},
		handle: func(c *call) error { return c.verifyAudit() },
	}}
}

func (c *call) ledger() (Ledger, error) {
	if c.o.Ledger != nil {
		return c.o.Ledger, nil
	}
	return nil, problem(http.StatusServiceUnavailable, CodeNotReady, "", "ask a hub", "there is no ledger here")
}

// reply answers with a value of plain fields.
func (c *call) reply(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	return c.answer(b)
}

func (c *call) audit() error {
	l, err := c.ledger()
	if err != nil {
		return err
	}
	size, err := c.number("page_size")
	if err != nil {
		return err
	}
	if size <= 0 || size > auditPage {
		size = auditPage
	}
	var after uint64
	if s := c.query.Get("after"); s != "" {
		if after, err = strconv.ParseUint(s, 10, 64); err != nil {
			return problem(http.StatusBadRequest, CodeBadParameter, "after", "write the number of an entry", "after: %q is no number of an entry", s)
		}
	}
	from := c.o.Now()
	if s := c.query.Get("since"); s != "" {
		d, ok := query.ParseAge(s)
		if !ok {
			return problem(http.StatusBadRequest, CodeBadParameter, "since", "for example 24h or 7d", "since: %q is no age", s)
		}
		from = from.Add(-d)
	} else {
		from = from.AddDate(-1000, 0, 0)
	}
	of := c.query.Get("of")
	out := audited{Items: []AuditRow{}, Head: l.AuditHead()}
	for rec, err := range l.Audit(c.r.Context(), after) {
		if err != nil {
			return err
		}
		n, err := state.AuditNumber(rec.Key)
		if err != nil {
			continue
		}
		e, err := state.DecodeAudit(rec.Value)
		if err != nil || e.At.Before(from) || of != "" && e.Of != of {
			continue
		}
		if len(out.Items) == size {
			break
		}
		out.Items = append(out.Items, AuditRow{e, e.Hash()})
		if len(out.Items) == size {
			out.Next = n
		}
	}
	if out.Next >= out.Head.Number {
		out.Next = 0
	}
	return c.reply(out)
}

func (c *call) verifyAudit() error {
	l, err := c.ledger()
	if err != nil {
		return err
	}
	head := l.AuditHead() // before reading: what comes meanwhile is not missing
	kept := state.AuditHead{}
	if s := c.query.Get("head"); s != "" {
		if kept, err = state.ParseAuditHead(s); err != nil {
			return problem(http.StatusBadRequest, CodeBadParameter, "head", "give what `quarry audit --verify` printed", "head: %v", err)
		}
	}
	var all []state.Record
	for rec, err := range l.Audit(c.r.Context(), 0) {
		if err != nil {
			return err
		}
		if n, err := state.AuditNumber(rec.Key); err == nil && n > head.Number {
			break
		}
		if all = append(all, rec); len(all) > auditMost {
			return problem(http.StatusServiceUnavailable, CodeNotReady, "", "read the ledger's slate itself: quarry audit --verify --store URL", "the audit has more than %d entries", auditMost)
		}
	}
	report := state.VerifyAudit(all, head)
	if kept.Number > 0 {
		report.Problems = append(report.Problems, state.VerifyAudit(all, kept).Problems...)
		report.Problems = unique(report.Problems)
	}
	return c.reply(report)
}

func unique(in []state.AuditProblem) []state.AuditProblem {
	out, seen := []state.AuditProblem{}, map[state.AuditProblem]bool{}
	for _, p := range in {
		if !seen[p] {
			seen[p] = true
			out = append(out, p)
		}
	}
	return out
}

// idle says why the hub decides nothing; empty: it decides.
func (a *API) idle() string {
	if a.o.Ledger == nil {
		return ""
	}
	if err := a.o.Ledger.Deciding(); err != nil {
		return err.Error()
	}
	return ""
}
