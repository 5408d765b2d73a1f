package view

import (
	"cmp"
	"math"
	"strings"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// Registration is an owner's declaration with the region it lies in.
type Registration struct {
	Region string
	catalog.Registration
}

// Lease is a heartbeat with the region it lies in and its key there.
type Lease struct {
	Region string
	Key    string
	catalog.Lease
}

// Keys of rows, for [View.ChangedSince] and [View.Row]: the parts that never
// change while a row lives, separated by NUL.

// PlacementKey is the key of a placement, and of an owner's row.
func PlacementKey(region, root string) string { return join(region, root) }

// RestorePointKey is the key of a restore point.
func RestorePointKey(region, root, id string) string { return join(region, root, id) }

// FindingKey is the key of a finding.
func FindingKey(region, code, root, object string) string { return join(region, code, root, object) }

// ClusterKey is the key of a cluster.
func ClusterKey(region, name string) string { return join(region, name) }

const nul = "\x00"

func join(parts ...string) string { return strings.Join(parts, nul) }
func split(key string) []string   { return strings.Split(key, nul) }

var maxPosition uint64 = math.MaxUint64

func restoreTable() rows[catalog.RestorePoint] {
	type row = catalog.RestorePoint
	// Highest position first; those without one come last.
	position := func(r *row) (bool, uint64) {
		if r.Position == nil {
			return false, 0
		}
		return true, *r.Position
	}
	return newRows(
		func(r *row) string { return RestorePointKey(r.Region, r.Root, r.ID) },
		func(p []string) *row {
			if len(p) != 3 {
				return nil
			}
			return &row{Region: p[0], Root: p[1], ID: p[2]}
		},
		func(a, b *row) bool {
			if c := cmp.Or(cmp.Compare(a.Slate, b.Slate), cmp.Compare(a.Region, b.Region)); c != 0 {
				return c < 0
			}
			ka, pa := position(a)
			kb, pb := position(b)
			if ka != kb {
				return ka
			}
			return cmp.Or(cmp.Compare(pb, pa), cmp.Compare(a.Root, b.Root), cmp.Compare(a.ID, b.ID)) < 0
		},
		func(a, b *row) bool {
			return cmp.Or(cmp.Compare(a.Region, b.Region), cmp.Compare(a.Root, b.Root), cmp.Compare(a.ID, b.ID)) < 0
		})
}

func ownerTable() rows[catalog.OwnerRow] {
	type row = catalog.OwnerRow
	return newRows(
		func(r *row) string { return PlacementKey(r.Region, r.Root) },
		func(p []string) *row {
			if len(p) != 2 {
				return nil
			}
			return &row{Region: p[0], Root: p[1]}
		},
		func(a, b *row) bool {
			return cmp.Or(cmp.Compare(a.Slate, b.Slate), cmp.Compare(a.Region, b.Region), cmp.Compare(a.Root, b.Root)) < 0
		},
		func(a, b *row) bool {
			return cmp.Or(cmp.Compare(a.Region, b.Region), cmp.Compare(a.Root, b.Root)) < 0
		})
}

func findingTable() rows[catalog.Finding] {
	type row = catalog.Finding
	return newRows(
		func(r *row) string { return FindingKey(r.Region, r.Code, r.Root, r.Object) },
		func(p []string) *row {
			if len(p) != 4 {
				return nil
			}
			return &row{Region: p[0], Code: p[1], Root: p[2], Object: p[3]}
		},
		func(a, b *row) bool {
			return cmp.Or(cmp.Compare(a.Slate, b.Slate), cmp.Compare(a.Region, b.Region), cmp.Compare(a.Code, b.Code),
				cmp.Compare(a.Root, b.Root), cmp.Compare(a.Object, b.Object)) < 0
		},
		func(a, b *row) bool {
			return cmp.Or(cmp.Compare(a.Region, b.Region), cmp.Compare(a.Code, b.Code),
				cmp.Compare(a.Root, b.Root), cmp.Compare(a.Object, b.Object)) < 0
		})
}

func clusterTable() rows[catalog.Cluster] {
	type row = catalog.Cluster
	byKey := func(a, b *row) bool {
		return cmp.Or(cmp.Compare(a.Region, b.Region), cmp.Compare(a.Name, b.Name)) < 0
	}
	return newRows(
		func(r *row) string { return ClusterKey(r.Region, r.Name) },
		func(p []string) *row {
			if len(p) != 2 {
				return nil
			}
			return &row{Region: p[0], Name: p[1]}
		},
		byKey, byKey)
}

func regionTable() rows[catalog.Region] {
	type row = catalog.Region
	byName := func(a, b *row) bool { return a.Name < b.Name }
	return newRows(
		func(r *row) string { return r.Name },
		func(p []string) *row { return &row{Name: strings.Join(p, nul)} },
		byName, byName)
}

func registrationTable() rows[Registration] {
	byKey := func(a, b *Registration) bool {
		return cmp.Or(cmp.Compare(a.Region, b.Region), cmp.Compare(a.ID, b.ID)) < 0
	}
	return newRows(
		func(r *Registration) string { return join(r.Region, r.ID) },
		func([]string) *Registration { return nil },
		byKey, byKey)
}

func leaseTable() rows[Lease] {
	byKey := func(a, b *Lease) bool {
		return cmp.Or(cmp.Compare(a.Region, b.Region), cmp.Compare(a.Key, b.Key)) < 0
	}
	return newRows(
		func(r *Lease) string { return join(r.Region, r.Key) },
		func([]string) *Lease { return nil },
		byKey, byKey)
}
