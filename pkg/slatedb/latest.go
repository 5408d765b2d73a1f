package slatedb

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
)

// Head is a manifest as it was read: what a database is at one moment. It does
// not change and may be shared.
type Head struct {
	Root string
	ID   uint64
	// Manifest is nil when the object is a pill or damaged; then the call
	// that gave the head gave an error too.
	Manifest *manifest.Manifest
	Raw      []byte
	SHA256   [sha256.Size]byte // of Raw
	// Modified is the store's time of the object; zero when it was found by
	// its id and not by listing.
	Modified time.Time

	// Pill says that this is the notice that the database is being deleted.
	Pill *manifest.Pill
	// Below is the last good manifest under a pill, nil when none was found
	// near.
	Below *Head
}

const (
	// probes is how many ids are asked for one by one before listing is the
	// cheaper way; the core does the same.
	probes = 4
	// races is how often the newest object may vanish between listing and
	// reading before something else must be wrong.
	races = 5
)

// errVanishes does not wrap [fs.ErrNotExist]: the database is there, and a
// caller must not take it for gone.
var errVanishes = fmt.Errorf("listed as the newest and not there when read, %d times", races)

// Latest reads the newest manifest of the database at root: one listing and
// one read, more only when a collector removed what was listed.
//
// Where there are no manifests it returns an error that wraps
// [fs.ErrNotExist]. A newest manifest that is no manifest gives a head without
// Manifest *and* an *[ObjectError]: one that holds a *[manifest.Pill] when the
// database is closed for deletion (Head.Pill and Head.Below then tell more), a
// *[manifest.FieldError] and the like when it is damaged. The core refuses to
// open such a database, whatever older manifests there are.
func Latest(ctx context.Context, s Store, root string) (*Head, error) {
	return newest(ctx, s, root, 0)
}

// newest is Latest among the ids greater than past.
func newest(ctx context.Context, s Store, root string, past uint64) (*Head, error) {
	var key string
	for range races {
		listed, err := listNumbered(ctx, s, below(root, "manifest/"), startAfter(root, past), func(key string) (uint64, bool) { return ParseManifestKey(root, key) })
		if err != nil {
			return nil, fmt.Errorf("list manifests of %s: %w", named(root), err)
		}
		if len(listed) == 0 {
			if past > 0 {
				return nil, nil
			}
			return nil, fmt.Errorf("no SlateDB database at %s: %w", named(root), fs.ErrNotExist)
		}
		top := listed[len(listed)-1]
		h, err := At(ctx, s, root, top.id)
		if errors.Is(err, fs.ErrNotExist) {
			key = ManifestKey(root, top.id)
			continue // collected since: list again
		}
		if h != nil {
			h.Modified = top.modified
			if h.Pill != nil {
				h.Below = lastGood(ctx, s, root, listed[:len(listed)-1])
			}
		}
		return h, err
	}
	return nil, &ObjectError{Key: key, Err: errVanishes}
}

// startAfter is the key behind which ids greater than past are listed.
func startAfter(root string, past uint64) string {
	if past == 0 {
		return "" // id 0 is none of a database, but let it be seen
	}
	return ManifestKey(root, past)
}

// lastGood returns the newest manifest among listed that decodes. A deletion
// may have overwritten all of them, so it does not look far.
func lastGood(ctx context.Context, s Store, root string, listed []numberedObject) *Head {
	for i := len(listed) - 1; i >= max(0, len(listed)-probes); i-- {
		if h, err := At(ctx, s, root, listed[i].id); err == nil {
			h.Modified = listed[i].modified
			return h
		}
	}
	return nil
}

// At reads manifest id of the database at root with one request. Its errors
// are those of [Latest]; Below is not looked for.
func At(ctx context.Context, s Store, root string, id uint64) (*Head, error) {
	key := ManifestKey(root, id)
	raw, err := s.Get(ctx, key)
	if err != nil {
		return nil, &ObjectError{Key: key, Err: err}
	}
	return headOf(root, id, raw)
}

// headOf is the head of manifest id with the given bytes.
func headOf(root string, id uint64, raw []byte) (*Head, error) {
	h := &Head{Root: root, ID: id, Raw: raw, SHA256: sha256.Sum256(raw)}
	m, err := manifest.Decode(raw)
	if err != nil {
		h.Pill, _ = errors.AsType[*manifest.Pill](err)
		return h, &ObjectError{Key: ManifestKey(root, id), Err: err}
	}
	h.Manifest = m
	return h, nil
}

