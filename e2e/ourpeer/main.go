// Command ourpeer is our own writer as a process that can be killed: it speaks
// what slatedb_peer.py speaks, one JSON object a line. The store is the bucket
// in PEER_BUCKET.
package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/google/uuid"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/slatedb"
	"github.com/quarry-db/quarry/pkg/slatedb/sst"
)

type op struct {
	Op   string             `json:"op"`
	Root string             `json:"root"`
	Rows map[string]*string `json:"rows"` // in hex; nil: delete
	TTL  map[string]int64   `json:"ttl"`  // ms
	Keys []string           `json:"keys"`
	// Of open.
	Big     bool `json:"big"`     // tables as large as they are by default
	Compact bool `json:"compact"` // and collect what is older than a second
	Codec   int8 `json:"codec"`
	// Of checkpoint, scan and uncheckpoint.
	Name       string `json:"name"`
	Checkpoint string `json:"checkpoint"`
}

type answer struct {
	Error  string      `json:"error,omitempty"`
	ID     string      `json:"id,omitempty"`
	Rows   [][2]string `json:"rows"`
	Values []*string   `json:"values"`
}

func main() {
	b, err := bucket.Open(context.Background(), os.Getenv("PEER_BUCKET"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	p := peer{b: b, open: map[string]*slatedb.Writer{}}
	in := bufio.NewReader(os.Stdin)
	out := json.NewEncoder(os.Stdout)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return
		}
		var o op
		var a answer
		if err = json.Unmarshal(line, &o); err == nil {
			ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
			a, err = p.do(ctx, &o)
			cancel()
		}
		if err != nil {
			a.Error = err.Error()
		}
		if err := out.Encode(a); err != nil {
			return
		}
	}
}

type peer struct {
	b    *bucket.Bucket
	open map[string]*slatedb.Writer
}

func (p *peer) do(ctx context.Context, o *op) (a answer, err error) {
	w := p.open[o.Root]
	admin := slatedb.Admin{Store: p.b, Root: o.Root}
	switch o.Op {
	case "open":
		options := slatedb.Options{
			Poll:  200 * time.Millisecond,
			Table: sst.Options{Filter: true, FilterFrom: 1, Compression: o.Codec},
		}
		if !o.Big {
			options.FlushBytes = 16 << 10
		}
		if o.Compact {
			options.Tidy = &slatedb.Tidy{MinAge: time.Second}
		}
		w, err := slatedb.Open(ctx, p.b, o.Root, options)
		if err == nil {
			p.open[o.Root] = w
		}
		return a, err
	case "put":
		var batch slatedb.Batch
		for k, v := range o.Rows {
			key, err := hex.DecodeString(k)
			if err != nil {
				return a, err
			}
			if v == nil {
				batch.Delete(key)
				continue
			}
			value, err := hex.DecodeString(*v)
			if err != nil {
				return a, err
			}
			if ms := o.TTL[k]; ms > 0 {
				batch.PutTTL(key, value, time.Duration(ms)*time.Millisecond)
			} else {
				batch.Put(key, value)
			}
		}
		if w == nil {
			return a, errors.New("not open")
		}
		_, err := w.Write(ctx, &batch)
		return a, err
	case "l0":
		return a, w.Flush(ctx)
	case "close":
		delete(p.open, o.Root)
		return a, w.Close(ctx)
	case "checkpoint":
		c, _, err := admin.CreateCheckpoint(ctx, slatedb.CheckpointOptions{Name: o.Name})
		a.ID = c.ID.String()
		return a, err
	case "uncheckpoint":
		id, err := uuid.Parse(o.Checkpoint)
		if err == nil {
			_, err = admin.DeleteCheckpoint(ctx, id)
		}
		return a, err
	case "gc":
		_, err := admin.Collect(ctx, slatedb.CollectOptions{MinAge: time.Second})
		return a, err
	case "scan", "get":
		r, err := p.view(ctx, w, o)
		if err != nil {
			return a, err
		}
		for _, k := range o.Keys {
			key, err := hex.DecodeString(k)
			if err != nil {
				return a, err
			}
			e, err := r.Get(ctx, key)
			if errors.Is(err, fs.ErrNotExist) {
				a.Values = append(a.Values, nil)
				continue
			}
			if err != nil {
				return a, err
			}
			a.Values = append(a.Values, new(hex.EncodeToString(e.Value)))
		}
		for e, err := range r.Scan(ctx, nil, nil) {
			if err != nil {
				return a, err
			}
			a.Rows = append(a.Rows, [2]string{hex.EncodeToString(e.Key), hex.EncodeToString(e.Value)})
		}
		return a, nil
	}
	return a, fmt.Errorf("unknown op %q", o.Op)
}

// view is the open writer's, else one as anybody has it.
func (p *peer) view(ctx context.Context, w *slatedb.Writer, o *op) (*slatedb.Reader, error) {
	if w != nil && o.Checkpoint == "" {
		return w.Snapshot(), nil
	}
	return slatedb.OpenReader(ctx, p.b, o.Root, slatedb.ReaderOptions{Checkpoint: o.Checkpoint})
}
