package bucket

import "time"

// SetPatience shortens what a call without a deadline may take.
func SetPatience(b *Bucket, d time.Duration) { b.core.patience = d }
