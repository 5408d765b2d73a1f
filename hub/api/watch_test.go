package api

import (
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
)

func TestAWatchShowsEachChangeOnce(t *testing.T) {
	f := newFleet()
	_, s := serve(t, f, Options{Heartbeat: time.Hour})
	next, _ := follow(t, s, `/v1/placements:watch?filter=region="eu"&fields=slate,bytes`)
	for _, want := range []string{"eu|dbs/orders", "eu|dbs/users"} {
		if e := next(); e.name != "row" || e.key(t) != want || e.id != "" {
			t.Errorf("%+v, want %s", e, want)
		}
	}
	mark := next()
	if mark.name != "bookmark" || mark.id == "" || !strings.Contains(mark.data, `"unreachable":["asia","us"]`) {
		t.Errorf("%+v", mark)
	}
	f.change(func(b *view.Builder) {
		b.SetPlacement(placement("us", "dbs/users", 5), false) // of another region
		same := placement("eu", "dbs/orders", 1<<30)           // nothing that is shown
		same.ObservedAt = noon
		b.SetPlacement(same, false)
	})
	f.change(func(b *view.Builder) { b.SetPlacement(placement("eu", "dbs/users", 77), false) })
	e := next()
	if e.name != "row" || e.data != `{"key":"eu\u0000dbs/users","item":{"slate":"dbs/users","bytes":77}}` || e.id == "" {
		t.Errorf("%+v", e)
	}
	f.change(func(b *view.Builder) {
		b.RemovePlacement("eu", "dbs/users")
		b.RemovePlacement("us", "dbs/users")
	})
	if e := next(); e.name != "gone" || e.key(t) != "eu|dbs/users" {
		t.Errorf("%+v", e)
	}
	// A row that stops matching is gone for this reader.
	f.change(func(b *view.Builder) { b.SetPlacement(placement("eu", "dbs/new", 1), false) })
	if e := next(); e.name != "row" || e.key(t) != "eu|dbs/new" {
		t.Errorf("%+v", e)
	}
}

func TestARowThatStopsMatchingIsGone(t *testing.T) {
	f := newFleet()
	_, s := serve(t, f, Options{Heartbeat: time.Hour})
	next, _ := follow(t, s, "/v1/placements:watch?filter=bytes+%3E+1GB")
	for e := next(); e.name != "bookmark"; e = next() {
	}
	f.change(func(b *view.Builder) { b.SetPlacement(placement("eu", "dbs/orders", 1), false) })
	if e := next(); e.name != "gone" || e.key(t) != "eu|dbs/orders" {
		t.Errorf("%+v", e)
	}
	// It did not match before, so its next change is nothing to tell.
	f.change(func(b *view.Builder) { b.SetPlacement(placement("eu", "dbs/orders", 2), false) })
	f.change(func(b *view.Builder) { b.SetPlacement(placement("us", "dbs/orders", 2<<30), false) })
	if e := next(); e.name != "row" || e.key(t) != "us|dbs/orders" {
		t.Errorf("%+v", e)
	}
}

func TestAWatchGoesOnFromItsCursor(t *testing.T) {
	f := newFleet()
	_, s := serve(t, f, Options{Heartbeat: time.Hour})
	next, stop := follow(t, s, "/v1/slates:watch")
	var id string
	for e := next(); ; e = next() {
		if id = e.id; e.name == "bookmark" {
			break
		}
	}
	stop()
	f.change(func(b *view.Builder) {
		b.SetSlate(&catalog.Slate{Name: "while-away"}, false)
		b.RemoveSlate("dbs/users")
	})
	got := map[string]string{}
	for _, how := range []string{"header", "parameter"} {
		var next func() event
		if how == "header" {
			next, _ = follow(t, s, "/v1/slates:watch", "Last-Event-ID", id)
		} else {
			next, _ = follow(t, s, "/v1/slates:watch?cursor="+id)
		}
		a, b := next(), next()
		got[how] = fmt.Sprint(a.name, a.key(t), b.name, b.key(t))
		if a.id != "" || b.id == "" {
			t.Errorf("only a batch's last event has an id: %+v, %+v", a, b)
		}
	}
	for how, g := range got {
		if g != "rowwhile-awaygonedbs/users" && g != "gonedbs/usersrowwhile-away" {
			t.Errorf("by %s: %s", how, g)
		}
	}
	get(t, s, "/v1/slates:watch?filter=registered&cursor="+id).problem(t, 400, CodeBadCursor)
	get(t, s, "/v1/slates:watch?cursor=rubbish").problem(t, 400, CodeBadCursor)
}

