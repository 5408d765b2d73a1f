package execute

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/quarry-db/quarry/agent/report"
	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/bucket/faulty"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/snapshots"
	"github.com/quarry-db/quarry/pkg/snapshots/snapshotstest"
)

// What somebody who wants harm, or a bad moment, can do with decisions. The
// bucket and the repositories in it are real; what is seen of databases is said.

// siege is a region's bucket and whoever acts in it.
type siege struct {
	*testing.T
	b      *bucket.Bucket
	faults *faulty.Faults
	sights map[string]catalog.Sighting
	points map[string][]catalog.RestorePoint
	told   []catalog.Outcome
	onDuty bool
	o      Options
	e      *Executor
	next   uint64 // sequence
}

const (
	ourLedger = "6f1f9f7e-53a5-4a3c-9d6b-0c1f6d4f4a11"
	repoRoot  = "archive/0"
	lineage   = "restate:quarry-test:0"
)

func (s *siege) Prove(_ context.Context, root string) (catalog.Sighting, error) {
	g, ok := s.sights[root]
	if !ok {
		return g, fmt.Errorf("%s: %w", root, fs.ErrNotExist)
	}
	return g, nil
}

func (s *siege) Points(_ context.Context, root string) ([]catalog.RestorePoint, error) {
	all := append([]catalog.RestorePoint{}, s.points[root]...)
	for i := range all {
		if all[i].State == catalog.RestoreVerified {
			now := time.Now()
			all[i].VerifiedAt = &now
		}
	}
	return all, nil
}

func (s *siege) Resync() {}

func (s *siege) NextOrder(ctx context.Context) (report.Order, error) {
	<-ctx.Done()
	return report.Order{}, ctx.Err()
}

func (s *siege) Settle(o catalog.Outcome) error {
	if err := o.Validate(); err != nil {
		return err // as the report does: nobody could be told of number 0
	}
	s.told = append(s.told, o)
	return nil
}

func (s *siege) Settled() <-chan []string { return nil }
func (s *siege) Obey(uint64, string)      {}

func besieged(t *testing.T, f func(s *siege)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		inner, err := bucket.Open(t.Context(), "mem://")
		if err != nil {
			t.Fatal(err)
		}
		defer inner.Close()
		s := &siege{T: t, sights: map[string]catalog.Sighting{}, points: map[string][]catalog.RestorePoint{}, onDuty: true}
		s.b, s.faults = faulty.New(inner)
		s.o = Options{Region: "eu", Holder: "k1", OnDuty: func() bool { return s.onDuty }, Prefixes: []string{""}, Allow: built,
			Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
		p := snapshotstest.Partition{Prefix: repoRoot, Snapshots: []snapshotstest.Snapshot{{LSN: 10}, {LSN: 20}, {LSN: 30}}}
		if err := p.Write(t.Context(), s.b); err != nil {
			t.Fatal(err)
		}
		s.sights[repoRoot] = catalog.Sighting{Slate: repoRoot, Root: repoRoot, Kind: catalog.KindSnapshots, Seen: catalog.SeenLive,
			Incarnation: "I1", IncarnationKept: true, PositionDomain: "lsn", Lineage: lineage}
		s.begin()
		f(s)
	})
}

// begin begins a process; the one before is gone with all it knew.
func (s *siege) begin() {
	s.Helper()
	e, err := New(s.b, s, s, s.o)
	if err != nil {
		s.Fatal(err)
	}
	s.e = e
}

// order makes the next decision about the archive.
func (s *siege) order(v catalog.Verb, change func(*catalog.Decision)) catalog.Decision {
	s.next++
	d := catalog.Decision{ID: uuid.NewString(), Verb: v, Region: "eu", Ledger: ourLedger, Term: 1, Sequence: s.next, Expires: 10 * time.Minute}
	if !v.OfRegion() {
		d.Slate, d.Root, d.Incarnation = repoRoot, repoRoot, "I1"
	}
	if v == catalog.VerbPermit {
		d.PositionDomain, d.Lineage, d.Position = "lsn", lineage, new(uint64(10))
		d.Parameters.Restorable, d.Parameters.ValidFor = 1, time.Hour
	}
	if change != nil {
		change(&d)
	}
	return d
}

func (s *siege) send(d catalog.Decision) {
	s.e.receive(report.Order{Decision: d, Received: time.Now(), Err: d.Validate()})
}

// pass lets time pass while the process does what is due.
func (s *siege) pass(d time.Duration) {
	for until := time.Now().Add(d); time.Now().Before(until); {
		next := s.e.step(s.Context())
		time.Sleep(min(max(next, time.Millisecond), time.Until(until)))
	}
	s.e.step(s.Context())
}

