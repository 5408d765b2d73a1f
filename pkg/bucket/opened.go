//go:build !testhooks

package bucket

// opened is what [Open] gives. Builds for tests put a gate before it; see gated.go.
func opened(b *Bucket) *Bucket { return b }
