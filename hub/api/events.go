package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"strconv"

	"github.com/quarry-db/quarry/hub/query"
	"github.com/quarry-db/quarry/hub/view"
)

func eventOperations(r *resource) []*operation {
	row := ref(r.typ.Shape.Name)
	return []*operation{{
		method: "GET", path: "/v1/events", id: "list_events", summary: "List events", doc: r.doc + " Oldest first, unless order_by says otherwise.",
		params: []*param{pAfter, pFilter, pOrder, pSize, pToken, pFields, pFresh},
		answer: envelope(schema{"items": array(row), "next_page_token": str("Gives the next page; empty: this is the last.")}), refuses: []int{400, 409, 410},
		handle: func(c *call) error {
			v, src, err := c.events()
			if err != nil {
				return err
			}
			return c.listRows(r, v, src)
		},
	}, {
		method: "GET", path: "/v1/events:summarize", id: "summarize_events", summary: "Count events by the values of fields",
		params: []*param{pBy, pAfter, pFilter, pFresh}, answer: envelope(schema{"groups": array(ref("Group"))}), refuses: []int{400, 409, 410},
		handle: func(c *call) error {
			v, src, err := c.events()
			if err != nil {
				return err
			}
			return c.summarizeRows(r, v, src)
		},
	}, {
		method: "GET", path: "/v1/events:watch", id: "watch_events", summary: "Follow events", stream: true,
		doc: "Server-sent events: `event` for each, in order and none left out, its number as id. Without after it begins with the next one to come. " +
			"`bookmark` {} moves the id past events that the filter leaves out. When the reader is so slow that events are dropped before it read them, `problem` (events-gone) ends the stream.",
		params: []*param{pAfter, pFilter, pFields, hLast}, refuses: []int{400, 410, 503},
		handle: func(c *call) error { return c.watchEvents(r) },
	}}
}

// after is the number after which the reader wants events; ok is false when
// it did not say.
func (c *call) after() (after uint64, ok bool, err error) {
	s := c.query.Get("after")
	if c.op.stream {
		if id := c.r.Header.Get("Last-Event-ID"); id != "" {
			s = id
		}
	}
	if s == "" {
		return 0, false, nil
	}
	if after, err = strconv.ParseUint(s, 10, 64); err != nil {
		return 0, false, problem(http.StatusBadRequest, CodeBadParameter, "after", "write the seq of an event", "after: %q is no number of an event", s)
	}
	return after, true, nil
}

// kept refuses numbers after which events are missing: dropped since, or of a
// log that this hub does not have.
func kept(v *view.View, after, oldest uint64) error {
	if after+1 < oldest {
		return problem(http.StatusGone, CodeEventsGone, "after", fmt.Sprintf("list what there is, and go on from after=%d", v.LastEvent()),
			"events %d to %d are not kept any more", after+1, oldest-1)
	}
	if after > v.LastEvent() {
		return problem(http.StatusGone, CodeEventsGone, "after", fmt.Sprintf("go on from after=%d", v.LastEvent()),
			"the newest event of this hub is %d: number %d is of another log", v.LastEvent(), after)
	}
	return nil
}

// events is the log as rows.
func (c *call) events() (*view.View, query.Source, error) {
	v, err := c.current()
	if err != nil {
		return nil, query.Source{}, err
	}
	after, said, err := c.after()
	if err != nil {
		return nil, query.Source{}, err
	}
	if _, oldest := v.Events(v.LastEvent(), 1); said {
		if err := kept(v, after, oldest); err != nil {
			return nil, query.Source{}, err
		}
	}
	rows := func(*query.Filter) iter.Seq[any] {
		return func(yield func(any) bool) {
			for at := after; ; {
				batch, _ := v.Events(at, 1000)
				for i := range batch {
					if !yield(&batch[i]) {
						return
					}
				}
				if len(batch) < 1000 {
					return
				}
				at = batch[len(batch)-1].Seq
			}
		}
	}
	return v, query.Source{Rows: rows, Ordered: true}, nil
}

func (c *call) watchEvents(r *resource) error {
	plan, err := r.typ.Plan(query.Request{Filter: c.query.Get("filter"), Fields: c.query.Get("fields")})
	if err != nil {
		return err
	}
	v, err := c.current()
	if err != nil {
		return err
	}
	at, said, err := c.after()
	if err != nil {
		return err
	}
	if !said {
		at = v.LastEvent()
	}
	if _, oldest := v.Events(at, 1); true {
		if err := kept(v, at, oldest); err != nil {
			return err
		}
	}
	s, done, err := c.open()
	if err != nil {
		return err
	}
	defer done()
	if !said {
		s.event("bookmark", []byte(`{}`))
		if s.end(strconv.FormatUint(at, 10)) != nil {
			return nil
		}
	} else if c.w.WriteHeader(http.StatusOK); s.rc.Flush() != nil {
		return nil
	}
	told := at
	for {
		for {
			batch, oldest := v.Events(at, 1000)
			if p, ok := errors.AsType[*Problem](kept(v, at, oldest)); ok {
				b, _ := json.Marshal(p)
				s.event("problem", b)
				_ = s.end("")
				return nil
			}
			for i := range batch {
				e := &batch[i]
				at = e.Seq
				if plan.Filter.Match(e, c.o.Now()) {
					s.event("event", r.typ.AppendJSON(nil, e, plan.Mask))
					s.release(strconv.FormatUint(e.Seq, 10))
					told = at
				}
			}
			if s.end("") != nil {
				return nil
			}
			if len(batch) < 1000 {
				break
			}
			v = c.src.View() // a long backlog: do not hold on to an old view
		}
		quiet, err := s.next(v.Seq())
		if err != nil {
			return nil
		}
		if quiet {
			if told != at {
				s.event("bookmark", []byte(`{}`))
				told = at
			}
			if s.end(strconv.FormatUint(at, 10)) != nil || s.comment("beat") != nil {
				return nil
			}
			continue
		}
		v = c.src.View()
	}
}
