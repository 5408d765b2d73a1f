package api

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/quarry-db/quarry/hub/query"
	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// Done is the answer of a write.
type Done struct {
	Done bool   `json:"done" doc:"false: validate_only, it would be done."`
	What string `json:"what" doc:"One sentence."`
	By   string `json:"by" doc:"Whom the record names."`
	// Withdrawn is of what narrows: removing a policy, a freeze.
	Withdrawn []state.Withdrawal `json:"withdrawn,omitempty" doc:"Permits that are forbidden by it from now on, with how far agents had carried them out."`
}

// ForgetRequest names a missing placement to forget.
type ForgetRequest struct {
	Slate  string `json:"slate" doc:"Its name, or its root."`
	Region string `json:"region"`
}

var (
	doneType   = query.TypeOf[Done]("answers", nil, "what")
	forgetType = query.TypeOf[ForgetRequest]("requests", nil, "slate")
)

func actions() []*operation {
	params := []*param{pDry, hKey, hBy}
	return []*operation{{
		method: "POST", path: "/v1/regions/{name}:accept", id: "accept_region", summary: "Accept a region as it is now",
		doc:    "A person's word that a region that came back with another bucket, or with much less in it, is right as it is.",
		params: params, answer: ref("Done"), refuses: []int{400, 403, 404, 409, 422},
		handle: func(c *call) error { return c.act(nil, c.accept) },
	}, {
		method: "POST", path: "/v1/placements:forget", id: "forget_placement", summary: "Forget a missing placement",
		doc:    "Takes out the row of a placement that is missing. Nothing in any bucket is touched.",
		params: params, body: forgetType, answer: ref("Done"), refuses: []int{400, 403, 404, 409, 413, 415, 422},
		handle: func(c *call) error {
			var req ForgetRequest
			return c.act(&req, func(by string) (string, error) { return c.forget(req, by) })
		},
	}}
}

func (c *call) accept(by string) (string, error) {
	v, err := c.current()
	if err != nil {
		return "", err
	}
	r := v.Region(c.name)
	switch {
	case r == nil:
		return "", problem(http.StatusNotFound, CodeNotFound, "name", "", "region %s is not in the region set", c.name)
	case r.State == catalog.RegionConnected,
		c.dry() && r.State != catalog.RegionReset && !strings.HasPrefix(r.Reason, "region-reset"):
		return "", problem(http.StatusConflict, CodeNothingToAccept, "name", "", "region %s is %s, there is nothing to accept", c.name, r.State)
	}
	what := fmt.Sprintf("region %s is accepted as it is now", c.name)
	if c.dry() {
		return what, nil
	}
	return what, c.src.AcceptRegion(c.r.Context(), c.name, by)
}

func (c *call) forget(req ForgetRequest, by string) (string, error) {
	for _, f := range []struct{ name, value string }{{"slate", req.Slate}, {"region", req.Region}} {
		if f.value == "" {
			return "", problem(http.StatusBadRequest, CodeBadBody, f.name, `for example {"slate":"dbs/orders","region":"eu"}`, "%s is missing", f.name)
		}
	}
	v, err := c.current()
	if err != nil {
		return "", err
	}
	var known, missing *catalog.Placement
	look := func(p *catalog.Placement) {
		if p != nil && p.Region == req.Region {
			known = p
			if p.State == catalog.StateMissing || p.Seen == catalog.SeenMissing {
				missing = p
			}
		}
	}
	look(v.Placement(req.Region, req.Slate))
	for p := range v.PlacementsOf(req.Slate) {
		look(p)
	}
	switch {
	case known == nil:
		return "", problem(http.StatusNotFound, CodeNotFound, "slate", "", "there is no placement of %s in %s", req.Slate, req.Region)
	case missing == nil:
		return "", problem(http.StatusConflict, CodeNotMissing, "slate", "a placement that is there or may be there is kept", "%s in %s is %s", req.Slate, req.Region, known.State)
	}
	what := fmt.Sprintf("the missing placement of %s in %s is forgotten", req.Slate, req.Region)
	if c.dry() {
		return what, nil
	}
	return what, c.src.Forget(c.r.Context(), req.Region, req.Slate, by)
}

func (c *call) dry() bool { return c.query.Get("validate_only") == "true" }

// by is whom the record names: what the caller says of itself, or where it
// came from. What is said and cannot be a name is refused.
func (c *call) by() (string, error) {
	said := c.r.Header.Values("Quarry-By")
	if len(said) == 0 || len(said) == 1 && said[0] == "" {
		host, _, err := net.SplitHostPort(c.r.RemoteAddr)
		if err != nil {
			host = "this machine"
		}
		return "somebody at " + host, nil
	}
	if len(said) > 1 || len(said[0]) > 256 || catalog.CheckName(said[0]) != nil {
		return "", problem(http.StatusBadRequest, CodeBadParameter, "Quarry-By", "one name of at most 256 bytes that can be printed", "%.300q names nobody", said)
	}
	return said[0], nil
}

