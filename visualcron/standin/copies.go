package standin

import (
	"maps"

	"github.com/vcsync/vcsync/schemas"
)

// Copy is all that a stand-in holds at one moment: its objects with their statistics.
type Copy struct {
	objects map[schemas.Type]map[schemas.ID]*object
}

// Copy returns what the stand-in holds now, as a backup of the server would.
func (s *Server) Copy() Copy {
	s.mu.RLock()
	defer s.mu.RUnlock()
	c := Copy{map[schemas.Type]map[schemas.ID]*object{}}
	for t, objects := range s.objects {
		c.objects[t] = maps.Clone(objects) // an object is never changed in place
	}
	return c
}

// Restore brings back what an older Copy holds, statistics and dates included, and
// nothing else: what was made since is gone. As after the restart that a restore needs,
// all tokens are void and every change feed has ended; nothing tells of what changed. The
// server's own id stays. The error wraps ErrStore; some objects may be restored then.
func (s *Server) Restore(c Copy) error {
	if s.store != nil {
		for _, t := range schemas.Types() {
			for _, row := range s.Objects(t) {
				if c.objects[t][row.ID] == nil {
					if err := s.store.remove(t, row.ID); err != nil {
						return err
					}
				}
			}
			for id, o := range c.objects[t] {
				if err := s.keep(t, id, o.body); err != nil {
					return err
				}
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for t := range s.objects {
		s.objects[t] = map[schemas.ID]*object{}
		maps.Copy(s.objects[t], c.objects[t])
	}
	clear(s.tokens)
	for f := range s.feeds {
		delete(s.feeds, f)
		close(f)
	}
	return nil
}
