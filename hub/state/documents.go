package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/regions"
)

// ErrMembership says that a region's membership does not allow it.
var ErrMembership = regions.ErrMembership

// ErrRecord says that a record of the ledger cannot be understood: without it
// nobody knows what is held back, so nothing may be decided.
var ErrRecord = errors.New("a record of the ledger cannot be understood")

// Keys of the ledger that [State.Replay] reads. What else is there is of
// others.
const (
	policyFolder   = "document/policy/"
	holdFolder     = "document/hold/"
	revisionKey    = "document/revision"
	regionFolder   = "region/"
	freezeFolder   = "freeze/"
	releasedFolder = "released/"
)

func policyKey(name string) string   { return policyFolder + name }
func holdKey(name string) string     { return holdFolder + name }
func regionKey(name string) string   { return regionFolder + name }
func freezeKey(scope string) string  { return freezeFolder + scope }
func releasedKey(name string) string { return releasedFolder + name }

// recordVersion is that of every value below. A higher one is refused: it may
// hold something back in a way that this program does not know.
const recordVersion = 1

type documentRecord struct {
	Version int    `json:"version"`
	Kind    string `json:"kind"`
	Name    string `json:"name"`
	regions.Applied
	Releasing string `json:"releasing,omitempty"`
}

type revisionRecord struct {
	Version  int    `json:"version"`
	Revision uint64 `json:"revision"`
}

type freezeRecord struct {
	Version int `json:"version"`
	regions.Freeze
}

// releasedRecord says that a hold which agents enforced was released: its
// checkpoints may go, whenever they are seen.
type releasedRecord struct {
	Version int       `json:"version"`
	Name    string    `json:"name"`
	By      string    `json:"by"`
	At      time.Time `json:"at"`
}

type regionRecord struct {
	Version    int                `json:"version"`
	Name       string             `json:"name"`
	Membership catalog.Membership `json:"membership"`
	Number     uint64             `json:"number"` // of the set with which it came
	Retiring   string             `json:"retiring,omitempty"`
}

func documentOf(kind, name, releasing string, a regions.Applied) documentRecord {
	return documentRecord{Version: recordVersion, Kind: kind, Name: name, Applied: a, Releasing: releasing}
}

// record has a value put under a key of the ledger.
func (s *State) record(key string, value any) {
	b, err := json.Marshal(value)
	if err != nil {
		panic(fmt.Errorf("state: %T: %w", value, err)) // our own plain values
	}
	s.out.Records = append(s.out.Records, Record{Key: key, Value: b})
}

// Replay takes what the ledger remembers into a state fresh from [New], before
// its first step; records may come in any order, each key once. The error
// wraps [ErrRecord]: then the hub must not decide.
func (s *State) Replay(r Record) error {
	if r.Value == nil {
		return nil
	}
	var err error
	switch name, ok := strings.CutPrefix(r.Key, policyFolder); {
	case ok:
		err = s.replayDocument(regions.KindPolicy, name, r.Value)
	case strings.HasPrefix(r.Key, holdFolder):
		err = s.replayDocument(regions.KindHold, r.Key[len(holdFolder):], r.Value)
	case r.Key == revisionKey:
		var v revisionRecord
		if err = decodeRecord(r.Value, &v, func() int { return v.Version }); err == nil {
			next := *s.rules
			next.Number = max(next.Number, v.Revision)
			s.rules = &next
		}
	case strings.HasPrefix(r.Key, freezeFolder):
		var v freezeRecord
		if err = decodeRecord(r.Value, &v, func() int { return v.Version }); err == nil {
			if v.Scope != r.Key[len(freezeFolder):] {
				err = fmt.Errorf("it is a freeze of %q", v.Scope)
			} else if next, ferr := s.rules.Frozen(v.Freeze); ferr != nil {
				err = ferr
			} else {
				s.rules = next
			}
		}
	case strings.HasPrefix(r.Key, releasedFolder):
		var v releasedRecord
		if err = decodeRecord(r.Value, &v, func() int { return v.Version }); err == nil {
			if v.Name != r.Key[len(releasedFolder):] {
				err = fmt.Errorf("it is of hold %q", v.Name)
			} else {
				s.rules = s.rules.WithReleased(v.Name)
			}
		}
	case strings.HasPrefix(r.Key, regionFolder):
		err = s.replayRegion(r.Key[len(regionFolder):], r.Value)
	case strings.HasPrefix(r.Key, decisionFolder), r.Key == countersKey, r.Key == breakerKey:
		err = s.replayDecision(r)
	case strings.HasPrefix(r.Key, settledFolder):
		err = s.replaySettled(r.Key[len(settledFolder):], r.Value)
	case strings.HasPrefix(r.Key, auditPrefix):
		return s.replayAudit(r)
	default:
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %w", r.Key, err, ErrRecord)
	}
	s.showRules()
	return nil
}

