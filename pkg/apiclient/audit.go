package apiclient

import (
	"context"
	"encoding/json"
	"net/url"
	"strconv"
	"time"
)

// AuditHead is the end of an audit.
type AuditHead struct {
	Number uint64 `json:"number"`
	Hash   string `json:"hash"`
}

// AuditReport is what was found in an audit.
type AuditReport struct {
	Entries  int       `json:"entries"`
	Head     AuditHead `json:"head"`
	Problems []struct {
		Number uint64 `json:"number"`
		What   string `json:"what"`
		Text   string `json:"text"`
	} `json:"problems"`
}

// Audit reads the entries of the audit after a number that are younger than
// since (0: of any age), at most limit (0: all), in order, as JSON.
func (c *Client) Audit(ctx context.Context, after uint64, since time.Duration, limit int) ([]json.RawMessage, AuditHead, error) {
	v := url.Values{}
	if since > 0 {
		v.Set("since", since.String())
	}
	return c.audit(ctx, v, after, limit)
}

// audit reads pages until there are enough.
func (c *Client) audit(ctx context.Context, v url.Values, after uint64, limit int) ([]json.RawMessage, AuditHead, error) {
	out, head := []json.RawMessage{}, AuditHead{}
	for {
		v.Set("after", strconv.FormatUint(after, 10))
		if limit > 0 {
			v.Set("page_size", strconv.Itoa(min(limit-len(out), maxPage)))
		}
		var page struct {
			Items []json.RawMessage `json:"items"`
			Head  AuditHead         `json:"head"`
			Next  uint64            `json:"next_after"`
		}
		if err := c.get(ctx, "/v1/audit?"+v.Encode(), &page); err != nil {
			return out, head, err
		}
		out, head = append(out, page.Items...), page.Head
		if page.Next <= after || limit > 0 && len(out) >= limit {
			return out, head, nil
		}
		after = page.Next
	}
}

// VerifyAudit has the hub verify its audit; head is one that was kept earlier
// (number:hash), or empty.
func (c *Client) VerifyAudit(ctx context.Context, head string) (AuditReport, error) {
	path := "/v1/audit:verify"
	if head != "" {
		path += "?head=" + url.QueryEscape(head)
	}
	var out AuditReport
	err := c.get(ctx, path, &out)
	return out, err
}