// ended is how a decision ended: "" when it has not.
func (s *siege) ended(d catalog.Decision) catalog.OutcomeState {
	for _, o := range s.told {
		if o.Decision == d.ID {
			return o.State
		}
	}
	return ""
}

// may is how far the owner of a slate may cut now, nil: not at all.
func (s *siege) may(slate string) *uint64 {
	s.Helper()
	p, err := s.e.rulingPermit(s.Context(), slate)
	if err != nil {
		s.Fatal(err)
	}
	if p == nil || !p.Rules("I1", time.Now()) {
		return nil
	}
	return p.UpTo
}

// A decision waits for nine of its ten minutes until its agent is on duty, and
// the store takes no permit for a minute. Its agent is restarted; the permit
// must not come after the tenth minute.
func TestTheTimeOfADecisionCountsFromReceiptOverARestart(t *testing.T) {
	besieged(t, func(s *siege) {
		s.onDuty = false
		d := s.order(catalog.VerbPermit, nil)
		s.send(d)
		s.pass(9 * time.Minute)
		s.onDuty = true
		s.faults.Add(faulty.Fault{Method: bucket.PutNew, Keys: catalog.PermitsPrefix + "*", Times: -1, Err: fs.ErrPermission})
		s.pass(30 * time.Second)
		s.begin()
		s.pass(45 * time.Second)
		s.faults.Clear()
		s.pass(20 * time.Minute)
		if up := s.may(repoRoot); up != nil || s.ended(d) == catalog.OutcomeDone || s.ended(d) == "" {
			s.Errorf("it is %s, and the owner may cut", s.ended(d))
		}
	})
}

// A thaw could not be done at once, and a freeze was decided after it. What was
// decided last is what is so.
func TestAThawThatIsLateDoesNotUndoAFreeze(t *testing.T) {
	besieged(t, func(s *siege) {
		thaw, freeze := s.order(catalog.VerbThaw, nil), s.order(catalog.VerbFreeze, nil)
		s.faults.Add(faulty.Fault{Method: bucket.List, Keys: freezePrefix, Times: 1, Err: fs.ErrPermission})
		s.send(thaw)
		s.pass(10 * time.Millisecond)
		s.send(freeze)
		s.pass(time.Minute)
		if s.ended(freeze) != catalog.OutcomeDone || s.e.thawed(s.Context()) == nil {
			s.Errorf("the freeze is %s, the thaw %s, frozen: %v", s.ended(freeze), s.ended(thaw), s.e.thawed(s.Context()))
		}
	})
}

// The number that a process had in mind is taken by another one meanwhile: what
// narrows takes the next.
func TestWhatNarrowsIsDoneThoughAnotherTookItsNumber(t *testing.T) {
	for _, v := range []catalog.Verb{catalog.VerbFreeze, catalog.VerbWithdraw} {
		t.Run(string(v), func(t *testing.T) {
			besieged(t, func(s *siege) {
				prefix, key := catalog.PermitsPrefix, catalog.PermitKey(repoRoot, 1)
				up := uint64(10)
				var other any = catalog.Permit{Version: 1, Number: 1, Slate: repoRoot, Root: repoRoot, Incarnation: "I1", UpTo: &up, PositionDomain: "lsn", Lineage: lineage,
					Decision: uuid.NewString(), Ledger: ourLedger, Term: 1, Sequence: 1, Issued: time.Now(), NotAfter: time.Now().Add(time.Hour)}
				if v == catalog.VerbFreeze {
					prefix, key = freezePrefix, numberedKey(freezePrefix, 1)
					other = frost{Version: 1, Decision: uuid.NewString()}
				}
				s.next = 1
				d := s.order(v, nil)
				s.faults.Add(faulty.Fault{Method: bucket.PutNew, Keys: prefix + "*", Times: 1, Err: fs.ErrPermission})
				s.send(d)
				s.pass(10 * time.Millisecond)
				raw, err := json.Marshal(other)
				if err != nil {
					s.Fatal(err)
				}
				if err := s.b.PutNew(s.Context(), key, raw); err != nil {
					s.Fatal(err)
				}
				s.pass(15 * time.Minute)
				if s.ended(d) != catalog.OutcomeDone {
					s.Errorf("%s is %s: %+v", v, s.ended(d), s.told)
				}
			})
		})
	}
}

