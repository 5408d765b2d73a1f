package snapshots

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"
)

// Pruning is what somebody wants gone from a partition, and what must be left.
type Pruning struct {
	// Remove are the restore points to remove, by the names of their folders.
	// One that the pointer does not list any more is removed when it lies below
	// the pointer's newest position: an earlier attempt took it out of the list.
	Remove []string
	// Keep is how many verified restore points must be left; 0 stands for 1.
	Keep uint64
	// Floor is the position, inclusive, up to which the log may be cut. The
	// owner's own trimming follows the lowest position that the pointer lists, so
	// that is not lifted above Floor. Nil: it is not lifted at all.
	Floor *uint64
	// Grace is how long after its last change a folder that the pointer does not
	// list may be an upload that is going on: at least [LeastGrace], 0 stands for
	// [DefaultGrace].
	Grace time.Duration
	// SweepOrphans also removes the folders that the pointer does not list and
	// that have not changed for OrphansOlder, which is at least Grace.
	SweepOrphans bool
	OrphansOlder time.Duration
}

// DefaultGrace is how long an upload may take between two of its objects.
const DefaultGrace = time.Hour

// LeastGrace is what no decision shortens: an upload in progress looks exactly
// like an orphan.
const LeastGrace = 10 * time.Minute

// PrunePlan is how a pruning is carried out: the pointer first, then folder by
// folder.
type PrunePlan struct {
	Prefix string `json:"prefix"`
	// Was is the SHA-256 of the pointer that the plan is for, in hex.
	Was string `json:"was"`
	// Pointer is the new latest.json; empty: it stays as it is.
	Pointer []byte `json:"pointer,omitempty"`
	// Folders are removed, restore points before orphans.
	Folders []string `json:"folders"`
	Orphans int      `json:"orphans"` // how many of them
	// Keep are the paths that the pointer lists then, Verified how many of them
	// are verified now, Lowest their lowest position.
	Keep     []string `json:"keep"`
	Verified uint64   `json:"verified"`
	Lowest   uint64   `json:"lowest"`
}

// Why a pruning must not be done. Everything that [Partition.PlanPrune] returns
// wraps one of these.
var (
	ErrWouldLoseLast  = errors.New("the last restore point would go")
	ErrBelowMinimum   = errors.New("too few verified restore points would be left")
	ErrAboveFloor     = errors.New("the lowest restore point would be lifted above the floor")
	ErrMayBeUploading = errors.New("an upload may be going on")
	ErrNotAsMeant     = errors.New("the partition is not as it was meant")
)