func (s *State) replayDocument(kind, name string, value []byte) error {
	var v documentRecord
	if err := decodeRecord(value, &v, func() int { return v.Version }); err != nil {
		return err
	}
	if v.Kind != kind || v.Name != name {
		return fmt.Errorf("it is %s %q", v.Kind, v.Name)
	}
	d, err := regions.ParseDocuments(name, []byte(v.Source))
	if err != nil {
		return err
	}
	next := *s.rules
	next.Number = max(next.Number, v.Revision)
	switch {
	case kind == regions.KindPolicy && len(d.Policies) == 1 && len(d.Holds) == 0 && d.Policies[0].Name == name:
		p := d.Policies[0]
		p.Applied = v.Applied
		next.Policies = put(next.Policies, p, func(p regions.Policy) string { return p.Name })
	case kind == regions.KindHold && len(d.Holds) == 1 && len(d.Policies) == 0 && d.Holds[0].Name == name:
		h := d.Holds[0]
		h.Applied, h.Releasing = v.Applied, v.Releasing
		next.Holds = put(next.Holds, h, func(h regions.Hold) string { return h.Name })
	default:
		return errors.New("its source is another document")
	}
	s.rules = &next
	return nil
}

// put gives a sorted list with x in it, in the place of one of the same name.
func put[T any](in []T, x T, name func(T) string) []T {
	i, found := slices.BinarySearchFunc(in, name(x), func(a T, n string) int { return strings.Compare(name(a), n) })
	in = slices.Clone(in)
	if found {
		in[i] = x
		return in
	}
	return slices.Insert(in, i, x)
}

// replayRegion puts the set right where the ledger knows better: it is written
// before the set's own object.
func (s *State) replayRegion(name string, value []byte) error {
	var v regionRecord
	if err := decodeRecord(value, &v, func() int { return v.Version }); err != nil {
		return err
	}
	if v.Name != name {
		return fmt.Errorf("it is of region %q", v.Name)
	}
	known := s.set.Get(name)
	if known != nil && known.Membership == v.Membership && known.Retiring == v.Retiring {
		return nil
	}
	set := s.set.Clone()
	if known == nil {
		set.Insert(regions.Region{Name: name, Membership: v.Membership})
	}
	r := set.Get(name)
	r.Membership, r.Retiring = v.Membership, v.Retiring
	if err := set.Validate(); err != nil {
		return err
	}
	set.Why = "put right from the ledger"
	s.set, s.setDone = set, false
	if s.regions[name] == nil {
		s.addRegion(name)
	}
	s.names = s.set.Names()
	s.stirred[name] = true
	return nil
}

// decodeRecord reads a value strictly: what it does not know may be what holds
// back.
func decodeRecord(b []byte, into any, version func() int) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("something follows the JSON object")
	}
	if v := version(); v != recordVersion {
		return fmt.Errorf("version %d, this program reads %d", v, recordVersion)
	}
	return nil
}
