package plan

import "slices"

// Archived is the archived position of a region: that of its k-th newest verified
// restore point, so that each of k can still be brought up to date from a log that
// was cut there. verified are the positions of those that were looked at object
// by object, in any order; ok is false when there are fewer than k, or k is 0:
// nothing is archived. The agent asks this at the moment of acting, and the hub
// before it decides.
func Archived(verified []uint64, k uint64) (at uint64, ok bool) {
	if k == 0 || uint64(len(verified)) < k {
		return 0, false
	}
	sorted := slices.Sorted(slices.Values(verified))
	return sorted[uint64(len(sorted))-k], true
}
