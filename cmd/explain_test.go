package cmd

import (
	"bytes"
	"testing"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions/plan"
)

// The answer first, then each region with what it has verified and which one
// decides, then what else bounds the floor, and by what it was evaluated.
func TestAnExplanationShowsWhatDecides(t *testing.T) {
	u := func(n uint64) *uint64 { return &n }
	age := func(n int64) *int64 { return &n }
	region := func(name string, state catalog.RegionState, verified, newest *uint64, old *int64, why ...plan.Reason) plan.RegionOpinion {
		return plan.RegionOpinion{Region: name, State: state, Verified: verified, Newest: newest, AgeSeconds: old, Reasons: why}
	}
	inventory := []state.RegionRevision{{Region: "ams", Revision: "1763741000.881"}, {Region: "eu", Revision: "1763741000.402"}, {Region: "sgp"}}
	permit := &state.Explanation{Slate: "orders", PositionDomain: "log-seq", Policy: state.PolicyRef{Name: "logs-prod", Revision: 17}, Plan: "p-9f2c", Term: 5,
		Quorum: "all(ams,eu,sgp)", Gap: 1000, Inventory: inventory, Readers: 1,
		Verdict: plan.Verdict{Action: plan.Permit, UpTo: u(79000), Binding: "sgp", Regions: []plan.RegionOpinion{
			region("ams", catalog.RegionConnected, u(120000), u(120000), age(40)),
			region("eu", catalog.RegionConnected, u(100000), u(110000), age(120), plan.Reason{Code: plan.SnapshotIncomplete, Message: "s7 at 110000 is not whole: key s7/0007.sst is missing"}),
			region("sgp", catalog.RegionSuspect, u(80000), u(80000), age(60)),
		}}}
	held := &state.Explanation{Slate: "orders", PositionDomain: "log-seq", Policy: state.PolicyRef{Name: "logs-prod", Revision: 17},
		Others: []state.PolicyRef{{Name: "wide", Revision: 2}}, Plan: "p-9f2c", Term: 5, Quorum: "1 of (ams,eu) with eu", Keep: 500, Inventory: inventory[:2],
		Verdict: plan.Verdict{Action: plan.Permit, UpTo: u(499), Regions: []plan.RegionOpinion{
			region("ams", catalog.RegionConnected, u(120000), u(120000), age(40)),
			region("eu", catalog.RegionConnected, u(100000), u(100000), age(40)),
		}, Holds: []plan.Pin{{Kind: plan.PinHold, ID: "case-4711", Position: u(500)}, {Kind: plan.PinReader, ID: "r1", Region: "eu", Position: u(600)}}}}
	held.Readers = 1
	wait := &state.Explanation{Slate: "orders", Policy: state.PolicyRef{Name: "logs-prod", Revision: 17}, Plan: "p-0001", Quorum: "all(ams,us)", Inventory: inventory[:1],
		Verdict: plan.Verdict{Action: plan.Wait, Regions: []plan.RegionOpinion{
			region("ams", catalog.RegionConnected, u(120000), u(120000), age(40)),
			region("us", catalog.RegionStale, nil, nil, nil, plan.Reason{Code: plan.RegionStale, Message: "us has not reported for 10m0s; check its agent"}),
		}, Reasons: []plan.Reason{{Code: plan.RegionStale, Message: "us has not reported for 10m0s; check its agent"}}}}
	none := &state.Explanation{Slate: "orders", Plan: "p-0002", Verdict: plan.Verdict{Action: plan.Wait,
		Reasons: []plan.Reason{{Code: plan.NoPolicy, Message: "no policy permits trimming orders; see quarry apply"}}}}
	for _, c := range []struct {
		name string
		e    *state.Explanation
		want string
	}{
		{"a permit, and the region that decides", permit, `orders (log-seq)   trim: PERMIT up to 79000
  REGION   VERIFIED   NEWEST   AGE   STATE       NOTES
  ams      120000     120000   40s   connected   ok
  eu       100000     110000   2m    connected   snapshot-incomplete: s7 at 110000 is not whole: key s7/0007.sst is missing
  sgp      80000      80000    60s   suspect     ok <- binding
  gap -1000 · holds none · readers 1 · quorum all(ams,eu,sgp)
  policy logs-prod@17 · inventory ams:881 eu:402 sgp:- · term 5 · plan p-9f2c
`},
		{"a hold decides", held, `orders (log-seq)   trim: PERMIT up to 499
  REGION   VERIFIED   NEWEST   AGE   STATE       NOTES
  ams      120000     120000   40s   connected   ok
  eu       100000     100000   40s   connected   ok
  hold case-4711 keeps what begins at 500
  reader r1 in eu keeps what begins at 600
  gap none · newest 500 kept · holds 1 · readers 1 · quorum 1 of (ams,eu) with eu
  policy logs-prod@17, with wide@2 · inventory ams:881 eu:402 · term 5 · plan p-9f2c
`},
		{"a region is silent", wait, `orders   trim: WAIT
  REGION   VERIFIED   NEWEST   AGE   STATE       NOTES
  ams      120000     120000   40s   connected   ok
  us       -          -        -     stale       region-stale: us has not reported for 10m0s; check its agent
  gap none · holds none · readers none · quorum all(ams,us)
  policy logs-prod@17 · inventory ams:881 · term 0 · plan p-0001
region-stale: us has not reported for 10m0s; check its agent
`},
		{"no policy", none, `orders   trim: WAIT
  gap none · holds none · readers none
  no policy · term 0 · plan p-0002
no-policy: no policy permits trimming orders; see quarry apply
`},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			a := &app{out: &out, output: "table", noColor: true}
			if err := a.printExplanation(c.e); err != nil {
				t.Fatal(err)
			}
			if out.String() != c.want {
				t.Errorf("got\n%s\nwant\n%s", out.String(), c.want)
			}
		})
	}
}
