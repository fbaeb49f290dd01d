package visualcron_test

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"testing"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// largeRows and largeRow make a listing of 130 MB, as 2,000 jobs of five tasks are.
const (
	largeRows = 2000
	largeRow  = 65 << 10
)

// largeListing is such a listing that nobody holds: it makes one row at a time.
type largeListing struct {
	job  []byte
	next int
	row  bytes.Reader
}

func newLargeListing() *largeListing {
	job := bigJob()
	pad := fmt.Appendf(nil, `,"Description":%q}`, bytes.Repeat([]byte("x"), largeRow-len(job)))
	return &largeListing{job: append(job[:len(job)-1], pad...)}
}

func (l *largeListing) Read(p []byte) (int, error) {
	if n, err := l.row.Read(p); err == nil {
		return n, nil
	}
	if l.next > largeRows {
		return 0, io.EOF
	}
	switch l.next++; l.next {
	case largeRows + 1:
		l.row.Reset([]byte("]"))
	default:
		before := byte(',')
		if l.next == 1 {
			before = '['
		}
		id := fmt.Appendf(nil, `"5b0c%04x-6a1d`, l.next)
		l.row.Reset(append([]byte{before}, bytes.Replace(l.job, []byte(`"5b0c2f3e-6a1d`), id, 1)...))
	}
	return l.row.Read(p)
}

// listLarge reads the large listing as a poll does where nothing changed, and
// returns its size and by how much what is held had grown by the end of it.
func listLarge(t testing.TB) (size, held int64) {
	q := visualcron.NewQuickHasher()
	base := map[schemas.ID]uint64{}
	l := newLargeListing()
	before := heapHeld()
	c, err := visualcron.ReadList(l, schemas.Job, func(r visualcron.Row) error {
		h, err := q.Hash(schemas.Job, r.Body)
		base[r.ID] = h
		size += int64(len(r.Body))
		if len(base) == largeRows-1 {
			held = heapHeld() - before
		}
		return err
	})
	if err != nil || c.Count() != largeRows {
		t.Fatal(c.Count(), err)
	}
	runtime.KeepAlive(base)
	return size, held
}

// heapHeld returns what the heap holds when all garbage is gone.
func heapHeld() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// G11: what a listing holds is a row and what is remembered of each.
func TestAListingOfAnySizeHoldsOneRow(t *testing.T) {
	size, held := listLarge(t)
	if t.Logf("%d MB listed, %d kB held", size/1e6, held/1e3); size < 130e6 {
		t.Errorf("the listing has %d bytes only", size)
	}
	if held > 2<<20 {
		t.Errorf("%d bytes are held", held)
	}
}

func BenchmarkLargeListing(b *testing.B) {
	var size, held int64
	b.ReportAllocs()
	for b.Loop() {
		size, held = listLarge(b)
	}
	b.SetBytes(size)
	b.ReportMetric(float64(held), "B-held")
}
