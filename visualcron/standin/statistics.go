package standin

import (
	"context"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/vcsync/vcsync/schemas"
)

// Run moves the statistics of some jobs at every Config.StatisticsEvery, as the
// runs of jobs do on a VisualCron server, until ctx ends or the stand-in closes.
// No change feed tells of it, and it is not kept on disk. At the same pace it acts
// as mode activity says, see Act.
func (s *Server) Run(ctx context.Context) {
	if s.cfg.StatisticsEvery < 0 {
		return
	}
	tick := time.NewTicker(s.cfg.StatisticsEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.MoveStatistics(0)
			_, _ = s.Act() // what could not be stored has not happened
		case <-ctx.Done():
			return
		case <-s.done:
			return
		}
	}
}

// MoveStatistics lets n jobs seem to have run once, chosen at random among the
// active ones; n below 1 stands for one in twenty, at least one. It returns how
// many did.
func (s *Server) MoveStatistics(n int) int {
	jobs := s.Objects(schemas.Job)
	if n < 1 {
		n = (len(jobs) + 19) / 20
	}
	s.mu.Lock()
	s.rng.Shuffle(len(jobs), func(i, j int) { jobs[i], jobs[j] = jobs[j], jobs[i] })
	s.mu.Unlock()
	moved := 0
	for _, job := range jobs {
		if moved == n {
			break
		}
		if s.runOnce(job.ID) {
			moved++
		}
	}
	return moved
}

// Fire is a tick of the schedule at which every active job that is not built in is due:
// it runs once. It returns who did, by their ids, sorted.
func (s *Server) Fire() []schemas.ID {
	var fired []schemas.ID
	for _, job := range s.Objects(schemas.Job) {
		if job.ID != jobBackup && job.ID != jobDeleteLogs && s.runOnce(job.ID) {
			fired = append(fired, job.ID)
		}
	}
	slices.Sort(fired)
	return fired
}

// runOnce changes fields that docs/visualcron.md lists as volatile, and no other.
func (s *Server) runOnce(id schemas.ID) bool {
	s.mu.RLock()
	o := s.objects[schemas.Job][id]
	s.mu.RUnlock()
	if o == nil {
		return false
	}
	s.mu.Lock()
	took, failed := math.Round(s.rng.Float64()*60000)/1000, s.rng.IntN(20) == 0
	s.mu.Unlock()
	m, err := parseMembers(o.body)
	if err != nil {
		return false
	}
	end := s.now()
	start := end.Add(-time.Duration(took * float64(time.Second)))
	active, tasks := false, 0
	err = m.edit("Stats", func(st *members) error {
		// "True" is how mode canonicalises may have stored it.
		if active = strings.EqualFold(strings.Trim(string(st.get("Active")), `"`), "true"); !active {
			return nil
		}
		var runs int64
		_ = json.Unmarshal(st.get("NoExecutes"), &runs) // what is no number starts at 0
		code := 0
		if failed {
			code = 1
		}
		st.set("NoExecutes", runs+1)
		st.set("ExitCode", code)
		st.set("ExitCodeResult", code)
		st.set("DateLastExecution", start.Format(dateLayout))
		st.set("DateLastExited", end.Format(dateLayout))
		st.set("DateNextExecution", start.Add(24*time.Hour).Format(dateLayout))
		st.set("ExecutionTime", took)
		st.set("CPUTime", took/100)
		st.set("TasksCPUTime", took/100)
		st.set("Status", 1)
		return nil
	})
	if err != nil || !active {
		return false
	}
	err = m.editEach("Tasks", func(task *members) error {
		tasks++
		return task.edit("Stats", func(st *members) error {
			result := "Success"
			if failed {
				result = "Failed"
			}
			st.set("Result", result)
			st.set("Status", 1)
			st.set("ExecutionTime", took/float64(tasks))
			st.set("DateLastExecution", start.Format(dateLayout))
			return nil
		})
	})
	if err != nil {
		return false
	}
	var run int64
	_ = json.Unmarshal(m.get("UniqueRunId"), &run) // what is no number starts at 0
	m.set("UniqueRunId", run+1)
	body, err := m.encode()
	if err != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.objects[schemas.Job][id] != o {
		return false // written meanwhile; the edit stands
	}
	s.objects[schemas.Job][id] = &object{id, body}
	return true
}