// Positions of a log's records are no sequence numbers of its rows: the restore
// points of a log say nothing of how far its records may be cut.
func TestAPermitIsComparedWithPositionsOfItsOwnKind(t *testing.T) {
	besieged(t, func(s *siege) {
		const log = "dbs/log"
		s.sights[log] = catalog.Sighting{Slate: log, Root: log, Kind: catalog.KindLog, Seen: catalog.SeenLive, Incarnation: "I1", IncarnationKept: true, PositionDomain: "log-seq", Lineage: "I1"}
		s.points[log] = []catalog.RestorePoint{{Root: log, ID: "p", State: catalog.RestoreVerified, Position: new(uint64(5000)), PositionDomain: "seq", Lineage: "I1", Incarnation: "I1"}}
		for _, domain := range []string{"log-seq", ""} {
			d := s.order(catalog.VerbPermit, func(d *catalog.Decision) {
				d.Slate, d.Root, d.Lineage, d.PositionDomain, d.Position = log, log, "I1", domain, new(uint64(1000))
			})
			s.send(d)
			s.pass(time.Second)
			if up := s.may(log); up != nil || s.ended(d) != catalog.OutcomeRefused {
				s.Errorf("in %q it is %s", domain, s.ended(d))
			}
		}
	})
}

// What nobody can read any more may not be cut any more either.
func TestAPermitOfWhatCannotBeReadIsWithdrawn(t *testing.T) {
	besieged(t, func(s *siege) {
		s.send(s.order(catalog.VerbPermit, nil))
		s.pass(time.Second)
		if s.may(repoRoot) == nil {
			s.Fatal("no permit, nothing is proven")
		}
		g := s.sights[repoRoot]
		g.Seen, g.Reason = catalog.SeenUnreadable, "the pointer is damaged"
		s.sights[repoRoot] = g
		d := s.order(catalog.VerbWithdraw, nil)
		s.send(d)
		s.pass(time.Minute)
		if s.may(repoRoot) != nil || s.ended(d) != catalog.OutcomeDone {
			s.Errorf("the withdrawal is %s, and the owner may cut", s.ended(d))
		}
	})
}

// The record that says how far this region has come cannot be read. Whoever it
// obeyed is not known then, so nothing irreversible is done for anybody.
func TestWhoCannotReadWhomItObeyedDoesNothingIrreversible(t *testing.T) {
	besieged(t, func(s *siege) {
		s.send(s.order(catalog.VerbPermit, func(d *catalog.Decision) { d.Term = 5 }))
		s.pass(time.Second)
		key := takenKey(ourLedger, s.next)
		if err := s.b.Delete(s.Context(), key); err != nil {
			s.Fatal(err)
		}
		if err := s.b.PutNew(s.Context(), key, []byte("{")); err != nil {
			s.Fatal(err)
		}
		s.begin()
		d := s.order(catalog.VerbPermit, func(d *catalog.Decision) { d.Term, d.Position = 4, new(uint64(20)) })
		s.send(d)
		s.pass(20 * time.Minute)
		if s.ended(d) == catalog.OutcomeDone {
			s.Error("a hub of an older term is obeyed")
		}
	})
}

// The owner's own trimming follows the lowest position that the pointer lists.
// Whatever floor a decision names, it is not lifted above what is permitted here.
func TestAPruningDoesNotLiftTheLowestAboveWhatIsPermitted(t *testing.T) {
	besieged(t, func(s *siege) {
		prune := func() catalog.Decision {
			return s.order(catalog.VerbPrune, func(d *catalog.Decision) {
				d.Position, d.PositionDomain, d.Lineage = new(uint64(1<<60)), "lsn", lineage
				d.Parameters.Restorable, d.Parameters.Remove = 1, []string{snapshotstest.Folder(10)}
			})
		}
		first := prune()
		s.send(first)
		s.pass(time.Minute)
		p, err := snapshots.Verify(s.Context(), s.b, repoRoot, nil)
		if err != nil || len(p.VerifiedLSNs()) != 3 || s.ended(first) != catalog.OutcomeRefused {
			s.Errorf("nothing is permitted, and it is %s: %d are left, %v", s.ended(first), len(p.Points), err)
		}
		s.send(s.order(catalog.VerbPermit, func(d *catalog.Decision) { d.Position = new(uint64(20)) }))
		s.pass(time.Second)
		second := prune()
		s.send(second)
		s.pass(2 * time.Hour) // what was just written may be an upload
		p, err = snapshots.Verify(s.Context(), s.b, repoRoot, nil)
		if err != nil || len(p.VerifiedLSNs()) != 2 || s.ended(second) != catalog.OutcomeDone {
			s.Errorf("up to 20 is permitted, and it is %s: %d are left, %v, %+v", s.ended(second), len(p.Points), err, s.told)
		}
	})
}

