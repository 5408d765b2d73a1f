package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/apiclient"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// The client of pkg/apiclient is tested here, against the real API.

func client(t *testing.T, s *httptest.Server) *apiclient.Client {
	t.Helper()
	c, err := apiclient.New(s.URL, apiclient.Options{By: "ann"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTheClientReadsAllPages(t *testing.T) {
	f := newFleet()
	f.change(func(b *view.Builder) {
		for i := range 2500 {
			b.SetPlacement(placement("eu", fmt.Sprintf("many/%05d", i), uint64(i)), false)
		}
	})
	_, s := serve(t, f, Options{})
	c := client(t, s)
	l := c.List(t.Context(), "placements", apiclient.Query{Filter: `slate = "many/*"`, OrderBy: "bytes desc"})
	rows, err := apiclient.All[catalog.Placement](l)
	if err != nil || len(rows) != 2500 || *rows[0].Bytes != 2499 || *rows[2499].Bytes != 0 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	if len(l.AsOf) != 3 || len(l.Unreachable) != 2 {
		t.Errorf("%+v", l.Freshness)
	}
	for _, limit := range []int{1, 999, 1001, 2500, 9999} {
		rows, err := apiclient.All[catalog.Placement](c.List(t.Context(), "placements", apiclient.Query{Filter: `slate = "many/*"`, Limit: limit, Fields: "slate"}))
		if err != nil || len(rows) != min(limit, 2500) {
			t.Errorf("limit %d: %d rows, %v", limit, len(rows), err)
		}
	}
}

func TestTheClientTellsRefusalsApart(t *testing.T) {
	_, s := serve(t, newFleet(), Options{})
	c := client(t, s)
	var slate catalog.Slate
	if _, err := c.Get(t.Context(), "slates", "dbs/orders", "", &slate); err != nil || slate.Name != "dbs/orders" {
		t.Errorf("%+v, %v", slate, err)
	}
	if _, err := c.Get(t.Context(), "slates", "no/such", "", &slate); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v, want fs.ErrNotExist", err)
	}
	_, err := apiclient.All[catalog.Slate](c.List(t.Context(), "slates", apiclient.Query{Filter: "nme = x"}))
	if p, ok := errors.AsType[*apiclient.Problem](err); !ok || p.Code != CodeBadFilter || p.Caret == "" || !strings.Contains(err.Error(), "name") {
		t.Errorf("%v", err)
	}
	_, err = apiclient.All[catalog.Slate](c.List(t.Context(), "slates", apiclient.Query{RequireFresh: time.Minute}))
	if p, ok := errors.AsType[*apiclient.Problem](err); !ok || p.Code != CodeNotFresh || len(p.Regions) != 1 {
		t.Errorf("%v", err)
	}
	groups, _, err := c.Summarize(t.Context(), "placements", "region", apiclient.Query{})
	if err != nil || len(groups) != 2 || fmt.Sprint(groups[1]["count"]) != "3" {
		t.Errorf("%v, %v", groups, err)
	}
	if d, err := c.Accept(t.Context(), "us", "", true); err != nil || d.Done || d.By != "ann" {
		t.Errorf("%+v, %v", d, err)
	}
	if d, err := c.Forget(t.Context(), "dbs/lost", "us", "k", false); err != nil || !d.Done {
		t.Errorf("%+v, %v", d, err)
	}
	s.Close()
	if _, err := c.Get(t.Context(), "slates", "dbs/orders", "", &slate); !errors.Is(err, apiclient.ErrUnreachable) {
		t.Errorf("%v, want ErrUnreachable", err)
	}
	for _, err := range c.Watch(t.Context(), "slates", apiclient.Query{}) {
		if !errors.Is(err, apiclient.ErrUnreachable) {
			t.Errorf("%v, want ErrUnreachable", err)
		}
	}
	page := httptest.NewServer(http.NotFoundHandler())
	defer page.Close()
	if _, err := client(t, page).Get(t.Context(), "slates", "x", "", &slate); !errors.Is(err, apiclient.ErrUnreachable) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something that is no hub: %v", err)
	}
}

// cutting closes connections when told, as a bad network does.
type cutting struct {
	net.Listener
	conns chan net.Conn
}

func (l cutting) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.conns <- c
	}
	return c, err
}

