package wire

import (
	"github.com/quarry-db/quarry/pkg/catalog"
	quarryv1 "github.com/quarry-db/quarry/proto/quarry/v1"
)

// Sum is what a record adds to a [catalog.Digest]. Both ends compute it from
// the bytes that travel, so that they agree even about fields that one of them
// does not know. A withdrawn fact adds nothing; one that cannot be sent, or
// that the hub cannot understand, adds its sum all the same.
func Sum(r *quarryv1.Record) catalog.Sum {
	switch {
	case len(r.GetUnsendable()) > 0:
		return catalog.NewSum(r.GetKind(), string(r.GetKey()), r.GetRevision(), 1, r.GetUnsendable())
	case len(r.GetGone()) > 0:
		return catalog.Sum{}
	}
	return catalog.NewSum(r.GetKind(), string(r.GetKey()), r.GetRevision(), 0, r.GetValue())
}
