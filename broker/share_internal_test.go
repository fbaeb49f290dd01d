package broker

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestShareIsEvenStickyAndTheSameForAll(t *testing.T) {
	for seed := range uint64(500) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		var items []string
		for i := range rnd.IntN(40) {
			items = append(items, fmt.Sprintf("item-%02d", i))
		}
		var members []member
		for i := range 1 + rnd.IntN(6) {
			members = append(members, member{id: fmt.Sprintf("m%d", i)})
		}
		holders := map[string]string{}
		for _, item := range items {
			if rnd.IntN(3) > 0 {
				holders[item] = fmt.Sprintf("m%d", rnd.IntN(8)) // some of them are dead
			}
		}
		plan := share(items, members, holders, nil)
		rnd.Shuffle(len(items), func(i, j int) { items[i], items[j] = items[j], items[i] })
		rnd.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
		if again := share(items, members, holders, nil); !maps.Equal(plan, again) {
			t.Fatalf("seed %d: another order gives another plan", seed)
		}
		load := map[string]int{}
		for _, m := range members {
			load[m.id] = 0
		}
		for _, item := range items {
			if plan[item] == "" {
				t.Fatalf("seed %d: nobody has %s", seed, item)
			}
			load[plan[item]]++
		}
		least, most := slices.Min(slices.Collect(maps.Values(load))), slices.Max(slices.Collect(maps.Values(load)))
		if most-least > 1 {
			t.Fatalf("seed %d: %v", seed, load)
		}
		// Nobody loses what he has while another of his own, or nobody's, could go.
		had := map[string]int{}
		for _, h := range holders {
			had[h]++
		}
		for item, h := range holders {
			if _, alive := load[h]; alive && plan[item] != h && load[h] < least {
				t.Fatalf("seed %d: %s lost %s and has %d of %d", seed, h, item, load[h], had[h])
			}
		}
		kept := share(items, members, plan, nil)
		if !maps.Equal(kept, plan) {
			t.Fatalf("seed %d: an even plan moves", seed)
		}
	}
}

func TestShareObeysWhoMayHaveWhat(t *testing.T) {
	items := []string{"a", "b", "c", "d"}
	for name, c := range map[string]struct {
		members []member
		holders map[string]string
		want    map[string]string
	}{
		"only some":             {[]member{{id: "1", only: []string{"a"}}, {id: "2"}}, nil, map[string]string{"a": "1", "b": "2", "c": "2", "d": "2"}},
		"nobody may":            {[]member{{id: "1", only: []string{"a"}}}, nil, map[string]string{"a": "1"}},
		"one passes":            {[]member{{id: "1", not: []string{"a"}}, {id: "2"}}, map[string]string{"a": "1", "b": "1", "c": "2", "d": "2"}, map[string]string{"a": "2", "b": "1", "c": "1", "d": "2"}},
		"all pass, it stays":    {[]member{{id: "1", not: items}, {id: "2", not: items}}, map[string]string{"a": "2", "b": "2", "c": "1", "d": "1"}, map[string]string{"a": "2", "b": "2", "c": "1", "d": "1"}},
		"the dead have nothing": {[]member{{id: "1"}}, map[string]string{"a": "9", "b": "9", "c": "1"}, map[string]string{"a": "1", "b": "1", "c": "1", "d": "1"}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := share(items, c.members, c.holders, nil); !maps.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}
