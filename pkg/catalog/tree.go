package catalog

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// RowPrefix is what every key of the catalog slate begins with; the rest is a
// path with slashes, see [RegistrationPath].
const RowPrefix = "\x51\x01"

// HeadPath is the row that holds the catalog's revision. It is written in each
// batch, so that a batch and its revision are there together or not at all.
const HeadPath = "catalog"

// Row is one row of the catalog slate.
type Row struct {
	Path     string          `json:"path"`     // the key without [RowPrefix]
	Revision uint64          `json:"revision"` // of the batch that wrote it; 0: the row does not say
	Value    json.RawMessage `json:"value"`    // a JSON object with a version
}

// Key is the row's key in the catalog slate.
func (r Row) Key() []byte { return []byte(RowPrefix + r.Path) }

// RegistrationPath is the row of the first registration of a slate's name.
func RegistrationPath(slate string) string { return "slate/" + url.PathEscape(slate) + "/registration" }

// DeclaredPath is the row of a declaration besides the first one of its slate.
func DeclaredPath(slate, id string) string {
	return "slate/" + url.PathEscape(slate) + "/declared/" + url.PathEscape(id)
}

// HoldsDeclaration reports whether the row at path is a declaration, which
// [ReadRegistration] can read.
func HoldsDeclaration(path string) bool {
	_, beside, rest, ok := Branch(path)
	return ok && !beside && (rest == "registration" || strings.HasPrefix(rest, "declared/"))
}

// EncodeRow gives the row of v, which must become a JSON object with a version.
func EncodeRow(path string, v any, revision uint64) (Row, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return Row{}, fmt.Errorf("row %s: %w", path, err)
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil || fields["version"] == nil {
		return Row{}, fmt.Errorf("row %s: no JSON object with a version: %w", path, ErrInvalid)
	}
	fields["revision"] = fmt.Appendf(nil, "%d", revision)
	raw, err = json.Marshal(fields)
	return Row{path, revision, raw}, err
}

// DecodeRow reads a row of the catalog slate, of whatever writer. A refusal
// wraps [ErrInvalid].
func DecodeRow(key, value []byte) (Row, error) {
	path, ours := strings.CutPrefix(string(key), RowPrefix)
	if !ours || path == "" {
		return Row{}, fmt.Errorf("key %q is not of the catalog: %w", key, ErrInvalid)
	}
	var head struct {
		Version  int    `json:"version"`
		Revision uint64 `json:"revision"`
	}
	if err := json.Unmarshal(value, &head); err != nil {
		return Row{}, fmt.Errorf("row %q: %w: %w", path, err, ErrInvalid)
	}
	if head.Version < 1 {
		return Row{}, fmt.Errorf("row %q: version %d: %w", path, head.Version, ErrInvalid)
	}
	return Row{path, head.Revision, slices.Clone(value)}, nil
}

// ReadRegistration reads a declaration wherever it lies. A refusal wraps
// [ErrInvalid].
func ReadRegistration(key string, raw []byte) (Registration, error) {
	r, err := DecodeRegistration(key, raw)
	if err != nil {
		return r, err
	}
	if r.Root = strings.Trim(r.Root, "/"); strings.HasPrefix(r.Root+"/", Prefix) {
		return r, fmt.Errorf("registration %s: root %q is Quarry's own: %w", key, r.Root, ErrInvalid)
	}
	return r, nil
}

// Settled leaves out of declarations, by id, those that repeat the one before
// them: nothing was said in between of the same slate or the same root. Who
// stands is the same without them, and a registrant that registers at each
// start leaves one row and not one a start.
func Settled(all map[string]Registration) map[string]Registration {
	kept := map[string]Registration{}
	bySlate, byRoot := map[string]string{}, map[string]string{} // the last kept id
	for _, id := range slices.Sorted(maps.Keys(all)) {
		r := all[id]
		last := bySlate[r.Slate]
		if last != "" && last == byRoot[r.Root] && saysTheSame(kept[last], r) {
			continue
		}
		kept[id] = r
		bySlate[r.Slate], byRoot[r.Root] = id, id
	}
	return kept
}

func saysTheSame(a, b Registration) bool {
	return a.Version == b.Version && a.Action == b.Action && a.Slate == b.Slate && a.Root == b.Root && a.Kind == b.Kind &&
		a.Owner == b.Owner && a.Contact == b.Contact && a.Domain == b.Domain && maps.Equal(a.Labels, b.Labels)
}

// DeclarationPaths says in which row each declaration lies: the first
// registration of a slate's name in its own, all others beside it.
func DeclarationPaths(all map[string]Registration) map[string]Registration {
	paths := map[string]Registration{}
	for _, id := range slices.Sorted(maps.Keys(all)) {
		r := all[id]
		path := RegistrationPath(r.Slate)
		if _, taken := paths[path]; taken || r.Action != Register {
			path = DeclaredPath(r.Slate, id)
		}
		paths[path] = r
	}
	return paths
}
