// Package wire turns facts into records that travel between agents and hubs,
// and records into facts, refusing on the way in whatever the hub could not
// stand behind. It is pure: no I/O, no clock.
//
// A record that cannot be understood is an error about that one record; the
// frame it came in and the session go on. Begin with [Encode] and [Decode].
package wire

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/quarry-db/quarry/pkg/catalog"
	quarryv1 "github.com/quarry-db/quarry/proto/quarry/v1"
)

// Versions of the protocol that this build speaks.
const (
	MinVersion = 1
	MaxVersion = 3
	// Moving is the first version with moves, digests by bucket, repairs and
	// credit.
	Moving = 2
	// Deciding is the first version with decisions and outcomes.
	Deciding = 3
)

// Limits, in bytes.
const (
	MaxFrame  = 256 << 10      // one encoded frame
	MaxRecord = MaxFrame - 512 // one encoded record; the rest is the frame around it
	MaxKey    = 4 << 10
	maxWhy    = 1 << 10  // reasons of withdrawn and unsendable records
	maxText   = 64 << 10 // any one text in a value
	maxName   = 1 << 10  // any one identifier in a value
)

// Encode makes the record that carries f, without its revision. The record
// can always travel: a Sighting that is too large loses checkpoints, which
// MoreCheckpoints counts; any other value that cannot travel gives a record
// that says so, and an error with the same reason. Only a fact whose key
// itself cannot travel gives no record.
//
// The same checks are made by [Decode], so that an agent hears at once what
// the hub would refuse.
func Encode(f catalog.Fact) (*quarryv1.Record, error) {
	key := f.Key
	if key == "" {
		key = KeyOf(f)
	}
	if err := CheckKey(uint32(f.Kind), key); err != nil {
		return nil, fmt.Errorf("%s %.200q: %w", KindName(uint32(f.Kind)), key, err)
	}
	rec := &quarryv1.Record{Kind: uint32(f.Kind), Key: []byte(key)}
	if f.Gone != "" {
		if f.Kind == catalog.FactPlacement {
			return nil, fmt.Errorf("placement %q: a placement is never withdrawn, it becomes missing: %w", key, catalog.ErrInvalid)
		}
		rec.Gone = []byte(clip(f.Gone, maxWhy))
		return rec, nil
	}
	f.Key = key
	value, err := encodeValue(f)
	if err == nil {
		rec.Value = value
		if n := proto.Size(rec) + revisionSize; n > MaxRecord {
			err = fmt.Errorf("%d bytes, at most %d travel: %w", n, MaxRecord, catalog.ErrInvalid)
		}
	}
	if err != nil {
		err = fmt.Errorf("%s %q: %w", KindName(uint32(f.Kind)), key, err)
		rec.Value = nil
		rec.Unsendable = []byte(clip(err.Error(), maxWhy))
	}
	return rec, err
}

// revisionSize is what the revision adds to a record at most.
const revisionSize = 11

// Decode reads and checks a record of the agent process that began at start.
// When it refuses, the fact still has whatever of kind, key, revision and sum
// could be read, and no value.
func Decode(start uint64, r *quarryv1.Record) (catalog.Fact, error) {
	f := catalog.Fact{
		Key:      string(r.GetKey()),
		Revision: catalog.Revision{Start: start, Counter: r.GetRevision()},
		Sum:      Sum(r),
	}
	if k := r.GetKind(); k >= uint32(catalog.FactPlacement) && k <= uint32(catalog.FactPermit) {
		f.Kind = catalog.FactKind(k)
	} else {
		return f, fmt.Errorf("kind %d is not known to this version: %w", k, catalog.ErrInvalid)
	}
	if err := CheckKey(r.GetKind(), f.Key); err != nil {
		return f, err
	}
	if r.GetRevision() == 0 {
		return f, fmt.Errorf("revision 0: revisions count from 1: %w", catalog.ErrInvalid)
	}
	if len(r.GetUnsendable()) > 0 {
		return f, fmt.Errorf("the agent cannot send it: %s: %w", clip(string(r.GetUnsendable()), maxWhy), catalog.ErrInvalid)
	}
	if len(r.GetGone()) > 0 {
		if f.Kind == catalog.FactPlacement {
			return f, fmt.Errorf("a placement is never withdrawn, it becomes missing: %w", catalog.ErrInvalid)
		}
		f.Gone = clip(string(r.GetGone()), maxWhy)
		return f, nil
	}
	withValue := f
	if err := decodeValue(&withValue, r.GetValue()); err != nil {
		return f, err
	}
	return withValue, nil
}

// KeyOf is the key that a fact's value asks for, empty when it has none.
func KeyOf(f catalog.Fact) string {
	switch {
	case f.Kind == catalog.FactPlacement && f.Sighting != nil:
		return catalog.PlacementKey(f.Sighting.Root)
	case f.Kind == catalog.FactRestorePoint && f.RestorePoint != nil:
		return catalog.RestorePointKey(f.RestorePoint.Root, f.RestorePoint.ID)
	case f.Kind == catalog.FactRegistration && f.Registration != nil:
		return f.Registration.ID
	case f.Kind == catalog.FactLease && f.Lease != nil:
		return catalog.LeaseKey(f.Lease.Slate, f.Lease.Role, f.Lease.ID)
	case f.Kind == catalog.FactFinding && f.Finding != nil:
		return catalog.FindingKey(f.Finding.Code, f.Finding.Root, f.Finding.Object)
	case f.Kind == catalog.FactHold && f.Pin != nil:
		return catalog.PinKey(f.Pin.Root, f.Pin.ID)
	case f.Kind == catalog.FactPermit && f.Permit != nil:
		return catalog.PermitFactKey(f.Permit.Slate)
	}
	return ""
}

// KindName names a record's kind for people.
func KindName(kind uint32) string {
	switch catalog.FactKind(min(kind, 255)) {
	case catalog.FactPlacement:
		return "placement"
	case catalog.FactRestorePoint:
		return "restore-point"
	case catalog.FactRegistration:
		return "registration"
	case catalog.FactLease:
		return "lease"
	case catalog.FactFinding:
		return "finding"
	case catalog.FactHold:
		return "hold"
	case catalog.FactPermit:
		return "permit"
	}
	return fmt.Sprintf("kind-%d", kind)
}

// DecodeFrame reads one frame of an agent. It never panics. The bytes of the
// frame's records are those of b.
func DecodeFrame(b []byte) (*quarryv1.AgentFrame, error) {
	if len(b) > MaxFrame {
		return nil, fmt.Errorf("frame of %d bytes, at most %d: %w", len(b), MaxFrame, catalog.ErrInvalid)
	}
	if f := quickFrame(b); f != nil {
		return f, nil
	}
	f := new(quarryv1.AgentFrame)
	if err := proto.Unmarshal(b, f); err != nil {
		return nil, fmt.Errorf("frame of %d bytes does not decode: %w: %w", len(b), err, catalog.ErrInvalid)
	}
	return f, nil
}

// RecordSize is what a record takes in a batch or a delta.
func RecordSize(r *quarryv1.Record) int {
	n := proto.Size(r)
	return 1 + protowire.SizeBytes(n)
}

// MaxRecords is how many bytes of records one frame takes.
const MaxRecords = MaxFrame - 256
