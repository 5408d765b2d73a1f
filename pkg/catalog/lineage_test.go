package catalog

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func FuzzDecodeLineage(f *testing.F) {
	f.Add([]byte(`{"version":1,"root":"dbs/orders","manifest_sha256":"` + strings.Repeat("ab", 32) + `","source":{"root":"dbs/orders","incarnation":"01ARZ3NDEKTSV4RRFFQ69G5FAV"}}`))
	f.Add([]byte(`{"version":2}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := DecodeLineage(raw)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("%v is no refusal", err)
			}
			return
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		same, err := DecodeLineage(again)
		if err != nil || same.Of() != r.Of() || LineageKey(same.Root, same.ManifestSHA256) != LineageKey(r.Root, r.ManifestSHA256) {
			t.Errorf("%s came back as %+v, %v", raw, same, err)
		}
	})
}
