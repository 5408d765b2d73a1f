//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quarry-db/quarry/e2e/servers"
)

// liar stands between an agent and a real S3 server and answers lists with
// less than there is, or gets of manifests as if they were not written yet.
type liar struct {
	how  atomic.Pointer[string] // "", empty, truncated, late
	told atomic.Int64           // how many answers were lies
}

func (l *liar) lie(how string) { l.how.Store(&how) }

var (
	listed = regexp.MustCompile(`(?s)<(Contents|CommonPrefixes)>.*?</(Contents|CommonPrefixes)>`)
	object = regexp.MustCompile(`/manifest/[0-9]{20}\.manifest$`)
)

func (l *liar) answer(r *http.Response) error {
	how := ""
	if p := l.how.Load(); p != nil {
		how = *p
	}
	req := r.Request
	isList := req.Method == http.MethodGet && req.URL.Query().Get("list-type") == "2"
	switch {
	case isList && (how == "empty" || how == "truncated") && r.StatusCode == http.StatusOK:
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return err
		}
		r.Body.Close()
		n := len(listed.FindAll(b, -1))
		i := 0
		b = listed.ReplaceAllFunc(b, func(e []byte) []byte {
			if i++; how == "truncated" && i <= n/2 {
				return e
			}
			return nil
		})
		b = bytes.ReplaceAll(b, []byte("<IsTruncated>true"), []byte("<IsTruncated>false"))
		if n > 0 {
			l.told.Add(1)
		}
		r.Body = io.NopCloser(bytes.NewReader(b))
		r.ContentLength = int64(len(b))
		r.Header.Set("Content-Length", strconv.Itoa(len(b)))
	case how == "late" && req.Method == http.MethodGet && object.MatchString(req.URL.Path) && r.StatusCode == http.StatusOK:
		l.told.Add(1)
		_, _ = io.Copy(io.Discard, r.Body)
		r.Body.Close()
		b := []byte(`<?xml version="1.0" encoding="UTF-8"?><Error><Code>NoSuchKey</Code><Message>not yet</Message></Error>`)
		r.StatusCode, r.Status = http.StatusNotFound, "404 Not Found"
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(b)), int64(len(b))
		r.Header.Set("Content-Length", strconv.Itoa(len(b)))
		r.Header.Set("Content-Type", "application/xml")
	}
	return nil
}

// T12: the store lies. Its lists come back empty, or cut off without saying so,
// or its manifests are not there although they are. No row is ever removed, and
// when the store tells the truth again everything is as it was, as the same
// incarnations.
func TestT12_TheCatalogLies(t *testing.T) {
	s3 := servers.S3(t)
	s3.Make(t, "slates")
	target, _ := url.Parse(s3.Endpoint())
	l := &liar{}
	front := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = r.In.Host }, // signatures cover the host
		ModifyResponse: l.answer,
	})
	defer front.Close()
	env := environ(servers.S3Env())
	through := "s3://slates?region=us-east-1&use_path_style=true&endpoint=" + url.QueryEscape(front.URL)
	upload(t, env, through, world(t))

	h := startHub(t, "eu")
	startAgent(t, h, "eu", through, env, "--poll", "500ms")
	before := waitRows(t, h, 30*time.Second, "eu", "live", worldSize)
	for _, how := range []string{"empty", "truncated", "late"} {
		l.told.Store(0)
		l.lie(how)
		worst := ""
		for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(250 * time.Millisecond) {
			rows, err := h.placements(t)
			if err != nil {
				t.Fatal(err)
			}
			if len(rows) != worldSize {
				t.Fatalf("%s: %d rows are left of %d", how, len(rows), worldSize)
			}
			for _, p := range rows {
				if p.State != "live" {
					worst = fmt.Sprintf("%s is %s", p.Slate, p.State)
				}
			}
		}
		r, err := h.region(t, "eu")
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("T12 %s: %d lies; the region is %s (%s); %s", how, l.told.Load(), r.State, r.Reason, worst)
		if l.told.Load() == 0 {
			t.Errorf("%s: nothing was asked meanwhile: the test proves nothing", how)
		}
		l.lie("")
		after := waitRows(t, h, 60*time.Second, "eu", "live", worldSize)
		for name, p := range after {
			if p.Incarnation != before[name].Incarnation {
				t.Errorf("%s: %s is another incarnation than before: %s, was %s", how, name, p.Incarnation, before[name].Incarnation)
			}
		}
	}
	for _, e := range events(t, h) {
		if strings.HasPrefix(e.Type, "incarnation") || e.Type == "slate-forgotten" {
			t.Errorf("a lie made an event: %+v", e)
		}
	}
}