func TestACursorThatIsTooOldResyncs(t *testing.T) {
	f := newFleet() // remembers 40 changes of each resource
	_, s := serve(t, f, Options{Heartbeat: time.Hour})
	next, stop := follow(t, s, "/v1/slates:watch")
	var id string
	for e := next(); id == ""; e = next() {
		id = e.id
		if id != "" {
			break
		}
	}
	stop()
	for i := range 50 {
		f.change(func(b *view.Builder) { b.SetSlate(&catalog.Slate{Name: fmt.Sprint("s", i)}, false) })
	}
	next, _ = follow(t, s, "/v1/slates:watch?cursor="+id)
	if e := next(); e.name != "resync" || e.id != "" {
		t.Errorf("%+v, want resync", e)
	}
	rows := 0
	for e := next(); e.name != "bookmark"; e = next() {
		rows++
	}
	if rows != 52 {
		t.Errorf("%d rows after a resync, want 52", rows)
	}
	// A cursor of the future is of another hub.
	next, _ = follow(t, s, "/v1/slates:watch?cursor="+id[:strings.IndexByte(id, '.')]+".99999")
	if e := next(); e.name != "resync" {
		t.Errorf("%+v, want resync", e)
	}
}

func TestAQuietStreamBeatsAndMovesItsCursor(t *testing.T) {
	f := newFleet()
	_, s := serve(t, f, Options{Heartbeat: 20 * time.Millisecond})
	next, _ := follow(t, s, "/v1/slates:watch?filter=name=dbs/orders")
	e := next()
	for ; e.name != "bookmark"; e = next() {
	}
	first := e.id
	if e := next(); e.name != ":" {
		t.Errorf("%+v, want a comment", e)
	}
	f.change(func(b *view.Builder) { b.SetSlate(&catalog.Slate{Name: "another"}, false) })
	for e = next(); e.name == ":"; e = next() {
	}
	if e.name != "bookmark" || e.id == first {
		t.Errorf("%+v, want a bookmark beyond %s", e, first)
	}
}

func TestStreamsAreBounded(t *testing.T) {
	_, s := serve(t, newFleet(), Options{MaxWatchers: 1})
	next, _ := follow(t, s, "/v1/slates:watch")
	next()
	if a := get(t, s, "/v1/events:watch"); a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	} else {
		a.problem(t, 503, CodeTooMany)
	}
}

func TestEventsComeInOrderAndNoneIsLeftOut(t *testing.T) {
	f := newFleet() // keeps 50 events, has 10
	_, s := serve(t, f, Options{Heartbeat: time.Hour})
	next, stop := follow(t, s, "/v1/events:watch?after=7")
	add := func(from, to uint64) {
		f.change(func(b *view.Builder) {
			for i := from; i <= to; i++ {
				b.AddEvent(&catalog.Event{Seq: i, Type: catalog.EventWriterChanged, Slate: "dbs/orders", Time: noon})
			}
		})
	}
	expect := func(from, to uint64) {
		t.Helper()
		for i := from; i <= to; i++ {
			e := next()
			var row catalog.Event
			if err := json.Unmarshal([]byte(e.data), &row); err != nil || row.Seq != i || e.id != fmt.Sprint(i) || e.name != "event" {
				t.Fatalf("%+v, want event %d", e, i)
			}
		}
	}
	expect(8, 10)
	add(11, 20)
	expect(11, 20)
	stop()
	add(21, 25)
	next, _ = follow(t, s, "/v1/events:watch", "Last-Event-ID", "20")
	expect(21, 25)

	// Without a number it begins with the next one.
	next, _ = follow(t, s, "/v1/events:watch?filter=seq+%3E+26")
	if e := next(); e.name != "bookmark" || e.id != "25" {
		t.Errorf("%+v", e)
	}
	add(26, 27)
	expect(27, 27)

	add(28, 80) // 31 to 80 are kept
	get(t, s, "/v1/events:watch?after=29").problem(t, 410, CodeEventsGone)
	get(t, s, "/v1/events?after=29").problem(t, 410, CodeEventsGone)
	get(t, s, "/v1/events?after=81").problem(t, 410, CodeEventsGone)
	var list struct{ Items []catalog.Event }
	get(t, s, "/v1/events?after=30&page_size=100").json(t, &list)
	if len(list.Items) != 50 || list.Items[0].Seq != 31 {
		t.Errorf("%d events", len(list.Items))
	}
	get(t, s, "/v1/events?order_by=seq+desc&page_size=2").json(t, &list)
	if len(list.Items) != 2 || list.Items[0].Seq != 80 {
		t.Errorf("newest first: %+v", list.Items)
	}
}

