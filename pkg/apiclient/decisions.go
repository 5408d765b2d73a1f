package apiclient

import (
	"context"
	"encoding/json"
	"net/url"
)

// Approve agrees to a decision that needs more than one person; id is its whole
// id. dry and key as in [Client.Apply].
func (c *Client) Approve(ctx context.Context, id, why, key string, dry bool) (Done, error) {
	return c.say(ctx, "/v1/decisions/"+url.PathEscape(id)+":approve", map[string]string{"why": why}, key, dry)
}

// RefuseDecision ends a decision that was not sent yet; see [Client.Approve].
func (c *Client) RefuseDecision(ctx context.Context, id, why, key string, dry bool) (Done, error) {
	return c.say(ctx, "/v1/decisions/"+url.PathEscape(id)+":refuse", map[string]string{"why": why}, key, dry)
}

// Breaker reads how the breaker stands into the caller's value.
func (c *Client) Breaker(ctx context.Context, into any) error { return c.get(ctx, "/v1/breaker", into) }

// CloseBreaker is a person's word that so many slates are meant. dry and key as
// in [Client.Apply].
func (c *Client) CloseBreaker(ctx context.Context, slates uint64, why, key string, dry bool) (Done, error) {
	return c.say(ctx, "/v1/breaker:close", map[string]any{"slates": slates, "why": why}, key, dry)
}

// AuditOf reads the entries of the audit that are about one thing, such as
// decision/ID, in order, as JSON.
func (c *Client) AuditOf(ctx context.Context, of string) ([]json.RawMessage, error) {
	items, _, err := c.audit(ctx, url.Values{"of": {of}}, 0, 0)
	return items, err
}

// Carry is a person's word to do with a slate what the rules permit.
type Carry struct {
	UpTo   *uint64 `json:"up_to,omitempty"`  // inclusive; nil: as far as may be
	Region string  `json:"region,omitempty"` // where the name means several databases
	Plan   string  `json:"plan,omitempty"`   // that was looked at; empty: whatever is found
	Why    string  `json:"why,omitempty"`
}

// CarryOut asks that a verb ("trim") is carried out on a slate, and reads what is
// planned, and what was decided, into the caller's value. With dry nothing is
// decided. key as in [Client.Apply].
func (c *Client) CarryOut(ctx context.Context, verb, slate string, what Carry, key string, dry bool, into any) error {
	return c.tell(ctx, "/v1/slates/"+url.PathEscape(slate)+":"+verb, what, key, dry, into)
}