// PlanPrune says how to do what is wanted, or why it must not be done. p must
// come from [Verify], now is the store's clock. It does nothing and is the only
// copy of the rule: nobody removes an object of a partition without a plan.
func (p Partition) PlanPrune(want Pruning, now time.Time) (PrunePlan, error) {
	if err := p.Err(); err != nil {
		return PrunePlan{}, fmt.Errorf("%w: %w", ErrNotAsMeant, err)
	}
	if !p.Walked || len(p.Points) == 0 {
		return PrunePlan{}, fmt.Errorf("%w: its objects were not looked at", ErrNotAsMeant)
	}
	grace := want.Grace
	if grace <= 0 {
		grace = DefaultGrace
	}
	grace = max(grace, LeastGrace)
	for _, s := range p.Unlisted {
		if s.Standing == OrphanNewer && s.MayBeInProgress(now, grace) {
			return PrunePlan{}, fmt.Errorf("%w: %s is newer than the pointer and changed %s ago; it is waited for until it is %s old",
				ErrMayBeUploading, s.Path, now.Sub(s.Modified).Round(time.Second), grace)
		}
	}
	plan := PrunePlan{Prefix: p.Prefix, Was: p.PointerSHA256}
	going := map[string]bool{}
	for _, path := range want.Remove {
		if err := checkFolderPath(path); err != nil {
			return PrunePlan{}, fmt.Errorf("%w: %w", ErrNotAsMeant, err)
		}
		going[path] = true
	}
	lowest := p.Points[0].LSN
	var kept []Snapshot
	for _, s := range p.Points {
		lowest = min(lowest, s.LSN)
		if going[s.Path] {
			plan.Folders = append(plan.Folders, s.Path)
			continue
		}
		kept = append(kept, s)
		plan.Keep = append(plan.Keep, s.Path)
		if s.State == Verified {
			plan.Verified++
		}
	}
	listed := len(plan.Folders)
	switch keep := max(want.Keep, 1); {
	case going[p.Pointer.Path]:
		return PrunePlan{}, fmt.Errorf("%w: %s is the newest, and what the pointer points to", ErrWouldLoseLast, p.Pointer.Path)
	case plan.Verified == 0 && listed > 0:
		return PrunePlan{}, fmt.Errorf("%w: none of the %d that would stay is verified", ErrWouldLoseLast, len(kept))
	case plan.Verified < keep && listed > 0:
		return PrunePlan{}, fmt.Errorf("%w: %d would be left, %d must be", ErrBelowMinimum, plan.Verified, keep)
	}
	plan.Lowest = kept[0].LSN
	for _, s := range kept {
		plan.Lowest = min(plan.Lowest, s.LSN)
	}
	if plan.Lowest != lowest && (want.Floor == nil || plan.Lowest > *want.Floor) {
		floor := "none is given"
		if want.Floor != nil {
			floor = fmt.Sprintf("it is %d", *want.Floor)
		}
		return PrunePlan{}, fmt.Errorf("%w: from %d to %d, and of the floor %s", ErrAboveFloor, lowest, plan.Lowest, floor)
	}
	var orphans []string
	for _, s := range p.Unlisted {
		_, _, named := parseFolder(s.Path)
		switch {
		case !named || s.Standing != OrphanOlder && s.Standing != OrphanNewer:
		case going[s.Path] && s.Standing == OrphanOlder:
			plan.Folders = append(plan.Folders, s.Path)
		case want.SweepOrphans && want.OrphansOlder > 0 && !s.MayBeInProgress(now, max(grace, want.OrphansOlder)):
			orphans = append(orphans, s.Path)
		}
	}
	plan.Folders, plan.Orphans = append(plan.Folders, orphans...), len(orphans)
	if listed > 0 {
		raw, err := p.pointerWithout(going)
		if err != nil {
			return PrunePlan{}, fmt.Errorf("%w: %w", ErrNotAsMeant, err)
		}
		plan.Pointer = raw
	}
	return plan, nil
}

// pointerWithout is latest.json without some of its list, byte for byte the
// same beside that: it may hold members that this version does not know.
func (p Partition) pointerWithout(going map[string]bool) ([]byte, error) {
	from, to, err := member(p.raw, "retained_snapshots")
	if err != nil {
		return nil, err
	}
	var list []json.RawMessage
	if err := json.Unmarshal(p.raw[from:to], &list); err != nil {
		return nil, err
	}
	var kept []json.RawMessage
	for _, one := range list {
		var ref struct {
			Path string `json:"path"`
		}
		if err := json.Unmarshal(one, &ref); err != nil {
			return nil, err
		}
		if !going[ref.Path] {
			kept = append(kept, one)
		}
	}
	if len(kept) == 0 || len(kept) == len(list) {
		return nil, fmt.Errorf("%d of %d entries would be left", len(kept), len(list))
	}
	raw := slices.Clone(p.raw[:from])
	raw = append(raw, '[')
	for i, one := range kept {
		if i > 0 {
			raw = append(raw, ',')
		}
		raw = append(append(raw, "\n    "...), one...)
	}
	raw = append(append(raw, "\n  ]"...), p.raw[to:]...)
	// What is written must say exactly what was meant.
	now, err := ParsePointer(raw)
	if err != nil {
		return nil, err
	}
	var said []string
	for _, r := range now.Retained {
		if going[r.Path] {
			return nil, fmt.Errorf("it would still list %s", r.Path)
		}
		said = append(said, r.Path)
	}
	if len(said) != len(kept) || now.Path != p.Pointer.Path || now.LSN != p.Pointer.LSN || now.Fingerprint != p.Pointer.Fingerprint {
		return nil, fmt.Errorf("it would list %q", said)
	}
	return raw, nil
}

