package state_test

import (
	"testing"
	"time"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// lettingGo is a decision that removes a restore point.
func lettingGo(region string) state.Proposal {
	floor := uint64(90)
	return state.Proposal{Decision: catalog.Decision{
		Verb: catalog.VerbPrune, Region: region, Slate: "archive/0", Root: "archive/0", Incarnation: "I" + region, Lineage: "X", PositionDomain: "lsn",
		Position: &floor, Parameters: catalog.Parameters{Restorable: 1, Remove: []string{"s10"}}, Expires: time.Hour,
	}}
}

// P5, P11: what people forbid stops what would let something go and has not
// reached its agent, whatever its verb: what was not sent ends, and what was sent
// is not said again to an agent that may not have it.
func TestWhatIsForbiddenSinceDoesNotLeave(t *testing.T) {
	for _, c := range []struct {
		name   string
		forbid func(f *crew)
	}{
		{"a freeze", func(f *crew) { _ = f.step(state.Freeze{Scope: "all", By: "ann"}) }},
		{"a hold", func(f *crew) { f.apply(holdAt50) }},
		{"another policy", func(f *crew) { f.apply(policyOf("{require: {all: true}, safetyGap: {positions: 50}}", "")) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newCrew(t, state.Config{}, 1, "ap", "eu")
			f.apply(policyOf("{require: {all: true}}", ""))
			f.pass(10 * time.Second)
			said := map[string]int{}
			f.left = func(d *catalog.Decision) {
				if d.Verb == catalog.VerbPrune {
					said[d.Region]++
				}
			}
			f.deaf = true // its agents are told, and do not hear
			silent := func(region string) {
				_ = f.step(state.Closed{Session: f.session[region]})
				delete(f.session, region)
			}
			silent("ap")
			if err := f.step(state.Propose{By: "ann", Decisions: []state.Proposal{lettingGo("ap"), lettingGo("eu")}}); err != nil {
				t.Fatal(err)
			}
			if said["eu"] != 1 || said["ap"] != 0 {
				t.Fatalf("said %v", said)
			}
			silent("eu")
			f.now = f.now.Add(time.Second)
			c.forbid(f)
			f.connect("ap")
			f.connect("eu")
			f.pass(time.Minute)
			if said["eu"] != 1 || said["ap"] != 0 {
				t.Errorf("said %v since", said)
			}
			for _, d := range f.s.Decisions() {
				if d.Decision.Verb == catalog.VerbPrune && d.Decision.Region == "ap" && d.Stage != state.StageRefused {
					t.Errorf("in ap it is %s", d.Stage)
				}
			}
		})
	}
}

// An agent that does not withdraw is asked again, less and less often.
func TestAWithdrawalThatIsRefusedIsTriedLessOften(t *testing.T) {
	f := newCrew(t, state.Config{}, 1, "ap", "eu")
	f.apply(policyOf("{require: {all: true}}", ""))
	f.pass(10 * time.Second)
	f.is("archive/0", "ap=100 eu=100")
	f.refuse = func(d *catalog.Decision) *catalog.Reason {
		if d.Verb == catalog.VerbWithdraw {
			return &catalog.Reason{Code: catalog.CodeNotAllowed, Message: "this agent does not withdraw"}
		}
		return nil
	}
	f.apply(holdAt50)
	f.pass(30 * time.Minute)
	asked := map[string]int{}
	for _, d := range f.s.Decisions() {
		if d.Decision.Verb == catalog.VerbWithdraw {
			asked[d.Decision.Region]++
		}
	}
	for region, n := range asked {
		if n < 3 || n > 8 {
			t.Errorf("%s was asked %d times in half an hour", region, n)
		}
	}
	if len(asked) != 2 {
		t.Errorf("%v", asked)
	}
}

// Budgets count what was done in the last hour, however much was done since.
func TestBudgetsOutliveTheDecisionsThatAreForgotten(t *testing.T) {
	f := newCrew(t, state.Config{Budgets: state.Budgets{SlateHour: 2}}, 1, "ap", "eu")
	f.apply(policyOf("{require: {all: true}}", ""))
	f.pass(10 * time.Second)
	f.snapshot("ap", "archive/0", 200)
	f.snapshot("eu", "archive/0", 150)
	f.pass(10 * time.Second)
	f.is("archive/0", "ap=150 eu=150") // two in each region: that is all
	f.left = func(d *catalog.Decision) {
		if d.Verb == catalog.VerbPermit {
			t.Errorf("permit up to %d for %s", *d.Position, d.Region)
		}
	}
	for range 11 { // more than are kept
		var many []state.Proposal
		for range 1000 {
			many = append(many, state.Proposal{Decision: catalog.Decision{Verb: catalog.VerbVerify, Region: "ap", Slate: "archive/0", Root: "archive/0", Incarnation: "Iap", Lineage: "X", Expires: time.Minute}})
		}
		if err := f.step(state.Propose{By: "ann", Decisions: many}); err != nil {
			t.Fatal(err)
		}
		f.told = nil
		f.now = f.now.Add(4 * time.Minute) // nobody answers: they are over
		for region := range f.session {
			f.beat(region)
		}
		_ = f.step(state.Tick{})
	}
	f.snapshot("eu", "archive/0", 190)
	f.pass(time.Minute)
	f.is("archive/0", "ap=150 eu=150")
}
