package standin

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/vcsync/vcsync/schemas"
)

// How many of the larger types Seed brings.
const (
	SeedJobs        = 200
	SeedConnections = 60
	SeedCredentials = 40
	SeedVariables   = 50
)

// seedingFile lies in a stand-in's folder while it is being seeded; found later it
// says that the seeding was cut off.
const seedingFile = "seeding"

// Seed fills a stand-in that holds its built-ins only with the objects of
// SeedObjects; a seeding that was cut off, by a kill for instance, is done again
// from its beginning. Otherwise it changes nothing and returns an error that wraps
// ErrNotEmpty.
func Seed(s *Server) (err error) {
	cutOff := s.store != nil && s.store.has(seedingFile)
	for _, t := range schemas.Types() {
		for _, row := range s.Objects(t) {
			if !IsBuiltin(t, row.ID) && !cutOff {
				return fmt.Errorf("%w: it holds %s %.64s; seed a new one, or remove its folder first", ErrNotEmpty, t, row.ID)
			}
		}
	}
	if s.store != nil {
		if err := s.store.write(s.store.dir, seedingFile, nil); err != nil {
			return err
		}
		defer func() {
			if err == nil {
				err = s.store.drop(seedingFile)
			}
		}()
	}
	objects := SeedObjects()
	work := make(chan Object)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for range 8 { // side by side, because each waits for the disk
		wg.Go(func() {
			for o := range work {
				if _, _, err := s.Put(o.Type, o.Body); err != nil {
					mu.Lock()
					errs = append(errs, fmt.Errorf("seed %s %s: %w", o.Type, o.ID, err))
					mu.Unlock()
				}
			}
		})
	}
	for _, o := range objects {
		work <- o
	}
	close(work)
	wg.Wait()
	return errors.Join(errs...)
}

// IsBuiltin tells whether every new stand-in holds this object.
func IsBuiltin(t schemas.Type, id schemas.ID) bool {
	return slices.ContainsFunc(builtins(""), func(o Object) bool { return o.Type == t && o.ID == id })
}

// seedGUID makes the same GUID for the same words at all times.
func seedGUID(kind string, n int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "vcsync stand-in seed/%s/%d", kind, n))
	var b [16]byte
	copy(b[:], sum[:])
	b[6], b[8] = b[6]&0x0f|0x80, b[8]&0x3f|0x80 // version 8: made by a rule of one's own
	return guidText(b)
}
