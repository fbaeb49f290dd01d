package e2e_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
)

// TestABackupIsRestored restores a backup over a newer reality: objects were made, edited
// and deleted at the source since, and one came and went. What the store did not know
// when it was backed up it does not delete (G4, G9).
func TestABackupIsRestored(t *testing.T) {
	t.Parallel()
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	world(t, []schemas.Slug{"test", "standby"}, func(w *e2e.World) {
		prod := w.Hosts["production"]
		for i := range 20 {
			putJob(t, prod, i, "first")
		}
		for _, name := range []schemas.Slug{"test", "standby"} {
			putJob(t, w.Hosts[name], 50, "the target's own")
		}
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(2 * time.Minute)
		file := filepath.Join(w.Dir, "backup.age")
		w.Do(func(ctx context.Context) error {
			f, err := os.Create(file)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = w.Broker.Backup(ctx, f, "test", key.Recipient())
			return err
		})
		for i := 20; i < 30; i++ {
			putJob(t, prod, i, "made since")
		}
		putJob(t, prod, 1, "edited since")
		time.Sleep(2 * time.Minute)
		deleteJob(t, prod, 20) // the backup knows of neither its making nor its end
		time.Sleep(2 * time.Minute)
		for _, name := range []schemas.Slug{"test", "standby"} {
			wrote(t, w.Hosts[name], "before the loss", 31, 1)
		}
		w.Die()
		deleteJob(t, prod, 2)
		deleteJob(t, prod, 21)
		putJob(t, prod, 3, "edited while away")
		if err := os.RemoveAll(filepath.Join(w.Dir, "data")); err != nil {
			t.Fatal(err)
		}
		if _, err := broker.Restore(context.Background(), broker.Config{Dir: filepath.Join(w.Dir, "data"), LazySync: true, Settle: 5 * time.Second,
			EventsMaxBytes: 1 << 30, Log: w.Log}, file, false, key); err != nil {
			t.Fatal(err)
		}
		w.OpenBroker()
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(30 * time.Minute)
		for _, name := range []schemas.Slug{"test", "standby"} {
			wrote(t, w.Hosts[name], "in safe mode", 0, 0)
			p, _ := w.Ask("production-to-"+name, broker.RunScope{})
			w.Approve(p)
			wrote(t, w.Hosts[name], "the rebuild", 1, 0) // job 3; the rest is as the source has it
		}
		safeMode(w, false)
		time.Sleep(40 * time.Minute)
		for _, name := range []schemas.Slug{"test", "standby"} {
			h := w.Hosts[name]
			wrote(t, h, "after safe mode", 0, 0)
			for _, i := range []int{2, 21, 50} { // gone at the source while nobody knew, and the target's own
				if ok, err := h.Server.Delete(schemas.Job, jobID(i)); err != nil || !ok {
					t.Errorf("job %d at %s: %v %v", i, name, ok, err)
				}
			}
			if d := e2e.Diverged(prod, h, schemas.Keep); d != nil {
				t.Errorf("differences: %v", d)
			}
		}
	})
}
