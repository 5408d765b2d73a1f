package state

import (
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
)

// Fifty agents connected at once. The hello of one overtook that of another
// between the server and the loop, and the other was taken for a session of
// the past: it was never welcomed, and its region stayed unheard for as long as
// the link lasted, for the hub's pulses kept it up. (Found by T2.)
func TestAHelloThatWasOvertakenIsWelcomed(t *testing.T) {
	var set regions.Set
	for _, n := range []string{"eu", "us"} {
		set.Regions = append(set.Regions, regions.Region{Name: n, Membership: catalog.Active})
	}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s := New(Config{}, Saved{Regions: set}, now)
	welcomed := func(ready Ready, id SessionID) bool {
		for _, m := range ready.Send {
			if w, ok := m.Message.(Welcome); ok && m.To == id {
				return w.Reporter
			}
		}
		return false
	}
	if !welcomed(s.Step(Hello{Session: 2, Region: "us", Cluster: "k", Agent: "b", Generation: 1, Start: 1}, now), 2) {
		t.Error("session 2 of us was not welcomed")
	}
	if !welcomed(s.Step(Hello{Session: 1, Region: "eu", Cluster: "k", Agent: "a", Generation: 1, Start: 1}, now), 1) {
		t.Error("session 1 of eu was not welcomed after session 2 of us was")
	}
	// Within one cluster the older session is of the past.
	ready := s.Step(Hello{Session: 4, Region: "eu", Cluster: "k", Agent: "a", Generation: 1, Start: 1}, now)
	if !welcomed(ready, 4) {
		t.Error("the same agent's newer session was not welcomed")
	}
	if ready = s.Step(Hello{Session: 3, Region: "eu", Cluster: "k", Agent: "a", Generation: 1, Start: 1}, now); welcomed(ready, 3) {
		t.Error("a session of the past took the place of the present one")
	}
}
