package query

// Stretch is how many chunks are worth a goroutine of their own.
var Stretch = &stretch
