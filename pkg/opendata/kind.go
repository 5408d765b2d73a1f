// Package opendata explains what OpenData's systems leave in a bucket beyond
// what SlateDB itself says: of which kind a slate is, how far a log reaches in
// its own sequence and where it was trimmed, and what is queued in a buffer,
// which is no SlateDB database at all. It decodes and never fetches: the caller
// brings names, bytes and rows.
//
// Begin with [KindOfExtractor] for a slate, [LogState] for one of kind "log",
// and [DecodeBuffer] for the manifest of a buffer.
package opendata

import "strings"

// The kinds of slates, spelled as everywhere in Quarry.
const (
	KindLog        = "log"
	KindTimeseries = "timeseries"
	KindVector     = "vector"
	KindKeyValue   = "keyvalue"
	KindBuffer     = "buffer"
)

// KindOfExtractor tells the kind from the name of the segment extractor, which
// is in the manifest: "opendata-log/v1" is "log", whatever the version. It
// knows nothing of other names.
func KindOfExtractor(name string) (kind string, ok bool) {
	rest, ok := strings.CutPrefix(name, "opendata-")
	if !ok {
		return "", false
	}
	kind, version, ok := strings.Cut(rest, "/v")
	if !ok || version == "" || strings.Trim(version, "0123456789") != "" {
		return "", false
	}
	switch kind {
	case KindLog, KindTimeseries, KindVector, KindKeyValue:
		return kind, true
	}
	return "", false
}

// KindOfFirstKey guesses the kind from a key, for a slate whose manifest names
// no extractor, as those of kind "keyvalue" do not. The first byte is the
// subsystem and the second, except in vector keys, the layout's version, so
// that a database of anyone's with keys in this range looks the same.
func KindOfFirstKey(key []byte) (kind string, ok bool) {
	if len(key) < 2 {
		return "", false
	}
	version := key[1] >= 1 && key[1] < 16
	switch {
	case key[0] == 1 && version:
		return KindTimeseries, true
	case key[0] == 2:
		return KindVector, true
	case key[0] == 3 && version:
		return KindLog, true
	case key[0] == 4 && version:
		return KindKeyValue, true
	}
	return "", false
}
