package standin_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron/standin"
)

func TestASeedingThatWasCutOffIsDoneAgain(t *testing.T) {
	dir := t.TempDir()
	s, err := standin.Open(standin.Config{Dir: dir, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, o := range standin.SeedObjects()[:40] { // killed here
		if _, _, err := s.Put(o.Type, o.Body); err != nil {
			t.Fatal(err)
		}
	}
	if err := standin.Seed(s); !errors.Is(err, standin.ErrNotEmpty) {
		t.Fatalf("objects of somebody else: %v, want ErrNotEmpty", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "seeding"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := standin.Seed(s); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, row := range s.Objects(schemas.Job) {
		if !standin.IsBuiltin(schemas.Job, row.ID) {
			n++
		}
	}
	if n != standin.SeedJobs {
		t.Errorf("%d jobs, want %d", n, standin.SeedJobs)
	}
	if err := standin.Seed(s); !errors.Is(err, standin.ErrNotEmpty) {
		t.Errorf("seeded twice: %v", err)
	}
}
