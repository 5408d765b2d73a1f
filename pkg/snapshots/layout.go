package snapshots

import (
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

const (
	pointerName  = "latest.json"
	metadataName = "metadata.json"
)

func join(prefix, name string) string {
	if prefix == "" {
		return name
	}
	return prefix + "/" + name
}

func pointerKey(prefix string) string { return join(prefix, pointerName) }

// IsPartition reports whether a folder called name, with these folders and
// objects directly in it, is a partition's folder of a snapshot repository. It
// is one when it has snapshot folders, whatever its name and with or without a
// pointer; or when it has a pointer and its name is a partition number, since
// other software writes files called latest.json too. Folder names may end in
// a slash.
func IsPartition(name string, folders, objects []string) bool {
	for _, f := range folders {
		if _, _, ok := parseFolder(strings.TrimSuffix(f, "/")); ok {
			return true
		}
	}
	if _, ok := partitionNumber(name); !ok {
		return false
	}
	for _, o := range objects {
		if o == pointerName {
			return true
		}
	}
	return false
}

// RepositoryPartitions returns the folders, of those directly below a prefix,
// that may be partitions by their names, in the given order and without
// slashes. The prefix is a repository's root when [IsPartition] holds for one
// of them.
func RepositoryPartitions(folders []string) []string {
	var names []string
	for _, f := range folders {
		f = strings.TrimSuffix(f, "/")
		if _, ok := partitionNumber(f); ok {
			names = append(names, f)
		}
	}
	return names
}

// partitionNumber reads a partition's folder name: a decimal number of 16 bits
// as Restate prints it, without leading zeros.
func partitionNumber(name string) (uint64, bool) {
	n, err := strconv.ParseUint(name, 10, 16)
	if err != nil || strconv.FormatUint(n, 10) != name {
		return 0, false
	}
	return n, true
}

// parseFolder reads a snapshot folder's name, lsn_<20 digits>-snap_<id>.
func parseFolder(name string) (lsn uint64, id string, ok bool) {
	rest, ok := strings.CutPrefix(name, "lsn_")
	if !ok {
		return 0, "", false
	}
	digits, id, ok := strings.Cut(rest, "-")
	if !ok || len(digits) != 20 || len(id) <= len("snap_") || !strings.HasPrefix(id, "snap_") {
		return 0, "", false
	}
	for _, c := range []byte(digits) {
		if c < '0' || c > '9' {
			return 0, "", false
		}
	}
	lsn, err := strconv.ParseUint(digits, 10, 64)
	if err != nil {
		return 0, "", false
	}
	return lsn, id, true
}

// checkFolderPath refuses a path of a pointer that is not the plain name of a
// folder directly below the partition's: no slash, no dots, nothing absolute.
// Whatever is read or one day deleted for a snapshot lies below that folder.
func checkFolderPath(path string) error {
	if !fs.ValidPath(path) || path == "." || strings.ContainsAny(path, "/\\\x00") {
		return fmt.Errorf("path %q is not the name of a folder in the partition's own", path)
	}
	return nil
}

// fileName turns a name from metadata.json into the object's name below the
// snapshot's folder. Real servers write a slash before it.
func fileName(name string) (string, error) {
	n := strings.TrimPrefix(name, "/")
	if !fs.ValidPath(n) || n == "." || strings.ContainsAny(n, "\\\x00") {
		return "", fmt.Errorf("file name %q leads out of the snapshot's folder", name)
	}
	return n, nil
}
