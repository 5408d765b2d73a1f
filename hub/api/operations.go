package api

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/quarry-db/quarry/hub/query"
	"github.com/quarry-db/quarry/hub/state"
)

// operation is one thing the API can be asked. The same table routes requests
// and makes the OpenAPI document, so neither can forget what the other has.
type operation struct {
	method  string
	path    string // with {name} for one percent-encoded segment
	id      string
	summary string
	doc     string
	params  []*param
	body    *query.Type // what the body holds; nil: none
	limit   int64       // bytes of the body at most; 0: maxBody
	answer  schema      // of a 200
	stream  bool        // the answer is server-sent events
	plain   string      // media type of an answer that is no JSON
	refuses []int
	handle  func(*call) error

	prefix, suffix string // of path, around {name}
	named          bool
}

// param is a query parameter or a header.
type param struct {
	name, doc string
	in        string // "query" or "header"
	kind      string // string, integer, boolean
	example   string
}

func q(name, kind, example, doc string) *param {
	return &param{name: name, in: "query", kind: kind, example: example, doc: doc}
}

var (
	pFilter = q("filter", "string", `region = "eu" AND state = "live"`, "Which rows, in the syntax of AIP-160: = != < <= > >= and : (has), AND, OR, NOT, wildcards in texts, sizes (1GiB), ages (now-10m), null. OR binds tighter than AND.")
	pOrder  = q("order_by", "string", "bytes desc, slate", "Fields to order by, each with asc (default) or desc; null comes last.")
	pSize   = q("page_size", "integer", "50", fmt.Sprintf("Rows in a page; 0 or absent is %d, more than %d gives %d.", query.DefaultPage, query.MaxPage, query.MaxPage))
	pToken  = q("page_token", "string", "", "next_page_token of the page before; only with the same filter and order_by.")
	pFields = q("fields", "string", "", "Names of the fields to show, with dots for nested ones; absent: all.")
	pFresh  = q("require_fresh", "string", "30s", "Refuse (409, not-fresh) when what is known of any region that the answer covers is older.")
	pBy     = q("by", "string", "", "Fields to group by.")
	pAfter  = q("after", "integer", "", "Only events after this number; 410 when some of those are not kept any more.")
	pCursor = q("cursor", "string", "", "Where to go on: the id of the last event received. The header Last-Event-ID does the same and rules.")
	pDry    = q("validate_only", "boolean", "", "Check, and do nothing.")
	hLast   = &param{name: "Last-Event-ID", in: "header", kind: "string", doc: "The id of the last event received."}
	hKey    = &param{name: "Idempotency-Key", in: "header", kind: "string", doc: "The same key gives the same answer for a day, and the work is done once."}
	hBy     = &param{name: "Quarry-By", in: "header", kind: "string", doc: "Who asks, for the record. Believed as it is until there is authentication."}
)

// operations lists everything the API can be asked.
func operations() []*operation {
	var ops []*operation
	for _, r := range resources() {
		ops = append(ops, r.operations()...)
	}
	ops = append(ops, eventOperations(eventRows())...)
	ops = append(ops, actions()...)
	ops = append(ops, ruleOperations()...)
	ops = append(ops, auditOperations()...)
	ops = append(ops, service()...)
	for _, op := range ops {
		op.prefix, op.suffix, op.named = strings.Cut(op.path, "{name}")
	}
	return ops
}

func (r *resource) operations() []*operation {
	title := strings.ReplaceAll(r.name, "-", " ")
	id := strings.ReplaceAll(r.name, "-", "_")
	row := ref(r.typ.Shape.Name)
	ops := []*operation{{
		method: "GET", path: "/v1/" + r.name, id: "list_" + id, summary: "List " + title,
		doc:    r.doc + " Pages are stable while rows change.",
		params: []*param{pFilter, pOrder, pSize, pToken, pFields, pFresh},
		answer: envelope(schema{"items": array(row), "next_page_token": str("Gives the next page; empty: this is the last.")}), refuses: []int{400, 409},
		handle: func(c *call) error { return c.list(r) },
	}, {
		method: "GET", path: "/v1/" + r.name + ":summarize", id: "summarize_" + id, summary: "Count " + title + " by the values of fields",
		params: []*param{pBy, pFilter, pFresh}, answer: envelope(schema{"groups": array(ref("Group"))}), refuses: []int{400, 409},
		handle: func(c *call) error { return c.summarize(r) },
	}, {
		method: "GET", path: "/v1/" + r.name + ":watch", id: "watch_" + id, summary: "Follow " + title, stream: true,
		doc: "Server-sent events with the newest state of rows: first `row` for each, then `bookmark`, then changes as they come. " +
			"`row` {key, item} puts a row, `gone` {key} takes it out, `bookmark` {as_of, unreachable} says that everything up to its id was sent, " +
			"`resync` {reason} says to forget all rows, for all of them follow. Go on later with the last id seen. A filter's ages are counted when a row changes.",
		params: []*param{pFilter, pFields, pCursor, hLast}, refuses: []int{400, 503},
		handle: func(c *call) error { return c.watch(r) },
	}}
	if r.get != nil {
		ops = append(ops, &operation{
			method: "GET", path: "/v1/" + r.name + "/{name}", id: "get_" + r.one, summary: "Get one " + r.one,
			doc:    "The name is percent-encoded: dbs%2Forders.",
			params: []*param{pFields, pFresh}, answer: envelope(schema{"item": row}), refuses: []int{400, 404, 409},
			handle: func(c *call) error { return c.get(r) },
		})
	}
	return ops
}

