package api

import (
	"strings"
	"testing"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// archived has three regions tell of one archive at another moment each.
func (f *fleet) archived(t *testing.T) {
	t.Helper()
	f.ruled = true
	if err := f.step(state.Office{Term: 7, Ledger: "6f1c1c3e-9d1e-4c8c-9a50-0b6a3c1b0001"}); err != nil {
		t.Fatal(err)
	}
	for i, region := range []string{"asia", "eu", "us"} {
		n, at := state.SessionID(i+1), []uint64{120, 100, 80}[i]
		rev := func(c uint64) catalog.Revision { return catalog.Revision{Start: uint64(n), Counter: c} }
		for _, e := range []state.Event{
			state.Hello{Session: n, Region: region, Cluster: "a", Agent: region, Generation: 1, Start: uint64(n), BucketID: region, Decides: true},
			state.Beat{Session: n, BucketID: region, ReadOK: true},
			state.Snapshot{Session: n, Upto: rev(2), Facts: []catalog.Fact{
				{Kind: catalog.FactPlacement, Key: "archive/0", Revision: rev(1), Sighting: &catalog.Sighting{Slate: "archive/0", Root: "archive/0", Kind: catalog.KindSnapshots, Seen: catalog.SeenLive,
					PositionDomain: "lsn", Lineage: "X", Position: &at, Incarnation: "I", IncarnationKept: true}},
				{Kind: catalog.FactRestorePoint, Key: catalog.RestorePointKey("archive/0", "s"), Revision: rev(2), RestorePoint: &catalog.RestorePoint{Slate: "archive/0", Root: "archive/0", ID: "s", Position: &at, PositionDomain: "lsn", Lineage: "X",
					Incarnation: "I", Source: catalog.SourceSnapshot, State: catalog.RestoreVerified}},
			}},
			state.Beat{Session: n, BucketID: region, ReadOK: true, At: rev(2)},
		} {
			if err := f.step(e); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// What is planned is shown first, and what is asked for then is judged anew.
func TestATrimIsPlannedAndCarriedOut(t *testing.T) {
	f := newFleet()
	_, s := serve(t, f, Options{})
	f.archived(t)
	const path = "/v1/slates/archive%2F0:trim"
	var got Carried
	ask(t, s, "POST", path+"?validate_only=true", `{}`).json(t, &got)
	if got.Done || got.Action != "wait" || got.Reasons[0].Code != "no-policy" {
		t.Errorf("%+v", got)
	}
	p := ask(t, s, "POST", path, `{}`).problem(t, 409, CodeRefused)
	if len(p.Reasons) == 0 || p.Reasons[0].Code != "no-policy" || !strings.Contains(p.Detail, "no-policy: ") {
		t.Errorf("a verdict that waits is refused with its reasons: %+v", p)
	}

	ask(t, s, "POST", "/v1/documents:apply", documentsBody(archives))
	got = Carried{}
	ask(t, s, "POST", path+"?validate_only=true", `{}`).json(t, &got)
	if got.Done || got.Wanted == nil || *got.Wanted != 80 || len(got.Steps) != 3 || got.Steps[0].Doing != "permit" || *got.Steps[0].UpTo != 80 || len(got.Decisions) != 0 || got.Plan == "" {
		t.Fatalf("%+v", got)
	}
	plan := got.Plan
	ask(t, s, "POST", path, `{"plan":"p-0000000000000000"}`).problem(t, 409, CodePlanExpired)
	ask(t, s, "POST", path+"?validate_only=true", `{"plan":"p-0000000000000000"}`).problem(t, 409, CodePlanExpired)
	p = ask(t, s, "POST", path, `{"up_to":90}`).problem(t, 409, CodeRefused)
	if len(p.Reasons) != 1 || p.Reasons[0].Code != "below-min-snapshots" || !strings.Contains(p.Reasons[0].Message, "region us") {
		t.Errorf("above the floor it is refused, and who cannot follow: %+v", p)
	}
	got = Carried{}
	ask(t, s, "POST", path, `{"plan":"`+plan+`","up_to":70,"why":"the disk is full"}`, as("sam")...).json(t, &got)
	if !got.Done || got.By != "sam" || len(got.Decisions) != 3 {
		t.Fatalf("%+v", got)
	}
	for i, d := range got.Decisions {
		if d.Region != []string{"asia", "eu", "us"}[i] || d.Verb != catalog.VerbPermit || *d.Position != 70 || d.By != "sam" || d.Why != "the disk is full" || d.Plan != plan || d.Stage != catalog.StageSent {
			t.Errorf("%+v", d)
		}
	}
	// Asked for again it is what is under way.
	before := got.Decisions
	got = Carried{}
	ask(t, s, "POST", path, `{"up_to":70}`, as("kim")...).json(t, &got)
	if len(got.Decisions) != 3 || got.Decisions[0].ID != before[0].ID {
		t.Errorf("%+v", got.Decisions)
	}
	// What narrows says which of it agents had: they may have published it.
	var applied AppliedDocuments
	ask(t, s, "POST", "/v1/documents:apply", documentsBody(aHold)).json(t, &applied)
	if len(applied.Withdrawn) != 3 || applied.Withdrawn[0].Slate != "archive/0" || applied.Withdrawn[0].UpTo != 70 || applied.Withdrawn[0].Stage != catalog.StageSent || applied.Withdrawn[0].Decision == "" {
		t.Errorf("%+v", applied.Withdrawn)
	}
	ask(t, s, "POST", "/v1/slates/nobody:trim", `{}`).problem(t, 404, CodeNotFound)
	ask(t, s, "POST", path, `{"upto":70}`).problem(t, 400, CodeBadBody)
}
