package standin

import (
	"fmt"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
)

// A Task has one member per task type, of which only the one that TaskType names
// is filled. Their number and their cost in compact JSON are known from public
// client code; of their names only those below are used here.
const (
	slotCount = 373
	slotBytes = 8742
)

// knownSlots are slot names that VisualCron is known to have.
var knownSlots = []string{"Execute", "SQL", "PowerShell", "HTTP", "Email", "FTP", "JobTaskControl", "FileWrite",
	"DotNetExecute", "ProcessorsAffinity"}

// slots returns all slot names: the known ones, then placeholders. The
// placeholders are this stand-in's own words; they are only as many and as long as
// to give a Task its true size.
var slots = sync.OnceValue(func() []string {
	names := append([]string(nil), knownSlots...)
	rest := slotBytes
	for _, n := range names {
		rest -= len(n) + len(`"":null,`)
	}
	for i := len(names); i < slotCount; i++ {
		size := rest/(slotCount-i) - len(`"":null,`)
		names = append(names, fmt.Sprintf("StandInSlot%0*d", size-len("StandInSlot"), i))
		rest -= size + len(`"":null,`)
	}
	return names
})

// fillSlots gives a Task the slots that it lacks.
func fillSlots(task *members) error {
	have := make(map[string]bool, len(*task))
	for _, m := range *task {
		have[m.name] = true
	}
	for _, name := range slots() {
		if !have[name] {
			*task = append(*task, member{name, jsontext.Value("null")})
		}
	}
	return nil
}