// call is one request on its way through an operation.
type call struct {
	*API
	op    *operation
	w     http.ResponseWriter
	r     *http.Request
	name  string // of the path's {name}, decoded
	query url.Values
	body  []byte // checked against the operation's type by [call.read]
	// withdrawn is what a command that narrows has withdrawn.
	withdrawn []state.Withdrawal
}

// ServeHTTP routes a request, checks what all requests have in common, and
// turns errors into problems.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := a.o.Now()
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	op, name, err := a.route(r)
	c := &call{API: a, op: op, w: w, r: r, name: name}
	if err == nil {
		err = c.check()
	}
	if err == nil {
		if !op.stream {
			// Not every ResponseWriter has deadlines; those that have none are
			// not on a network.
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeLimit))
		}
		err = op.handle(c)
	}
	status := http.StatusOK
	if err != nil {
		p := a.asProblem(r, err)
		p.write(w)
		status = p.Status
	}
	id := "none"
	if op != nil {
		id = op.id
	}
	a.metrics.answered(id, status, op != nil && op.stream, a.o.Now().Sub(start))
}

// route finds the operation of a request.
func (a *API) route(r *http.Request) (*operation, string, error) {
	path := r.URL.EscapedPath()
	var allowed []string
	var best *operation
	var name string
	for _, op := range a.ops {
		n, ok := op.matches(path)
		if !ok {
			continue
		}
		if op.method == r.Method || op.method == "GET" && r.Method == "HEAD" && !op.stream {
			// A path of its own beats a name; a verb beats a longer name.
			if best == nil || !op.named || best.named && len(op.suffix) > len(best.suffix) {
				best, name = op, n
			}
		} else if !slices.Contains(allowed, op.method) {
			allowed = append(allowed, op.method)
		}
	}
	if best == nil && allowed != nil {
		p := problem(http.StatusMethodNotAllowed, CodeMethod, "", "use "+strings.Join(allowed, " or "), "%s does not take %s", r.URL.Path, r.Method)
		p.header = http.Header{"Allow": allowed}
		return nil, "", p
	}
	if best == nil {
		return nil, "", problem(http.StatusNotFound, CodeNotFound, "", "see /openapi.json for what there is", "there is nothing at %s", r.URL.Path)
	}
	if !best.named {
		return best, "", nil
	}
	dec, err := url.PathUnescape(name)
	if err != nil || dec == "" || !utf8.ValidString(dec) {
		return nil, "", problem(http.StatusBadRequest, CodeBadParameter, "name", "percent-encode it: dbs%2Forders", "the name in the path cannot be understood")
	}
	return best, dec, nil
}

func (op *operation) matches(path string) (name string, ok bool) {
	if !op.named {
		return "", path == op.path
	}
	rest, ok := strings.CutPrefix(path, op.prefix)
	if !ok {
		return "", false
	}
	rest, ok = strings.CutSuffix(rest, op.suffix)
	return rest, ok && rest != "" && !strings.Contains(rest, "/")
}

// crossOrigin refuses writes that a browser sends for another site's page.
var crossOrigin = http.NewCrossOriginProtection()

// check refuses what no operation wants.
func (c *call) check() error {
	if !c.hostAllowed(c.r.Host) {
		return problem(http.StatusMisdirectedRequest, CodeHost, "Host", "use 127.0.0.1 or localhost", "this hub does not answer to %q", c.r.Host)
	}
	if err := crossOrigin.Check(c.r); err != nil {
		return problem(http.StatusForbidden, CodeOrigin, "Origin", "", "%v", err)
	}
	var err error
	if c.query, err = url.ParseQuery(c.r.URL.RawQuery); err != nil {
		return problem(http.StatusBadRequest, CodeBadParameter, "", "percent-encode what is not a letter or digit", "the query cannot be understood: %v", err)
	}
	var known []string
	for _, p := range c.op.params {
		if p.in == "query" {
			known = append(known, p.name)
		}
	}
	for name, vs := range c.query {
		switch {
		case !slices.Contains(known, name):
			hint := "it takes no parameters"
			if len(known) > 0 {
				hint = "it takes " + strings.Join(known, ", ")
			}
			return problem(http.StatusBadRequest, CodeUnknownParam, name, hint, "%s has no parameter %s", c.op.path, name)
		case len(vs) > 1:
			return problem(http.StatusBadRequest, CodeBadParameter, name, "give it once", "%s is there %d times", name, len(vs))
		}
	}
	if c.r.Body != nil {
		c.r.Body = http.MaxBytesReader(c.w, c.r.Body, or(c.op.limit, maxBody))
	}
	return nil
}

func (c *call) number(name string) (n int, err error) {
	s := c.query.Get(name)
	if s == "" {
		return 0, nil
	}
	if n, err = strconv.Atoi(s); err != nil {
		return 0, problem(http.StatusBadRequest, CodeBadParameter, name, "write a whole number", "%s: %q is no number", name, s)
	}
	return n, nil
}

func (c *call) flag(name string) (bool, error) {
	switch s := c.query.Get(name); s {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	default:
		return false, problem(http.StatusBadRequest, CodeBadParameter, name, "write true or false", "%s: %q is neither true nor false", name, s)
	}
}