func TestAClientsWatchSurvivesBrokenConnections(t *testing.T) {
	f := newFleet()
	a, err := New(f, Options{Now: f.clock, Settle: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conns := make(chan net.Conn, 1000)
	s := &httptest.Server{Listener: cutting{lis, conns}, Config: &http.Server{Handler: a}}
	s.Start()
	defer s.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()

	const last = 200
	written := make(chan struct{})
	go func() {
		defer close(written)
		for i := 1; i <= last; i++ {
			f.change(func(b *view.Builder) {
				b.SetSlate(&catalog.Slate{Name: fmt.Sprint("s", i%7), Placements: uint64(i)}, false)
				if i%5 == 0 {
					b.RemoveSlate(fmt.Sprint("s", i%3))
				}
				b.AddEvent(&catalog.Event{Seq: uint64(10 + i), Type: "t"})
			})
			if i%40 == 0 {
				for len(conns) > 0 {
					(<-conns).Close()
				}
			}
			time.Sleep(time.Millisecond)
		}
		f.change(func(b *view.Builder) { b.SetSlate(&catalog.Slate{Name: "the-end"}, false) })
	}()
	rows, broken, ended := map[string]string{}, 0, false
	for ch, err := range client(t, s).Watch(ctx, "slates", apiclient.Query{Fields: "name,placements"}) {
		if err != nil {
			t.Fatal(err)
		}
		switch ch.Type {
		case apiclient.Row:
			rows[ch.Key] = string(ch.Item)
		case apiclient.Gone:
			delete(rows, ch.Key)
		case apiclient.Resync:
			clear(rows)
		case apiclient.Broken:
			broken++
		}
		// Keys in a batch are in the order of change, so the end comes last;
		// after a resync it may come before others.
		if ended = ended || ch.Key == "the-end"; ended && len(rows) == count(f.View()) {
			break
		}
	}
	<-written
	if broken == 0 {
		t.Error("no connection was cut: the test shows nothing")
	}
	for s := range f.View().Slates() {
		if want := fmt.Sprintf(`{"name":%q,"placements":%d}`, s.Name, s.Placements); rows[s.Name] != want {
			t.Errorf("%s, want %s", rows[s.Name], want)
		}
	}
	if len(rows) != count(f.View()) {
		t.Errorf("%d rows, want %d", len(rows), count(f.View()))
	}
}

func count(v *view.View) (n int) {
	for range v.Slates() {
		n++
	}
	return n
}

func TestAClientsEventsAreInOrderAcrossBrokenConnections(t *testing.T) {
	f := newFleet()
	_, s := serve(t, f, Options{})
	after, want := uint64(3), uint64(4)
events:
	for e, err := range client(t, s).Events(t.Context(), &after, apiclient.Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Seq != want {
			t.Fatalf("event %d, want %d", e.Seq, want)
		}
		switch want++; {
		case e.Seq == 40:
			break events
		case e.Seq%10 == 0:
			s.CloseClientConnections()
			f.change(func(b *view.Builder) {
				for i := uint64(1); i <= 10; i++ {
					b.AddEvent(&catalog.Event{Seq: e.Seq + i, Type: "t"})
				}
			})
		}
	}
	old := uint64(500)
	for _, err := range client(t, s).Events(t.Context(), &old, apiclient.Query{}) {
		if p, ok := errors.AsType[*apiclient.Problem](err); !ok || p.Code != CodeEventsGone {
			t.Errorf("%v, want events-gone", err)
		}
	}
}
