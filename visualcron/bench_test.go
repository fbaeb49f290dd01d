package visualcron_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// bigJob is a job of four tasks with all their empty slots, about 40 kB.
func bigJob() []byte {
	var slots strings.Builder
	for i := range 373 {
		fmt.Fprintf(&slots, `,"EmptyTaskSlot%03d":null`, i)
	}
	var tasks []string
	for i := range 4 {
		tasks = append(tasks, fmt.Sprintf(`{"Id":"9d8c7b6a-5f4e-4d3c-8b2a-19080706050%d","Order":%d,"Name":"Task %d","TaskType":"SQL","SQL":{"EncryptedCommand":"T3BhcXVl"},"Stats":{"Active":true,"ExecutionTime":1.5}%s}`, i, i, i, slots.String()))
	}
	return []byte(`{"Id":"5b0c2f3e-6a1d-4c58-9e0a-1f2d3c4b5a60","Name":"Big","Stats":{"Active":true,"NoExecutes":7},"Tasks":[` + strings.Join(tasks, ",") + `]}`)
}

// The ratio of these three on one machine is what counts: Unchanged is what a poll
// costs per object that did not change, Changed what it costs otherwise, and the
// last is the plain way, a map of encoding/json hashed by SHA-256.
func BenchmarkUnchanged(b *testing.B) {
	body, q := bigJob(), visualcron.NewQuickHasher()
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := q.Hash(schemas.Job, body); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkChanged(b *testing.B) {
	body := bigJob()
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := visualcron.Normalize(schemas.Job, body, keyed); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkListing(b *testing.B) {
	list := []byte("[" + strings.Repeat(string(bigJob())+",", 99) + string(bigJob()) + "]")
	for i := range 100 { // an id of its own for each
		list = bytes.Replace(list, []byte(`"5b0c2f3e-6a1d`), fmt.Appendf(nil, `"5b0c2%03x-6a1d`, i), 1)
	}
	b.SetBytes(int64(len(list)))
	b.ReportAllocs()
	for b.Loop() {
		c, err := visualcron.ReadList(bytes.NewReader(list), schemas.Job, func(visualcron.Row) error { return nil })
		if err != nil || c.Count() != 100 {
			b.Fatal(c.Count(), err)
		}
	}
}

func BenchmarkEncodingJSONMap(b *testing.B) {
	body := bigJob()
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		var m map[string]any
		if err := json.Unmarshal(body, &m); err != nil {
			b.Fatal(err)
		}
		out, err := json.Marshal(m)
		if err != nil {
			b.Fatal(err)
		}
		sha256.Sum256(out)
	}
}
