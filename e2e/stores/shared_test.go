//go:build e2e

package stores

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/quarry-db/quarry/e2e/peers"
)

// Real SlateDB processes of the oldest and the newest version write a database
// while we write, walk and race for names in the same folder. Neither may
// stumble over the other's files, finished or not.
func TestStoreFolderSharedWithRealSlateDB(t *testing.T) {
	for _, version := range []string{peers.Versions[0], peers.Versions[len(peers.Versions)-1]} {
		t.Run(version, func(t *testing.T) {
			dir := t.TempDir()
			b := openBucket(t, dir)
			peer := peers.Start(t, version, peers.Local(dir))
			peer.Open("dbs/orders")

			// What a killed Quarry process would leave beside its files.
			if err := os.WriteFile(dir+"/dbs/orders/manifest/.quarry#123456789", []byte("half"), 0o644); err != nil {
				t.Fatal(err)
			}
			stop := make(chan struct{})
			var ours sync.WaitGroup
			ours.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					// A name that the real writer has taken stays its own.
					if err := b.PutNew(t.Context(), "dbs/orders/manifest/00000000000000000001.manifest", nil); !errors.Is(err, fs.ErrExist) {
						t.Errorf("manifest 1 was overwritten: %v", err)
					}
					if err := b.PutNew(t.Context(), fmt.Sprintf(".quarry/inbox/%06d.json", i), []byte("{}")); err != nil {
						t.Error(err)
					}
					err := b.Walk(t.Context(), "dbs/", "", func(key string, size int64, _ time.Time) error {
						data, err := b.Get(t.Context(), key)
						if errors.Is(err, fs.ErrNotExist) {
							return nil // compacted away meanwhile
						}
						if err == nil && int64(len(data)) != size {
							t.Errorf("%s was listed with %d bytes and has %d", key, size, len(data))
						}
						return err
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
			for i := range 20 {
				peer.Put("dbs/orders", map[string]string{fmt.Sprintf("key-%03d", i): "value"})
			}
			close(stop)
			ours.Wait()
			peer.Kill()

			again := peers.Start(t, version, peers.Local(dir))
			again.Open("dbs/orders")
			again.Put("dbs/orders", map[string]string{"after": "the crash"})
			if rows := again.Op("scan", "dbs/orders").Rows; len(rows) != 21 {
				t.Errorf("%d rows after the crash, want 21", len(rows))
			}
		})
	}
}