// Ten thousand decisions with something changed in each, many of them sent
// again, to processes that end and begin: nothing above the position of the k-th
// newest verified restore point is ever permitted, no restore point that must be
// left is lost, nothing is touched outside.
func TestTenThousandMutatedDecisionsNeverExceedTheLocalLimit(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	besieged(t, func(s *siege) {
		s.o.Prefixes = []string{"archive"}
		s.begin()
		if err := s.b.PutNew(s.Context(), "other/0/object", []byte("not ours")); err != nil {
			s.Fatal(err)
		}
		s.send(s.order(catalog.VerbPermit, nil)) // whom to obey is known
		s.pass(time.Second)
		var past []catalog.Decision
		pick := func(of ...string) string { return of[rng.IntN(len(of))] }
		permitted := uint64(0)
		for i := range 10_000 {
			d := s.order(built[rng.IntN(len(built))], nil)
			if rng.IntN(3) == 0 {
				d = s.order(catalog.VerbPermit, nil)
			}
			d.Position, d.Parameters.Restorable = new(rng.Uint64N(60)), rng.Uint64N(5)
			if d.Position != nil && rng.IntN(4) == 0 {
				d.Position = new(rng.Uint64())
			}
			d.PositionDomain, d.Lineage = "lsn", lineage
			d.Parameters.Remove = []string{snapshotstest.Folder(10 * (1 + rng.Uint64N(3)))}
			d.Parameters.Grace = time.Duration(rng.IntN(3)) * time.Millisecond
			d.Parameters.SweepOrphans, d.Parameters.OrphansOlder = rng.IntN(2) == 0, time.Millisecond
			d.Parameters.ValidFor = time.Duration(rng.IntN(3)) * time.Minute
			switch rng.IntN(14) {
			case 0:
				d.Root = pick("other/0", ".quarry/permits", "archive", "archive/1", "archive/0/x")
			case 1:
				d.Slate = pick("other/0", "archive/1")
			case 2:
				d.Incarnation = pick("I0", "I2", "")
			case 3:
				d.Term = rng.Uint64N(3)
			case 4:
				d.Sequence = rng.Uint64N(s.next + 1)
			case 5:
				d.Ledger = uuid.NewString()
			case 6:
				d.Region = "us"
			case 7:
				d.Lineage = pick("", "another")
			case 8:
				d.PositionDomain = pick("", "seq")
			case 9:
				d.Expires = time.Duration(rng.IntN(2)) * time.Millisecond
			case 10:
				d.Preconditions = []catalog.Precondition{{What: pick("pointer-sha256", "strange", catalog.PreRestorePoint), Value: pick("x", snapshotstest.Folder(20))}}
			case 11:
				if len(past) > 0 {
					was := past[rng.IntN(len(past))]
					d.ID = was.ID // another decision under its name
				}
			}
			past = append(past, d)
			s.send(d)
			for rng.IntN(3) == 0 {
				s.send(past[rng.IntN(len(past))])
			}
			s.pass(time.Duration(rng.IntN(5)) * time.Millisecond)
			if rng.IntN(50) == 0 {
				s.begin()
			}
			if rng.IntN(30) == 0 { // a freeze would leave nothing to be seen
				s.send(s.order(catalog.VerbThaw, nil))
			}
			if i%20 > 0 {
				continue
			}
			keys := []string{}
			err := s.b.Walk(s.Context(), "", "", func(key string, _ int64, _ time.Time) error {
				keys = append(keys, key)
				return nil
			})
			if err != nil {
				s.Fatal(err)
			}
			for _, key := range keys {
				if !strings.HasPrefix(key, catalog.PermitsPrefix) {
					continue
				}
				raw, err := s.b.Get(s.Context(), key)
				if err != nil {
					s.Fatal(err)
				}
				p, err := catalog.DecodePermit(raw)
				if err != nil {
					s.Fatal(err)
				}
				if p.UpTo == nil {
					continue
				}
				permitted = max(permitted, *p.UpTo)
				if p.Slate != repoRoot || p.Incarnation != "I1" || p.Lineage != lineage || p.PositionDomain != "lsn" || p.Ledger != ourLedger || *p.UpTo > 30 {
					s.Fatalf("permitted: %+v", p)
				}
			}
			p, err := snapshots.Verify(s.Context(), s.b, repoRoot, nil)
			if err != nil || len(p.VerifiedLSNs()) == 0 || p.VerifiedLSNs()[0] != 30 {
				s.Fatalf("restore points: %+v, %v", p.Points, err)
			}
			if lowest, _ := p.ArchivedLSN(); lowest > 10 && permitted < lowest {
				s.Fatalf("the lowest is %d, at most %d was ever permitted", lowest, permitted)
			}
			if _, err := s.b.Get(s.Context(), "other/0/object"); err != nil {
				s.Fatal(err)
			}
		}
		done := map[catalog.OutcomeState]int{}
		for _, o := range s.told {
			done[o.State]++
		}
		s.Logf("outcomes told: %v; permitted up to %d", done, permitted)
		if permitted == 0 || done[catalog.OutcomeDone] == 0 {
			s.Error("nothing was ever done: nothing is proven")
		}
	})
}
