package session

import (
	"testing"
	"time"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
	quarryv1 "github.com/quarry-db/quarry/proto/quarry/v1"
)

func decision() catalog.Decision {
	const id = "6f1f9f7e-53a5-4a3c-9d6b-0c1f6d4f4a11"
	return catalog.Decision{ID: id, Verb: catalog.VerbFreeze, Region: "eu", Ledger: id, Term: 1, Sequence: 1, Expires: time.Minute}
}

// An agent of before decisions goes on as it was: none is said to it. One that
// understands them hears it after the welcome.
func TestOnlyAgentsThatUnderstandDecisionsHearThem(t *testing.T) {
	for _, version := range []uint32{1, 2, 3} {
		in := &inbox{}
		s, addr, _ := serve(t, Options{Inbox: in})
		a := dial(t, addr)
		a.say(&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_Hello{Hello: &quarryv1.Hello{
			MinVersion: 1, MaxVersion: version, Region: "eu", Cluster: "k1", Start: 9, Generation: 9}}})
		var hello state.Hello
		for hello.Session == 0 {
			in.has(func(e state.Event) bool {
				h, ok := e.(state.Hello)
				if ok {
					hello = h
				}
				return ok
			})
			time.Sleep(time.Millisecond)
		}
		if hello.Decides != (version >= 3) || hello.Obeys.Known {
			t.Errorf("version %d: %+v", version, hello)
		}
		n := s.Send("eu", decision())
		if other := s.Send("us", decision()); other != 0 || n != int(version/3) {
			t.Errorf("version %d: said to %d of eu and %d of us", version, n, other)
		}
		s.Post(hello.Session, state.Decide{Decision: decision()}) // however it is said
		s.Post(hello.Session, state.Settle{Decisions: []string{"x"}})
		s.Post(hello.Session, state.Welcome{Reporter: true})
		s.Post(hello.Session, state.Ack{Applied: catalog.Revision{Start: 9, Counter: 1}})
		decided := 0
		for {
			f, err := a.hear()
			if err != nil {
				t.Fatal(err)
			}
			if f.GetDecision() != nil || f.GetSettled() != nil {
				decided++
			}
			if f.GetAck() != nil {
				break
			}
		}
		if want := 2 * int(version/3); decided != want {
			t.Errorf("version %d: %d frames about decisions, want %d", version, decided, want)
		}
	}
}
