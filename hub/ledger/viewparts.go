package ledger

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"reflect"

	"github.com/quarry-db/quarry/hub/pack"
	"github.com/quarry-db/quarry/hub/state"
)

// part is one of the smaller tables of a saved view: blocks of packed rows,
// each with how many rows and how many bytes it has before it.
type part struct {
	name, shape string
	rows        func() int
	write       func(io.Writer) error
	read        func(*bufio.Reader) error
}

// parts are those of a view that is saved, or is read.
func parts(v *state.SavedView) []part {
	return []part{
		partOf("restore-points", &v.RestorePoints),
		partOf("owners", &v.Owners),
		partOf("findings", &v.Findings),
		partOf("registrations", &v.Registrations),
		partOf("leases", &v.Leases),
		partOf("held", &v.Held),
		partOf(permitsPart, &v.Permits),
		partOf(pinsPart, &v.Pins),
	}
}

// Parts that are younger than the others: a view may have been saved before
// there were any.
const (
	permitsPart = "permits"
	pinsPart    = "pins"
)

const (
	fullBlock = 128 << 10
	maxBlock  = 256 << 20 // a row may be long
)

func partOf[T any](name string, rows *[]*T) part {
	form := pack.Of(reflect.TypeFor[T]())
	return part{
		name: name, shape: form.Shape(),
		rows:  func() int { return len(*rows) },
		write: func(w io.Writer) error { return writeRows(w, form, *rows) },
		read:  func(in *bufio.Reader) error { return readRows(in, form, rows) },
	}
}

func writeRows[T any](w io.Writer, form *pack.Form, rows []*T) error {
	var b pack.Writer
	n := uint64(0)
	for i, r := range rows {
		b.Add(form, r)
		if n++; len(b.B) < fullBlock && i < len(rows)-1 {
			continue
		}
		head := binary.AppendUvarint(binary.AppendUvarint(nil, n), uint64(len(b.B)))
		if _, err := w.Write(head); err != nil {
			return err
		}
		if _, err := w.Write(b.B); err != nil {
			return err
		}
		b.Reset()
		n = 0
	}
	return nil
}

var errRows = errors.New("rows are not what they should be")

// readRows reads rows up to the end. A block's rows lie together in memory,
// and so do their texts; they stay while one of them is in use.
func readRows[T any](in *bufio.Reader, form *pack.Form, into *[]*T) error {
	same := pack.Same{}
	for {
		n, err := binary.ReadUvarint(in)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		size, err := binary.ReadUvarint(in)
		if err != nil {
			return fmt.Errorf("read a block: %w", err)
		}
		if size > maxBlock {
			return fmt.Errorf("a block of %d bytes", size)
		}
		text, err := readText(in, int(size))
		if err != nil {
			return fmt.Errorf("read a block: %w", err)
		}
		r := pack.NewReader(text, same)
		if n == 0 || !r.Fits(form, n) {
			return errRows
		}
		rows := make([]T, n)
		for i := range rows {
			if !r.Next(form, &rows[i]) {
				return errRows
			}
			*into = append(*into, &rows[i])
		}
		if !r.Whole() {
			return errRows
		}
	}
}

// readText reads so many bytes, and takes memory as they come: their number
// may be a lie.
func readText(in io.Reader, size int) (string, error) {
	var b []byte
	for len(b) < size {
		at := len(b)
		b = append(b, make([]byte, min(size-at, max(at, 2*fullBlock)))...)
		if _, err := io.ReadFull(in, b[at:]); err != nil {
			return "", err
		}
	}
	return string(b), nil
}
