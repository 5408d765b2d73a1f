package catalog

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"time"

	"github.com/oklog/ulid/v2"
)

// LineagePrefix is where records of copies are.
const LineagePrefix = Prefix + "lineage/"

// LineageRecord says where a copy of a database came from: with whom it may be
// compared. It lies beside the copy, at [LineageKey], and never changes.
type LineageRecord struct {
	Version int    `json:"version"` // 1
	Root    string `json:"root"`
	// ManifestSHA256 is that of manifest 1 of the copy, in hex: another database
	// that is made at the root later does not descend from the source.
	ManifestSHA256 string        `json:"manifest_sha256"`
	At             time.Time     `json:"at"`
	By             string        `json:"by"`
	Source         LineageSource `json:"source"`
}

// LineageSource is what was copied.
type LineageSource struct {
	Bucket      string `json:"bucket"`              // URL
	Region      string `json:"region,omitempty"`    // from its .quarry/region.json
	BucketID    string `json:"bucket_id,omitempty"` // the same
	Root        string `json:"root"`
	Incarnation string `json:"incarnation,omitempty"` // from its .quarry/incarnations/; empty: nobody has recorded one
	// Lineage is that of the source, when it is not its incarnation: it was a
	// copy itself, which nobody had written to.
	Lineage        string `json:"lineage,omitempty"`
	ManifestID     uint64 `json:"manifest_id"`
	ManifestSHA256 string `json:"manifest_sha256"`
	WALLastSeen    uint64 `json:"wal_id_last_seen"`
}

// LineageKey is the key of the record of a copy; manifest is the SHA-256 of its
// manifest 1 in hex.
func LineageKey(root, manifest string) string {
	return LineagePrefix + url.PathEscape(root) + "/" + manifest[:min(16, len(manifest))] + ".json"
}

// DecodeLineage reads a record. A refusal wraps [ErrInvalid].
func DecodeLineage(raw []byte) (LineageRecord, error) {
	var r LineageRecord
	if err := json.Unmarshal(raw, &r); err != nil {
		return LineageRecord{}, fmt.Errorf("lineage: %w: %w", err, ErrInvalid)
	}
	if sum, err := hex.DecodeString(r.ManifestSHA256); err != nil || len(sum) != 32 || r.Version != 1 || CheckName(r.Root) != nil {
		return LineageRecord{}, fmt.Errorf("lineage: version %d, root %.200q, manifest %.80q: not a record of a copy: %w", r.Version, r.Root, r.ManifestSHA256, ErrInvalid)
	}
	for _, id := range []string{r.Source.Incarnation, r.Source.Lineage} {
		if _, err := ulid.ParseStrict(id); id != "" && err != nil {
			return LineageRecord{}, fmt.Errorf("lineage: incarnation %.80q of the source: %w", id, ErrInvalid)
		}
	}
	return r, nil
}

// Of is the lineage that the copy inherits; empty: the source's is not known, so
// it has its own.
func (r *LineageRecord) Of() string {
	if r.Source.Lineage != "" {
		return r.Source.Lineage
	}
	return r.Source.Incarnation
}