// named refuses callers that do not say who they are: where the word of two
// people is needed, nobody counts as somebody else.
func (c *call) named() error {
	if c.r.Header.Get("Quarry-By") != "" {
		return nil
	}
	return problem(http.StatusBadRequest, CodeBadParameter, "Quarry-By", "say who you are in the header Quarry-By", "this needs the word of two people, and who asks is not said")
}

// act reads the body, does the work once for each idempotency key, and
// answers.
func (c *call) act(body any, work func(by string) (string, error)) error {
	if _, err := c.flag("validate_only"); err != nil {
		return err
	}
	raw, err := c.readBody(body)
	if err != nil {
		return err
	}
	return c.onlyOnce(raw, func(by string) ([]byte, error) {
		what, err := work(by)
		if err != nil {
			return nil, err
		}
		return doneType.AppendJSON(nil, &Done{Done: !c.dry(), What: what, By: by}, nil), nil
	})
}

// work is [call.act] for work that makes its own answer; the body was checked
// to fit the operation's type, and is in c.body.
func (c *call) work(do func(by string) ([]byte, error)) error {
	if _, err := c.flag("validate_only"); err != nil {
		return err
	}
	if err := c.read(); err != nil {
		return err
	}
	return c.onlyOnce(c.body, do)
}

// read reads the body strictly, by the operation's type.
func (c *call) read() (err error) {
	c.body, err = c.readBody(c.op.body.New())
	return err
}

// onlyOnce does the work once for each idempotency key, and answers.
func (c *call) onlyOnce(raw []byte, work func(by string) ([]byte, error)) error {
	by, err := c.by()
	if err != nil {
		return err
	}
	do := func() ([]byte, error) { return work(by) }
	key := c.r.Header.Get("Idempotency-Key")
	if key == "" {
		b, err := do()
		if err != nil {
			return err
		}
		return c.answer(b)
	}
	if len(key) > 256 {
		return problem(http.StatusBadRequest, CodeBadParameter, "Idempotency-Key", "use a UUID or a ULID", "a key of %d bytes, at most 256", len(key))
	}
	request := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%t\x00%s\x00%s", c.op.id, c.name, c.dry(), by, raw))
	b, err := c.once.do(key, request, do)
	if err != nil {
		return err
	}
	return c.answer(b)
}

// readBody reads JSON strictly; into nil means that none is wanted, and an
// empty object is all right.
func (c *call) readBody(into any) ([]byte, error) {
	raw, err := io.ReadAll(c.r.Body)
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return nil, problem(http.StatusRequestEntityTooLarge, CodeBadBody, "", "", "a body of more than %d bytes", or(c.op.limit, maxBody))
	}
	if err != nil {
		return nil, problem(http.StatusBadRequest, CodeBadBody, "", "", "read the body: %v", err)
	}
	if len(bytes.TrimSpace(raw)) == 0 && into == nil {
		return nil, nil
	}
	if t, _, err := mime.ParseMediaType(c.r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return nil, problem(http.StatusUnsupportedMediaType, CodeBadBody, "Content-Type", "send application/json", "a body of type %q", c.r.Header.Get("Content-Type"))
	}
	if into == nil {
		into = &struct{}{}
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return nil, problem(http.StatusBadRequest, CodeBadBody, "", "see /openapi.json", "the body: %v", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, problem(http.StatusBadRequest, CodeBadBody, "", "send one JSON object", "something follows the body's object")
	}
	return raw, nil
}

// onces remembers what was answered to which idempotency key, so that a
// request sent again after a lost answer does its work once. It is memory of
// this process: after a restart the rules themselves refuse a second time.
type onces struct {
	now  func() time.Time
	mu   sync.Mutex
	keys map[string]*once
	fifo []string
}

type once struct {
	mu      sync.Mutex // held while the work is done
	request [32]byte
	at      time.Time
	done    bool
	answer  []byte
	err     error
}

const (
	onceFor  = 24 * time.Hour
	maxOnces = 10_000
)

func newOnces(now func() time.Time) *onces { return &onces{now: now, keys: map[string]*once{}} }

func (o *onces) do(key string, request [32]byte, work func() ([]byte, error)) ([]byte, error) {
	o.mu.Lock()
	e := o.keys[key]
	if e == nil || o.now().Sub(e.at) > onceFor {
		if e == nil {
			o.fifo = append(o.fifo, key)
		}
		e = &once{request: request, at: o.now()}
		o.keys[key] = e
		if len(o.fifo) > maxOnces {
			delete(o.keys, o.fifo[0])
			o.fifo = o.fifo[1:]
		}
	}
	o.mu.Unlock()
	if e.request != request {
		return nil, problem(http.StatusUnprocessableEntity, CodeKeyReused, "Idempotency-Key", "use a new key for a new request", "the key %q was used for another request", key)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.done {
		return e.answer, e.err
	}
	e.answer, e.err = work()
	// What failed on our side may be tried again with the same key.
	p, refused := errors.AsType[*Problem](e.err)
	e.done = e.err == nil || refused && p.Status < 500
	return e.answer, e.err
}
