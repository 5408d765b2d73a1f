// Package apiclient speaks to the hub's web API for the command line and for
// other Go programs: lists that stream page after page, watches that go on
// after a broken connection, and refusals as values. It knows no rows: they
// are JSON, decoded into whatever the caller has (the types of pkg/catalog
// fit).
//
// Begin with [New] and [Client.List].
package apiclient

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// ErrUnreachable is wrapped by every error that says that no hub answered.
var ErrUnreachable = errors.New("hub unreachable")

// Problem is a refusal by the hub (RFC 9457). A 404 is also fs.ErrNotExist to
// errors.Is.
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Code   string `json:"code"` // "bad-filter", "not-found", "not-fresh", …
	Field  string `json:"field"`
	Line   int    `json:"line"` // of a file, of policy-rejected
	Column int    `json:"column"`
	Caret  string `json:"caret"` // two lines: what was given, and a caret below
	Hint   string `json:"hint"`
	// Regions are those that are not fresh enough, of not-fresh.
	Regions []RegionAge `json:"regions"`
	// Reasons are the facts that hold it back, of refused.
	Reasons []struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"reasons"`
}

// RegionAge says how old what the hub knows of a region is; AgeMS is nil when
// it was not heard since the hub started.
type RegionAge struct {
	Name  string `json:"name"`
	State string `json:"state"`
	AgeMS *int64 `json:"age_ms"`
}

// Error is the detail, and the hint after a semicolon.
func (p *Problem) Error() string {
	if p.Hint == "" {
		return p.Detail
	}
	return p.Detail + "; " + p.Hint
}

// Is makes a 404 fs.ErrNotExist.
func (p *Problem) Is(target error) bool {
	return target == fs.ErrNotExist && p.Status == http.StatusNotFound
}

// Options of a client; the zero value works.
type Options struct {
	// HTTP sends requests; nil: a client of its own. Its Timeout must be 0, or
	// watches end by it; give contexts deadlines instead.
	HTTP *http.Client
	// AnswerWithin is how long the hub may take to begin an answer; 0: a
	// minute. It counts only when HTTP is nil. A watch may last.
	AnswerWithin time.Duration
	// By is whom writes are recorded under.
	By string
}

// Client speaks to one hub. Any number of goroutines may use it.
type Client struct {
	base string
	o    Options
}

// New makes a client of the hub at a URL such as http://127.0.0.1:7700; it
// connects to nothing yet. HOST:PORT alone is taken as http.
func New(hub string, o Options) (*Client, error) {
	if !strings.Contains(hub, "://") {
		hub = "http://" + hub
	}
	u, err := url.Parse(hub)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("hub %q is no URL of a hub: write for example http://127.0.0.1:7700", hub)
	}
	if o.HTTP == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.ResponseHeaderTimeout = cmp.Or(o.AnswerWithin, time.Minute)
		o.HTTP = &http.Client{Transport: t}
	}
	return &Client{base: strings.TrimRight(hub, "/"), o: o}, nil
}

// Freshness is how current each region is that an answer covers.
type Freshness struct {
	AsOf        map[string]catalog.Freshness `json:"as_of"`
	Unreachable []string                     `json:"unreachable"`
	// NotDeciding says why this hub decides nothing; empty: it decides.
	NotDeciding string `json:"not_deciding,omitempty"`
}

// Query is what is asked of a list. The zero value asks for everything.
type Query struct {
	Filter       string
	OrderBy      string
	Fields       string
	RequireFresh time.Duration // 0: not required
	PageSize     int           // 0: as large as the hub gives
	Limit        int           // rows in all; 0: all
	After        uint64        // events only: those after this number; 0: all that are kept
}

func (q Query) values() url.Values {
	v := url.Values{}
	set := func(name, value string) {
		if value != "" {
			v.Set(name, value)
		}
	}
	set("filter", q.Filter)
	set("order_by", q.OrderBy)
	set("fields", q.Fields)
	if q.RequireFresh > 0 {
		set("require_fresh", q.RequireFresh.String())
	}
	if q.After > 0 {
		set("after", strconv.FormatUint(q.After, 10))
	}
	return v
}

// Listing is a list being read. One goroutine may use it.
type Listing struct {
	// Freshness is that of the last page read.
	Freshness
	c        *Client
	ctx      context.Context
	resource string
	q        Query
}

// maxPage is the hub's largest page.
const maxPage = 1000

// List begins a list of "slates", "placements", "events" and so on; nothing
// is asked before [Listing.Rows].
func (c *Client) List(ctx context.Context, resource string, q Query) *Listing {
	return &Listing{c: c, ctx: ctx, resource: resource, q: q}
}

// Rows reads page after page and yields each row as JSON; the row is the
// caller's. An error ends it. It may be ranged over again, and asks again.
func (l *Listing) Rows() iter.Seq2[json.RawMessage, error] {
	return func(yield func(json.RawMessage, error) bool) {
		v, left := l.q.values(), l.q.Limit
		for {
			size := l.q.PageSize
			if size <= 0 || size > maxPage {
				size = maxPage
			}
			if left > 0 {
				size = min(size, left)
			}
			v.Set("page_size", strconv.Itoa(size))
			var page struct {
				Items []json.RawMessage `json:"items"`
				Next  string            `json:"next_page_token"`
				Freshness
			}
			if err := l.c.get(l.ctx, "/v1/"+l.resource+"?"+v.Encode(), &page); err != nil {
				yield(nil, err)
				return
			}
			l.Freshness = page.Freshness
			for _, row := range page.Items {
				if !yield(row, nil) {
					return
				}
			}
			if left > 0 {
				if left -= len(page.Items); left <= 0 {
					return
				}
			}
			if page.Next == "" {
				return
			}
			v.Set("page_token", page.Next)
		}
	}
}

// All reads a whole list into rows of one type.
func All[T any](l *Listing) ([]T, error) {
	var out []T
	for raw, err := range l.Rows() {
		if err != nil {
			return out, err
		}
		var row T
		if err := json.Unmarshal(raw, &row); err != nil {
			return out, fmt.Errorf("%s: a row: %w", l.resource, err)
		}
		out = append(out, row)
	}
	return out, nil
}

// Get reads one row by its name into a row of the caller's type. fields may
// be empty.
func (c *Client) Get(ctx context.Context, resource, name, fields string, into any) (Freshness, error) {
	path := "/v1/" + resource + "/" + url.PathEscape(name)
	if fields != "" {
		path += "?fields=" + url.QueryEscape(fields)
	}
	var got struct {
		Item json.RawMessage `json:"item"`
		Freshness
	}
	if err := c.get(ctx, path, &got); err != nil {
		return Freshness{}, err
	}
	if err := json.Unmarshal(got.Item, into); err != nil {
		return got.Freshness, fmt.Errorf("%s %s: %w", resource, name, err)
	}
	return got.Freshness, nil
}

// Group is one group of a summary: the values grouped by, by the names of
// their fields, with count, bytes (null when none is known), and so on. Numbers
// are [json.Number].
type Group map[string]any

// Summarize counts rows by the values of fields, such as "region,kind". Of the
// query Filter, RequireFresh and After count.
func (c *Client) Summarize(ctx context.Context, resource, by string, q Query) ([]Group, Freshness, error) {
	q.OrderBy, q.Fields = "", ""
	v := q.values()
	v.Set("by", by)
	var got struct {
		Groups []Group `json:"groups"`
		Freshness
	}
	err := c.get(ctx, "/v1/"+resource+":summarize?"+v.Encode(), &got)
	return got.Groups, got.Freshness, err
}

// Done is what the hub answers to a write.
type Done struct {
	Done bool   `json:"done"` // false: only checked
	What string `json:"what"`
	By   string `json:"by"`
	// Withdrawn are permits that are forbidden by it from now on.
	Withdrawn []Withdrawal `json:"withdrawn,omitempty"`
}

// Accept says that a region is right as it is now. dry only checks. key makes
// a repeated call do its work once; empty: every call counts.
func (c *Client) Accept(ctx context.Context, region, key string, dry bool) (Done, error) {
	return c.say(ctx, "/v1/regions/"+url.PathEscape(region)+":accept", struct{}{}, key, dry)
}

// Forget takes a missing placement out of the inventory. dry and key as in
// [Client.Accept].
func (c *Client) Forget(ctx context.Context, slate, region, key string, dry bool) (Done, error) {
	return c.say(ctx, "/v1/placements:forget", map[string]string{"slate": slate, "region": region}, key, dry)
}

func (c *Client) get(ctx context.Context, path string, into any) error {
	res, err := c.do(ctx, http.MethodGet, path, http.Header{}, nil)
	if err != nil {
		return err
	}
	return decode(res, path, into)
}

func decode(res *http.Response, path string, into any) error {
	defer res.Body.Close()
	d := json.NewDecoder(res.Body)
	d.UseNumber()
	if err := d.Decode(into); err != nil {
		if isJSON(err) {
			return fmt.Errorf("%s: this is no hub's answer: %w", path, err)
		}
		return fmt.Errorf("%s: the answer broke off: %w: %w", path, ErrUnreachable, err)
	}
	return nil
}

func isJSON(err error) bool {
	_, syntax := errors.AsType[*json.SyntaxError](err)
	_, typ := errors.AsType[*json.UnmarshalTypeError](err)
	return syntax || typ
}

// do sends a request; an answer that is not 200 is a [*Problem].
func (c *Client) do(ctx context.Context, method, path string, h http.Header, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, fmt.Errorf("%s%s: %w", c.base, path, err)
	}
	req.Header = h
	res, err := c.o.HTTP.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%s: %w", c.base, context.Cause(ctx))
		}
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err
		}
		// net/http gives no error to ask for this but its text: a port that
		// speaks first and speaks no HTTP/1, as the agents' does.
		if strings.Contains(err.Error(), "malformed HTTP response") {
			return nil, fmt.Errorf("%w at %s: what answers there is no web API (it may be a hub's port for agents)", ErrUnreachable, c.base)
		}
		return nil, fmt.Errorf("%w at %s: %w", ErrUnreachable, c.base, err)
	}
	if res.StatusCode == http.StatusOK {
		return res, nil
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	var p Problem
	if json.Unmarshal(b, &p) != nil || p.Code == "" {
		return nil, fmt.Errorf("%w at %s: something answers there with %s, and it is no hub", ErrUnreachable, c.base, res.Status)
	}
	if err != nil {
		return nil, fmt.Errorf("%w at %s: %w", ErrUnreachable, c.base, err)
	}
	return nil, &p
}
