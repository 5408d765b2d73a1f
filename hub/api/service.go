package api

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

func jsonText(s string) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic("api: " + err.Error()) // a string always marshals
	}
	return b
}

// service is what machines ask: is it alive, is it ready, how does it do.
func service() []*operation {
	return []*operation{{
		method: "GET", path: "/openapi.json", id: "openapi", summary: "This document", answer: schema{"type": "object"},
		handle: func(c *call) error { return c.answer(c.document) },
	}, {
		method: "GET", path: "/livez", id: "livez", summary: "Is the process alive", plain: "text/plain", answer: schema{"type": "string"},
		handle: func(c *call) error { return c.plain("ok\n") },
	}, {
		method: "GET", path: "/readyz", id: "readyz", summary: "Is the saved view loaded", plain: "text/plain", answer: schema{"type": "string"},
		params: []*param{q("verbose", "string", "", "Say what was checked.")}, refuses: []int{400, 503},
		handle: func(c *call) error { return c.ready() },
	}, {
		method: "GET", path: "/metrics", id: "metrics", summary: "Metrics for Prometheus", plain: "text/plain", answer: schema{"type": "string"},
		handle: func(c *call) error {
			promhttp.HandlerFor(c.o.Metrics, promhttp.HandlerOpts{}).ServeHTTP(c.w, c.r)
			return nil
		},
	}}
}

func (c *call) plain(text string) error {
	c.w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = c.w.Write([]byte(text)) // an error means that nobody reads any more
	return nil
}

// ready is true once a view is there, also one that says that no region was
// heard yet: it is served with its age.
func (c *call) ready() error {
	v := c.src.View()
	if v == nil {
		return notReady()
	}
	// A hub that does not decide answers questions all the same.
	idle := c.idle()
	if !c.query.Has("verbose") {
		if idle != "" {
			return c.plain("ok\n" + idle + "\n")
		}
		return c.plain("ok\n")
	}
	decides := "[+] deciding\n"
	if idle != "" {
		decides = "[-] " + idle + "\n"
	}
	all, off := len(v.AsOf()), len(v.Unreachable())
	return c.plain(fmt.Sprintf("[+] view: loaded, seq %d of %s\n[+] regions: %d, of which %d cannot be reached\n%sok\n", v.Seq(), v.At().UTC().Format("2006-01-02T15:04:05Z"), all, off, decides))
}

var _ http.Handler = (*API)(nil)