// Next looks whether the database has gone on from h, with one request when it
// has not: it asks for the manifest after h, and as long as there is one for
// the one after that. It returns nil and no error when there is nothing new,
// else what [Latest] would; under a pill Below is the manifest before it that
// was read.
//
// Ids have no gaps, so a miss means that h is the newest, unless collectors
// have removed the next ones (then [Boundary] is at least h.ID) or the database
// was replaced: [Head.StillThere] tells.
func (h *Head) Next(ctx context.Context, s Store) (*Head, error) {
	if h.ID == math.MaxUint64 {
		return nil, nil
	}
	at := h
	for range probes {
		next, err := At(ctx, s, h.Root, at.ID+1)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if at == h {
				return nil, nil
			}
			return at, nil
		case next == nil:
			return nil, err
		case next.Pill != nil:
			next.Below = at.good()
			return next, err
		case err != nil:
			// Damaged. Whether there are others after it makes a
			// difference: then nobody reads this one.
			newer, again := newest(ctx, s, h.Root, next.ID)
			if newer == nil && again == nil {
				return next, err
			}
			return newer, again
		}
		at = next
	}
	// Far behind: one listing of what is still to come.
	newer, err := newest(ctx, s, h.Root, at.ID)
	if newer == nil && err == nil {
		return at, nil
	}
	if newer != nil && newer.Pill != nil && newer.Below == nil {
		newer.Below = at.good()
	}
	return newer, err
}

// good returns h, or what is below it when it is no manifest itself.
func (h *Head) good() *Head {
	if h.Manifest != nil {
		return h
	}
	return h.Below
}

// StillThere reads the manifest of h again and reports whether it is the same
// object. When it is gone, or another, the newest manifest must be looked up
// anew: it was collected, or the database is no longer the one that it was.
func (h *Head) StillThere(ctx context.Context, s Store) (bool, error) {
	key := ManifestKey(h.Root, h.ID)
	raw, err := s.Get(ctx, key)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, &ObjectError{Key: key, Err: err}
	}
	return sha256.Sum256(raw) == h.SHA256, nil
}

// ManifestIDs lists the manifests of the database at root, lowest id first.
// None at all is not an error.
func ManifestIDs(ctx context.Context, s Store, root string) ([]uint64, error) {
	listed, err := listNumbered(ctx, s, below(root, "manifest/"), "", func(key string) (uint64, bool) { return ParseManifestKey(root, key) })
	if err != nil {
		return nil, fmt.Errorf("list manifests of %s: %w", named(root), err)
	}
	ids := make([]uint64, len(listed))
	for i, o := range listed {
		ids[i] = o.id
	}
	return ids, nil
}

// Boundary returns the highest manifest id that a collector says it deleted; 0
// when none said so, as with collectors before 0.14. A boundary that is not
// below the newest manifest makes every open of SlateDB 0.14 to 0.17 spin.
func Boundary(ctx context.Context, s Store, root string) (uint64, error) {
	key := BoundaryKey(root)
	b, err := s.Get(ctx, key)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err == nil {
		var id uint64
		if id, err = ParseBoundary(b); err == nil {
			return id, nil
		}
	}
	return 0, &ObjectError{Key: key, Err: err}
}

// ParseBoundary reads a boundary object: a decimal number in ASCII. Space
// around it is passed over, as the core does.
func ParseBoundary(b []byte) (uint64, error) {
	text := strings.TrimSpace(string(b))
	id, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		if len(text) > 40 {
			text = text[:40] + "…"
		}
		return 0, fmt.Errorf("%q is not a decimal number of 64 bits: %w", text, manifest.ErrCorrupt)
	}
	return id, nil
}

// CompactorState is the newest .compactions object of a database.
type CompactorState struct {
	ID          uint64
	Compactions *manifest.Compactions
	Modified    time.Time // the store's
}

// LatestCompactions reads the newest state of the compactor of the database at
// root. Where no compactor has ever run the error wraps [fs.ErrNotExist]; a
// damaged object is an *[ObjectError].
func LatestCompactions(ctx context.Context, s Store, root string) (*CompactorState, error) {
	var key string
	for range races {
		listed, err := listNumbered(ctx, s, below(root, "compactions/"), "", func(key string) (uint64, bool) { return ParseCompactionsKey(root, key) })
		if err != nil {
			return nil, fmt.Errorf("list compactions of %s: %w", named(root), err)
		}
		if len(listed) == 0 {
			return nil, fmt.Errorf("no compactor has run on %s: %w", named(root), fs.ErrNotExist)
		}
		top := listed[len(listed)-1]
		key = CompactionsKey(root, top.id)
		raw, err := s.Get(ctx, key)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var c *manifest.Compactions
		if err == nil {
			c, err = manifest.DecodeCompactions(raw)
		}
		if err != nil {
			return nil, &ObjectError{Key: key, Err: err}
		}
		return &CompactorState{ID: top.id, Compactions: c, Modified: top.modified}, nil
	}
	return nil, &ObjectError{Key: key, Err: errVanishes}
}

type numberedObject struct {
	id       uint64
	modified time.Time
}

// listNumbered returns the numbered objects below prefix behind the key start, in the
// order of their ids; others are passed over.
func listNumbered(ctx context.Context, s Store, prefix, start string, parse func(key string) (uint64, bool)) ([]numberedObject, error) {
	var out []numberedObject
	err := s.Walk(ctx, prefix, start, func(key string, _ int64, modified time.Time) error {
		if id, ok := parse(key); ok {
			out = append(out, numberedObject{id, modified})
		}
		return nil
	})
	return out, err
}

// named is a root in messages.
func named(root string) string {
	if root = strings.Trim(root, "/"); root == "" {
		return "the bucket's root"
	}
	return root
}