// member finds a member's value in a JSON object. One that is there twice is an
// error: which of them counts depends on the reader.
func member(raw []byte, name string) (from, to int64, err error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if _, err := dec.Token(); err != nil {
		return 0, 0, err
	}
	found := false
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return 0, 0, err
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return 0, 0, err
		}
		if key != name {
			continue
		}
		if found {
			return 0, 0, fmt.Errorf("%s is there twice", name)
		}
		found, to = true, dec.InputOffset()
		from = to - int64(len(value))
	}
	if !found {
		return 0, 0, fmt.Errorf("%s is missing", name)
	}
	return from, to, nil
}

// PruneStore is what carrying out a plan asks of an object store beside
// reading. *bucket.Bucket is one.
type PruneStore interface {
	Store
	// GetVersion returns the whole object and what names these contents to
	// Replace.
	GetVersion(ctx context.Context, key string) (data []byte, version string, err error)
	// Replace writes the object if it still is of that version, and else fails
	// and leaves it alone. A store that cannot returns errors.ErrUnsupported.
	Replace(ctx context.Context, key string, data []byte, version string) error
	Delete(ctx context.Context, key string) error
}

// ErrPointerMoved says that the pointer is not the one of the plan any more: a
// snapshot was made meanwhile. Nothing was done; plan again.
var ErrPointerMoved = errors.New("the pointer has moved")

// MovePointer replaces the pointer by the plan's, if it is still the one that
// the plan is for. Doing it twice is the same as once. Until it returns nil no
// folder of the plan may be touched.
func (plan PrunePlan) MovePointer(ctx context.Context, s PruneStore) error {
	raw, version, err := s.GetVersion(ctx, pointerKey(plan.Prefix))
	if err != nil {
		return fmt.Errorf("read %s: %w", pointerKey(plan.Prefix), err)
	}
	switch {
	case len(plan.Pointer) == 0 || bytes.Equal(raw, plan.Pointer):
		return nil
	case hexSum(raw) != plan.Was:
		return fmt.Errorf("%s: %w", pointerKey(plan.Prefix), ErrPointerMoved)
	}
	if err := s.Replace(ctx, pointerKey(plan.Prefix), plan.Pointer, version); err != nil {
		return fmt.Errorf("replace %s: %w", pointerKey(plan.Prefix), err)
	}
	return nil
}

func hexSum(raw []byte) string {
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

// RemoveFolder deletes a folder of the plan: first what metadata.json names and
// whatever else there is, metadata.json last, so that what is left of a removal
// that was interrupted never looks whole. It reads the pointer before it and
// leaves alone what that lists. Doing it twice is the same as once. allowed is
// asked before each delete; an error of it ends the removal.
func (plan PrunePlan) RemoveFolder(ctx context.Context, s PruneStore, path string, allowed func(context.Context) error) (objects, size uint64, err error) {
	if !slices.Contains(plan.Folders, path) {
		return 0, 0, fmt.Errorf("%s is not of the plan: %w", path, fs.ErrInvalid)
	}
	if err := checkFolderPath(path); err != nil {
		return 0, 0, fmt.Errorf("%w: %w", err, fs.ErrInvalid)
	}
	now, err := ReadPartition(ctx, s, plan.Prefix)
	if err != nil {
		return 0, 0, err
	}
	if err := now.Err(); err != nil {
		return 0, 0, err
	}
	for _, r := range now.Pointer.Retained {
		if r.Path == path {
			return 0, 0, fmt.Errorf("the pointer lists %s: %w", path, ErrPointerMoved)
		}
	}
	below := join(plan.Prefix, path) + "/"
	var last []string
	type object struct {
		key  string
		size int64
	}
	var data []object
	err = s.Walk(ctx, below, "", func(key string, size int64, _ time.Time) error {
		if strings.TrimPrefix(key, below) == metadataName {
			last = append(last, key)
		}
		data = append(data, object{key, size})
		return nil
	})
	if err != nil {
		return 0, 0, fmt.Errorf("list %s: %w", below, err)
	}
	slices.SortStableFunc(data, func(a, b object) int {
		x, y := slices.Contains(last, a.key), slices.Contains(last, b.key)
		switch {
		case x == y:
			return 0
		case x:
			return 1
		}
		return -1
	})
	for _, o := range data {
		if err := allowed(ctx); err != nil {
			return objects, size, err
		}
		if err := s.Delete(ctx, o.key); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return objects, size, fmt.Errorf("delete %s: %w", o.key, err)
		}
		objects++
		size += uint64(o.size)
	}
	return objects, size, nil
}
