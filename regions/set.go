// Package regions is the configuration of the federation as values: which
// regions there are and what people decided about each. It parses and
// validates; it reads nothing and decides nothing.
//
// The set of regions that must agree is versioned configuration, never "who
// is connected" (P2). Begin with [Set].
package regions

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// ErrInvalid is wrapped by every refusal of what makes no sense.
var ErrInvalid = errors.New("invalid")

// ErrMembership says that a region's membership does not allow it.
var ErrMembership = errors.New("the region set does not allow it")

// ErrSecondPerson says that another person has to agree.
var ErrSecondPerson = errors.New("another person has to agree")

// Format is the version of the encoding that [Set.Encode] writes.
const Format = 1

// Set is one version of the region set. Treat it as a value: [Set.Clone]
// before changing one that others may hold.
type Set struct {
	Format int `json:"format"`
	// Number is the version: 1 for the first, one more with each change.
	Number uint64 `json:"number"`
	// Why says what changed against the version before, for people.
	Why     string   `json:"why,omitempty"`
	Regions []Region `json:"regions"` // ordered by name
}

// Region is a region of the set.
type Region struct {
	Name       string             `json:"name"`
	Membership catalog.Membership `json:"membership"`
	// BucketID is the incarnation of the region's bucket, as first heard from
	// its agent: another one is not this region's bucket until a person
	// accepts it. Empty: none heard yet.
	BucketID string `json:"bucket_id,omitempty"`
	// Reset, when not empty, says why the region waits for a person to accept
	// it.
	Reset string `json:"reset,omitempty"`
	// Retiring is who asked first that the region retires, where two people have
	// to; empty: nobody did.
	Retiring string `json:"retiring,omitempty"`
}

// maxRegions bounds a set: one bucket listing, one page, one screen each.
const maxRegions = 1000

// Parse reads a list of names as given on a command line, in any order. All
// regions are active.
func Parse(names []string) (Set, error) {
	s := Set{Format: Format, Number: 1}
	for _, n := range names {
		n = strings.TrimSpace(n)
		if n == "" {
			continue
		}
		s.Regions = append(s.Regions, Region{Name: n, Membership: catalog.Active})
	}
	slices.SortFunc(s.Regions, func(a, b Region) int { return strings.Compare(a.Name, b.Name) })
	return s, s.Validate()
}

// Decode reads what [Set.Encode] wrote. It is strict: a field it does not
// know may say who must agree, so it refuses rather than overlook it.
func Decode(b []byte) (Set, error) {
	var s Set
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return Set{}, fmt.Errorf("region set: %w: %w", err, ErrInvalid)
	}
	if _, err := d.Token(); err != io.EOF {
		return Set{}, fmt.Errorf("region set: something follows the JSON object: %w", ErrInvalid)
	}
	return s, s.Validate()
}

// Encode gives the set as one JSON object.
func (s Set) Encode() []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // plain strings and numbers only
	}
	return append(b, '\n')
}

// Validate checks the set. The message names the region and what would be
// right.
func (s Set) Validate() error {
	if s.Format != Format {
		return fmt.Errorf("region set: format %d, this version of quarry reads %d: %w", s.Format, Format, ErrInvalid)
	}
	if s.Number == 0 {
		return fmt.Errorf("region set: number 0, the first is 1: %w", ErrInvalid)
	}
	if len(s.Regions) == 0 {
		return fmt.Errorf("region set: no region: name at least one, as in --regions eu,us: %w", ErrInvalid)
	}
	if len(s.Regions) > maxRegions {
		return fmt.Errorf("region set: %d regions, at most %d: %w", len(s.Regions), maxRegions, ErrInvalid)
	}
	for i, r := range s.Regions {
		if err := CheckName(r.Name); err != nil {
			return err
		}
		if i > 0 && s.Regions[i-1].Name == r.Name {
			return fmt.Errorf("region %q is named twice: name it once: %w", r.Name, ErrInvalid)
		}
		if i > 0 && s.Regions[i-1].Name > r.Name {
			return fmt.Errorf("region set: %q comes after %q: order them by name: %w", r.Name, s.Regions[i-1].Name, ErrInvalid)
		}
		switch r.Membership {
		case catalog.Joining, catalog.Active, catalog.Retired:
		default:
			return fmt.Errorf("region %q: membership %q: one of joining, active, retired: %w", r.Name, r.Membership, ErrInvalid)
		}
	}
	return nil
}

// CheckName refuses names that do not work as a label in a metric, a path and
// a file name alike.
func CheckName(name string) error {
	letter := func(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9' }
	ok := name != "" && len(name) <= 63 && letter(name[0]) && letter(name[len(name)-1])
	for i := 0; ok && i < len(name); i++ {
		ok = letter(name[i]) || strings.IndexByte("-_.", name[i]) >= 0
	}
	if !ok {
		return fmt.Errorf("region %q: 1 to 63 letters and digits, with '-', '_' and '.' between, as in eu-west-1: %w", name, ErrInvalid)
	}
	return nil
}

// Names lists the names in order.
func (s Set) Names() []string {
	out := make([]string, 0, len(s.Regions))
	for _, r := range s.Regions {
		out = append(out, r.Name)
	}
	return out
}

// Same reports whether both sets name the same regions.
func (s Set) Same(o Set) bool { return slices.Equal(s.Names(), o.Names()) }

// Clone gives a copy that shares nothing.
func (s Set) Clone() Set {
	s.Regions = slices.Clone(s.Regions)
	return s
}

// Insert adds a region that the set does not have.
func (s *Set) Insert(r Region) {
	i, _ := slices.BinarySearchFunc(s.Regions, r.Name, func(r Region, n string) int { return strings.Compare(r.Name, n) })
	s.Regions = slices.Insert(s.Regions, i, r)
}

// Get finds a region; nil when the set has none of that name. The pointer is
// into the set.
func (s Set) Get(name string) *Region {
	i, found := slices.BinarySearchFunc(s.Regions, name, func(r Region, n string) int { return strings.Compare(r.Name, n) })
	if !found {
		return nil
	}
	return &s.Regions[i]
}