func TestAReaderTooSlowForTheEventsIsTold(t *testing.T) {
	f := newFleet()
	_, s := serve(t, f, Options{Heartbeat: time.Hour, Settle: 50 * time.Millisecond})
	next, _ := follow(t, s, "/v1/events:watch?after=10")
	// More than are kept, before the stream looks again.
	f.change(func(b *view.Builder) {
		for i := uint64(11); i <= 200; i++ {
			b.AddEvent(&catalog.Event{Seq: i, Type: catalog.EventFinding, Time: noon})
		}
	})
	e := next()
	var p Problem
	if err := json.Unmarshal([]byte(e.data), &p); err != nil || e.name != "problem" || p.Code != CodeEventsGone {
		t.Errorf("%+v", e)
	}
}

func TestAReaderThatStallsIsCutOffAndHoldsNobody(t *testing.T) {
	f := newFleet()
	f.change(func(b *view.Builder) {
		for i := range 20_000 { // more than any socket's buffers hold
			b.SetPlacement(placement("eu", fmt.Sprintf("many/%05d", i), 1), false)
		}
	})
	a, s := serve(t, f, Options{Patience: 100 * time.Millisecond, Heartbeat: time.Hour})
	con, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer con.Close()
	if _, err := con.Write([]byte("GET /v1/placements:watch HTTP/1.1\r\nHost: localhost\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	for a.watchers.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	// Meanwhile the hub goes on, and others are answered.
	f.change(func(b *view.Builder) { b.SetPlacement(placement("eu", "dbs/orders", 3), false) })
	if a := get(t, s, "/v1/placements?page_size=1"); a.status != 200 {
		t.Errorf("%d", a.status)
	}
	for begin := time.Now(); a.watchers.Load() != 0; time.Sleep(time.Millisecond) {
		if time.Since(begin) > 20*time.Second {
			t.Fatal("a reader that never reads still has its stream")
		}
	}
}

func TestEveryFieldOfEveryResourceCanBeAskedFor(t *testing.T) {
	f := newFleet()
	_, s := serve(t, f, Options{})
	ask(t, s, "POST", "/v1/documents:apply", documentsBody(archives+aHold))
	ask(t, s, "POST", "/v1/freezes:freeze", `{"scope":"all"}`)
	f.propose(t, "sam", 1, "dbs/orders")
	f.change(func(b *view.Builder) {
		b.SetPin(&catalog.Pin{Slate: "dbs/orders", Region: "eu", Root: "dbs/orders", ID: "c", Name: "quarry:trim:d"})
	})
	for _, r := range append(resources(), eventRows()) {
		for _, name := range r.typ.Names() {
			filter := url.QueryEscape(name + ":* OR NOT " + name + ":*")
			var all, some struct{ Items []json.RawMessage }
			get(t, s, "/v1/"+r.name+"?fields="+name).json(t, &all)
			if a := get(t, s, "/v1/"+r.name+"?filter="+filter); a.status != 200 {
				t.Errorf("%s: %s", r.name, a.body)
			} else if a.json(t, &some); len(some.Items) != len(all.Items) || len(all.Items) == 0 {
				t.Errorf("%s by %s: %d rows of %d", r.name, name, len(some.Items), len(all.Items))
			}
		}
	}
}
