package watch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/google/uuid"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// ErrAnotherRegion is wrapped when the bucket belongs to a region of another
// name. Starting again will not cure it.
var ErrAnotherRegion = errors.New("the bucket belongs to another region")

// descriptor is what is known of .quarry/region.json. It belongs to the region
// task, but for id and why.
type descriptor struct {
	id, why string // under Watcher.mu
	// had: this process has seen or written one. From then on its absence is
	// a loss to be reported, never something to be mended.
	had bool
}

// lookAtRegion reads the descriptor, or writes it when there is none and the
// hub said that it knows of no bucket for this region. The error is another
// region's name, or a store that does not answer.
func (w *Watcher) lookAtRegion(ctx context.Context) error {
	raw, err := w.look.Get(ctx, catalog.RegionKey)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return w.withoutDescriptor(ctx)
	case errors.Is(err, fs.ErrPermission):
		w.setBucket("", fmt.Sprintf("%s cannot be read: %v", catalog.RegionKey, err))
		return nil
	case err != nil:
		return err
	}
	return w.takeDescriptor(raw)
}

func (w *Watcher) takeDescriptor(raw []byte) error {
	d, err := catalog.DecodeRegion(raw)
	if err != nil {
		w.setBucket("", err.Error())
		return nil
	}
	if d.Region != w.o.Region {
		w.setBucket("", fmt.Sprintf("%s says region %q", catalog.RegionKey, d.Region))
		return fmt.Errorf("%w: %s in %s says region %q, this agent is configured for %q; give it the bucket of %q, or --region %s",
			ErrAnotherRegion, catalog.RegionKey, w.b.URL(), d.Region, w.o.Region, w.o.Region, d.Region)
	}
	w.region.had = true
	w.setBucket(d.Bucket, "")
	return nil
}

// waitingForHub is how every new bucket begins, and no cause to warn anybody.
const waitingForHub = catalog.RegionKey + " is not there; it is written once the hub says that it knows no bucket for this region"

func (w *Watcher) withoutDescriptor(ctx context.Context) error {
	known, welcomed, _ := w.to.HubBucket()
	switch {
	case w.region.had:
		w.setBucket("", catalog.RegionKey+" was there and is gone: the bucket was emptied or replaced")
		return nil
	case !welcomed:
		w.setBucket("", waitingForHub)
		return nil
	case known != "":
		w.setBucket("", fmt.Sprintf("%s is not there, and the hub knows bucket %s for this region", catalog.RegionKey, known))
		return nil
	}
	raw, err := json.MarshalIndent(catalog.RegionDescriptor{
		Version: 1, Region: w.o.Region, Bucket: uuid.NewString(), Catalog: catalog.CatalogRoot, Created: time.Now().UTC(),
	}, "", "  ")
	if err != nil {
		return err
	}
	switch err = w.look.putNew(ctx, catalog.RegionKey, raw); {
	case err == nil:
		return w.takeDescriptor(raw)
	case errors.Is(err, fs.ErrExist):
		// Another agent of this region, or of another, was first.
		if raw, err = w.look.Get(ctx, catalog.RegionKey); err != nil {
			return err
		}
		return w.takeDescriptor(raw)
	case errors.Is(err, fs.ErrPermission):
		w.setBucket("", catalog.RegionKey+" is not there and the agent may not write it")
		return nil
	default:
		return err
	}
}

func (w *Watcher) setBucket(id, why string) {
	w.mu.Lock()
	changed := w.region.id != id || w.region.why != why
	w.region.id, w.region.why = id, why
	w.mu.Unlock()
	if changed {
		switch why {
		case "":
		case waitingForHub:
			w.log.Debug("bucket is not identified yet", "reason", why)
		default:
			w.log.Warn("bucket is not identified", "reason", why)
		}
		w.tellHealth()
	}
}

// regionTask looks again and again: a folder may be taken away and a bucket
// swapped while we run. Another region's name then does not end the process,
// it makes the region blind until somebody puts the bucket right.
func (w *Watcher) regionTask(ctx context.Context) time.Duration {
	err := w.lookAtRegion(ctx)
	w.mu.Lock()
	before := w.foreign
	w.foreign = ""
	if errors.Is(err, ErrAnotherRegion) {
		w.foreign = err.Error()
	}
	changed := before != w.foreign
	w.mu.Unlock()
	if changed {
		w.log.Warn("another region's bucket", "reason", err)
		w.tellHealth()
	}
	if err != nil {
		return 2 * w.o.Poll
	}
	return 10 * w.o.Poll
}
