package apiclient

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
)

// DocumentChange is what became of one applied document.
type DocumentChange struct {
	Kind     string `json:"kind"` // Policy or Hold
	Name     string `json:"name"`
	Revision uint64 `json:"revision"`
	Change   string `json:"change"` // created, configured, unchanged
}

// Applied is the answer to a file of documents.
type Applied struct {
	Done    bool             `json:"done"` // false: only checked
	By      string           `json:"by"`
	Changes []DocumentChange `json:"changes"`
	// Withdrawn are the permits that the documents forbid from now on.
	Withdrawn []Withdrawal `json:"withdrawn"`
}

// Withdrawal is a permit that may not be any more.
type Withdrawal struct {
	Slate     string  `json:"slate"`
	Region    string  `json:"region"`
	Permit    string  `json:"permit"`     // the decision that had permitted it
	Stage     string  `json:"stage"`      // how far that had come; done: an owner may have acted by it
	UpTo      uint64  `json:"up_to"`      // inclusive
	TrimmedTo *uint64 `json:"trimmed_to"` // nil: not known
	Decision  string  `json:"decision"`   // that withdraws it; empty: it had not left the hub
}

// Apply puts the policies and holds of a file in force, all of them or none;
// file is what it is called in messages. dry only checks. key makes a repeated
// call do its work once; empty: every call counts.
func (c *Client) Apply(ctx context.Context, file, content, key string, dry bool) (Applied, error) {
	var out Applied
	err := c.tell(ctx, "/v1/documents:apply", map[string]string{"file": file, "content": content}, key, dry, &out)
	return out, err
}

// TestPolicies compares the verdicts under the documents of a file with those
// in force, and reads the answer into the caller's value.
func (c *Client) TestPolicies(ctx context.Context, file, content string, into any) error {
	return c.tell(ctx, "/v1/policies:test", map[string]string{"file": file, "content": content}, "", false, into)
}

// Explain reads the verdict on a verb ("trim") and a slate into the caller's
// value. region says which database is meant where several have the name;
// empty: there is one.
func (c *Client) Explain(ctx context.Context, verb, slate, region string, into any) error {
	q := url.Values{"verb": {verb}}
	if region != "" {
		q.Set("region", region)
	}
	return c.get(ctx, "/v1/slates/"+url.PathEscape(slate)+":explain?"+q.Encode(), into)
}

// Trims reads the sums over all slates that any policy selects into the
// caller's value.
func (c *Client) Trims(ctx context.Context, into any) error {
	return c.get(ctx, "/v1/trims:summarize", into)
}

// RemovePolicy takes a policy out of force. dry and key as in [Client.Apply].
func (c *Client) RemovePolicy(ctx context.Context, name, why, key string, dry bool) (Done, error) {
	return c.say(ctx, "/v1/policies/"+url.PathEscape(name)+":remove", map[string]string{"why": why}, key, dry)
}

// Release ends a hold, or asks for it where two people have to. dry and key as
// in [Client.Apply].
func (c *Client) Release(ctx context.Context, hold, why, key string, dry bool) (Done, error) {
	return c.say(ctx, "/v1/holds/"+url.PathEscape(hold)+":release", map[string]string{"why": why}, key, dry)
}

// Freeze stops everything irreversible in a scope: all, region/NAME or
// slate/NAME. dry and key as in [Client.Apply].
func (c *Client) Freeze(ctx context.Context, scope, why, key string, dry bool) (Done, error) {
	return c.say(ctx, "/v1/freezes:freeze", map[string]string{"scope": scope, "why": why}, key, dry)
}

// Thaw ends a freeze of exactly that scope. dry and key as in [Client.Apply].
func (c *Client) Thaw(ctx context.Context, scope, why, key string, dry bool) (Done, error) {
	return c.say(ctx, "/v1/freezes:thaw", map[string]string{"scope": scope, "why": why}, key, dry)
}

// JoinRegion takes a region into the set; as is "joining", or "active" for one
// that is joining. dry and key as in [Client.Apply].
func (c *Client) JoinRegion(ctx context.Context, name, as, key string, dry bool) (Done, error) {
	return c.say(ctx, "/v1/regions/"+url.PathEscape(name)+":join", map[string]string{"as": as}, key, dry)
}

// RetireRegion has a region agree to nothing any more. dry and key as in
// [Client.Apply].
func (c *Client) RetireRegion(ctx context.Context, name, why, key string, dry bool) (Done, error) {
	return c.say(ctx, "/v1/regions/"+url.PathEscape(name)+":retire", map[string]string{"why": why}, key, dry)
}

func (c *Client) say(ctx context.Context, path string, body any, key string, dry bool) (Done, error) {
	var out Done
	err := c.tell(ctx, path, body, key, dry, &out)
	return out, err
}

// tell posts a body and reads the answer.
func (c *Client) tell(ctx context.Context, path string, body any, key string, dry bool, into any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if dry {
		path += "?validate_only=true"
	}
	h := http.Header{"Content-Type": {"application/json"}}
	if key != "" {
		h.Set("Idempotency-Key", key)
	}
	if c.o.By != "" {
		h.Set("Quarry-By", c.o.By)
	}
	res, err := c.do(ctx, http.MethodPost, path, h, bytes.NewReader(b))
	if err != nil {
		return err
	}
	return decode(res, path, into)
}
