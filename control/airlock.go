package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/producer"
	"github.com/vcsync/vcsync/schemas"
)

// States of a batch of deletions.
const (
	stateHeld     = "held"
	stateApproved = string(broker.Approved)
	stateRejected = string(broker.Rejected)
)

// AirlockBatch is deletions that wait, of one type at a source or of all types at the target
// of a sync setting, or about which a person has decided and which have not ended yet.
type AirlockBatch struct {
	Batch   string    `json:"batch" doc:"Its name: another set of objects, or another version of one, has another."`
	State   string    `json:"state" enum:"held,approved,rejected" doc:"approved: not published yet; rejected: until the source has the object again."`
	Source  string    `json:"source"`
	Target  string    `json:"target,omitzero" doc:"The target at which they wait; absent where that is the source."`
	Setting string    `json:"setting,omitzero" doc:"The sync setting for which they wait at the target."`
	Type    string    `json:"type" doc:"At a target it may be several, with commas."`
	Count   int       `json:"count"`
	Class   string    `json:"class,omitzero" doc:"Why they wait, in a word: too many, account, restored; at a target airlock or in-use."`
	Why     string    `json:"why,omitzero"`
	Since   time.Time `json:"since,omitzero" doc:"When the first was held at a source."`
	Who     string    `json:"who,omitzero" doc:"Who decided."`
	At      time.Time `json:"at,omitzero" doc:"When."`
	Reason  string    `json:"reason,omitzero" doc:"Why, in that person's words."`
}

// AirlockObject is an object that is gone at the source.
type AirlockObject struct {
	Type    string `json:"type"`
	ID      string `json:"id" doc:"Its token where only that is known."`
	Name    string `json:"name,omitzero"`
	Group   string `json:"group,omitzero"`
	Version string `json:"version" doc:"Epoch and revision of the newest state that the stream has."`
	Why     string `json:"why,omitzero" doc:"Why it waits, where that is its own."`
}

// AirlockDetail is a batch with its objects.
type AirlockDetail struct {
	AirlockBatch
	Objects  []AirlockObject `json:"objects" nullable:"false"`
	Unlisted int             `json:"unlisted,omitzero" doc:"Objects beyond the room of a record; they wait too."`
}

// AirlockVerdict is the body of approving and rejecting.
type AirlockVerdict struct {
	Reason  string      `json:"reason" minLength:"1" maxLength:"1000" doc:"Why; it stands in the audit."`
	Objects []ObjectRef `json:"objects,omitempty" maxItems:"2000" doc:"Only these of the batch; all where absent."`
}

// ObjectRef names an object by type and id.
type ObjectRef struct {
	Type string `json:"type" maxLength:"32"`
	ID   string `json:"id" maxLength:"2000"`
}

// AirlockDecided is the answer to a verdict.
type AirlockDecided struct {
	Decided int            `json:"decided" doc:"To how many objects the verdict was given."`
	Waits   string         `json:"waits,omitzero" doc:"Why what was approved does not go out with the next listing: the listing of the type is not believed now."`
	Left    []AirlockBatch `json:"left" nullable:"false" doc:"What there is of the type at the source now, or at the target."`
	Run     string         `json:"run,omitzero" doc:"The run that does what was approved at a target."`
}

// BatchPath names a batch.
type BatchPath struct {
	Batch string `path:"batch" maxLength:"64"`
}

func (s *Server) airlocks(ctx context.Context) ([]broker.Airlock, error) {
	all, err := s.broker.Airlocks(ctx, "")
	order := schemas.ApplyOrder()
	slices.SortFunc(all, func(a, b broker.Airlock) int {
		return cmp.Or(cmp.Compare(a.Source, b.Source), cmp.Compare(slices.Index(order, a.Type), slices.Index(order, b.Type)))
	})
	return all, err
}

// batchesOf returns what waits first, then what was decided, in the order of decisions.
func batchesOf(a broker.Airlock) []AirlockBatch {
	of := AirlockBatch{Source: string(a.Source), Type: string(a.Type), Since: a.Since}
	var out []AirlockBatch
	if a.Batch != "" {
		b := of
		b.Batch, b.State, b.Count, b.Class, b.Why = a.Batch, stateHeld, a.Count(""), a.Class, a.Why
		out = append(out, b)
	}
	for _, d := range a.Decisions {
		b := of
		// An older release did not note it, and the record's own is that of what waits now.
		if b.Since = d.Since; b.Since.IsZero() {
			if b.Since = a.Since; !d.At.IsZero() && d.At.Before(a.Since) {
				b.Since = d.At
			}
		}
		b.Batch, b.State, b.Who, b.At, b.Reason = d.Batch, string(d.Verdict), d.Who, d.At, d.Reason
		for _, o := range a.Objects {
			if o.Decision == d.Number {
				b.Count++
			}
		}
		out = append(out, b)
	}
	return out
}

func (s *Server) listAirlock(ctx context.Context, _ *noInput) (*output[list[AirlockBatch]], error) {
	all, err := s.airlocks(ctx)
	if err != nil {
		return nil, err
	}
	out := &output[list[AirlockBatch]]{Body: list[AirlockBatch]{Items: []AirlockBatch{}}}
	for _, a := range all {
		out.Body.Items = append(out.Body.Items, batchesOf(a)...)
	}
	locks, err := s.targetLocks(ctx)
	if err != nil {
		return nil, err
	}
	for _, l := range locks {
		for _, b := range l.batches {
			out.Body.Items = append(out.Body.Items, b.AirlockBatch)
		}
	}
	return out, nil
}

// airlock finds a batch: the one that waits, or one about whose objects was decided.
func (s *Server) airlock(ctx context.Context, batch string) (broker.Airlock, AirlockBatch, error) {
	all, err := s.airlocks(ctx)
	if err != nil {
		return broker.Airlock{}, AirlockBatch{}, err
	}
	for _, a := range all {
		for _, b := range batchesOf(a) {
			if b.Batch == batch {
				return a, b, nil
			}
		}
	}
	return broker.Airlock{}, AirlockBatch{}, huma.Error404NotFound(fmt.Sprintf("There is no batch %.64q: it was decided, its objects are back, or it is another one by now. List them: vcsync airlock list.", batch))
}

func (s *Server) getAirlock(ctx context.Context, in *BatchPath) (*output[AirlockDetail], error) {
	if _, b, err := s.targetLock(ctx, in.Batch); err != nil {
		return nil, err
	} else if b != nil {
		out := &output[AirlockDetail]{Body: AirlockDetail{AirlockBatch: b.AirlockBatch, Objects: []AirlockObject{}}}
		for _, e := range b.entries {
			out.Body.Objects = append(out.Body.Objects, AirlockObject{string(e.Type), string(e.ID), e.Name, e.Group, e.Version.String(), e.Why})
		}
		return out, nil
	}
	a, b, err := s.airlock(ctx, in.Batch)
	if err != nil {
		return nil, err
	}
	out := &output[AirlockDetail]{Body: AirlockDetail{AirlockBatch: b, Objects: []AirlockObject{}}}
	if b.State == stateHeld {
		out.Body.Unlisted = a.Unlisted
	}
	for _, o := range a.Objects {
		if d, _ := a.Of(o); a.In(in.Batch, o) && cmp.Or(string(d.Verdict), stateHeld) == b.State {
			out.Body.Objects = append(out.Body.Objects, AirlockObject{string(a.Type), cmp.Or(idOf(o), string(o.Token)), o.Name, o.Group, o.Version.String(), ""})
		}
	}
	return out, nil
}

// movedOn says that an object still waits, in a batch that has another name than the one
// that was looked at: what was decided beside it, or went since, gave it that.
func movedOn(t schemas.Type, id, was, is string) error {
	return huma.Error409Conflict(fmt.Sprintf("%s/%.64s waits in batch %s by now, as what waits with it is no more what it was in batch %s; nothing was decided. Look at it, and name that batch: vcsync airlock show %s.", t, id, is, was, is))
}

// waitsElsewhere is the error about the first of some objects that waits, though not in
// the batch, which is not there any more; nil where none waits.
func (s *Server) waitsElsewhere(ctx context.Context, batch string, objects []ObjectRef) error {
	all, err := s.airlocks(ctx)
	if err != nil {
		return nil // the error at hand says more
	}
	for _, ref := range objects {
		for _, a := range all {
			if i, ok := a.Find(schemas.ID(ref.ID).Token()); ok && string(a.Type) == ref.Type && a.Waits(a.Objects[i]) {
				return movedOn(a.Type, ref.ID, batch, a.Batch)
			}
		}
	}
	return nil
}

// notBelieved says why the last listing of a type did not end well, "" where it did: what
// is approved goes out only with one that does.
func (s *Server) notBelieved(source schemas.Slug, t schemas.Type) string {
	if s.cfg.Sources == nil {
		return ""
	}
	for _, p := range s.cfg.Sources.Status() {
		y := p.Types[t]
		switch {
		case p.Server != source:
		case y.Class != "" || y.Reason != "":
			return cmp.Or(y.Reason, y.Class)
		case p.State == producer.Degraded && !p.Partly:
			return p.Reason
		}
	}
	return ""
}

// decidedNow corrects what producers said of deletions that wait by the records: a
// producer that gets no listing that it believes looks at no verdict.
func (s *Server) decidedNow(ctx context.Context, sources []SourceReport) error {
	waits := func(y SourceTypeReport) bool { return y.Held > 0 }
	if !slices.ContainsFunc(sources, func(r SourceReport) bool { return slices.ContainsFunc(r.Types, waits) }) {
		return nil
	}
	all, err := s.airlocks(ctx)
	if err != nil {
		return err
	}
	for _, a := range all {
		for _, r := range sources {
			for i, y := range r.Types {
				if r.Server == string(a.Source) && y.Type == string(a.Type) && waits(y) {
					r.Types[i].Held, r.Types[i].Rejected, r.Types[i].Approved, r.Types[i].Batch, r.Types[i].HeldWhy = a.Count(""), a.Count(broker.Rejected), a.Count(broker.Approved), a.Batch, a.Why
				}
			}
		}
	}
	return nil
}

// waitingAtSource says which deletions the source of a plan has not published, of the
// types that the plan looked at, or of the objects where it is about some.
func (s *Server) waitingAtSource(ctx context.Context, p broker.Plan, objects []broker.RunObject) (out []string, err error) {
	all, err := s.broker.Airlocks(ctx, p.Source)
	if err != nil {
		return nil, err
	}
	for _, t := range schemas.ApplyOrder() {
		if !slices.ContainsFunc(p.Counts, func(c broker.PlanCount) bool { return c.Type == t }) {
			continue
		}
		for _, a := range all {
			if a.Type != t {
				continue
			}
			n := map[broker.Verdict]int{"": a.Count(""), broker.Rejected: a.Count(broker.Rejected), broker.Approved: a.Count(broker.Approved)}
			if len(objects) > 0 {
				clear(n)
				for _, o := range objects {
					if i, ok := a.Find(o.ID.Token()); ok && o.Type == t {
						d, _ := a.Of(a.Objects[i])
						n[d.Verdict]++
					}
				}
			}
			const as = "what is gone there counts as it was before"
			if n[""] > 0 {
				out = append(out, fmt.Sprintf("%s of %s at %s %s for a person, and %s: vcsync airlock show %s", deletions(n[""]), t, a.Source, verb(n[""], "waits", "wait"), as, a.Batch))
			}
			if n[broker.Rejected] > 0 {
				out = append(out, fmt.Sprintf("%s of %s at %s %s rejected, and %s: vcsync airlock list", deletions(n[broker.Rejected]), t, a.Source, verb(n[broker.Rejected], "is", "are"), as))
			}
			if n[broker.Approved] > 0 {
				out = append(out, fmt.Sprintf("%s of %s at %s %s approved and not published yet, and %s: vcsync airlock list", deletions(n[broker.Approved]), t, a.Source, verb(n[broker.Approved], "is", "are"), as))
			}
		}
	}
	return out, nil
}

// deletions counts them for people.
func deletions(n int) string {
	if n == 1 {
		return "1 deletion"
	}
	return fmt.Sprintf("%d deletions", n)
}

func verb(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

func idOf(o broker.AirlockObject) string {
	if id, ok := o.Token.ID(); ok && o.ID == "" {
		return string(id)
	}
	return string(o.ID)
}

func (s *Server) approveAirlock(ctx context.Context, in *struct {
	BatchPath
	Body AirlockVerdict
}) (*output[AirlockDecided], error) {
	return s.judgeAirlock(ctx, in.Batch, broker.Approved, in.Body)
}

func (s *Server) rejectAirlock(ctx context.Context, in *struct {
	BatchPath
	Body AirlockVerdict
}) (*output[AirlockDecided], error) {
	return s.judgeAirlock(ctx, in.Batch, broker.Rejected, in.Body)
}

// judgeAirlock stores a verdict about the objects that the person saw: a batch that has
// become another one meanwhile is not there any more. The source's producer carries it
// out.
func (s *Server) judgeAirlock(ctx context.Context, batch string, v broker.Verdict, in AirlockVerdict) (*output[AirlockDecided], error) {
	reason := strings.TrimSpace(in.Reason)
	if reason == "" {
		return nil, huma.Error422UnprocessableEntity("reason: empty")
	}
	s.writes.Lock()
	defer s.writes.Unlock()
	if l, b, err := s.targetLock(ctx, batch); err != nil {
		return nil, err
	} else if b != nil {
		return s.judgeTarget(ctx, l, *b, v, reason, in.Objects)
	}
	a, seen, err := s.airlock(ctx, batch)
	if err != nil {
		return nil, cmp.Or(s.waitsElsewhere(ctx, batch, in.Objects), err)
	}
	tokens := map[schemas.Token]bool{}
	for _, ref := range in.Objects {
		t, err := schemas.ParseType(ref.Type)
		if err != nil {
			return nil, err
		}
		id, err := schemas.ParseID(ref.ID)
		if err != nil {
			return nil, err
		}
		token := id.Token()
		i, ok := a.Find(token)
		if !ok { // beyond the names, a long id is only known by its token
			if token, err = schemas.ParseToken(ref.ID); err == nil {
				i, ok = a.Find(token)
			}
		}
		if t != a.Type || !ok || !a.In(batch, a.Objects[i]) {
			if t == a.Type && ok && a.Waits(a.Objects[i]) {
				return nil, movedOn(t, ref.ID, batch, a.Batch)
			}
			return nil, huma.Error409Conflict(fmt.Sprintf("%s/%.64s is not in batch %s: its deletion does not wait, or the object is back. Look at it: vcsync airlock show %s.", t, ref.ID, batch, batch))
		}
		tokens[token] = true
	}
	which := func(o broker.AirlockObject) bool { return len(tokens) == 0 || tokens[o.Token] }
	d := broker.AirlockDecision{Batch: batch, Verdict: v, Who: who(ctx), From: remoteAddr(ctx), At: time.Now().UTC(), Reason: reason}
	out := &output[AirlockDecided]{}
	after := a
	if out.Body.Decided = after.Decide(d, which); out.Body.Decided == 0 {
		text := fmt.Sprintf("Nothing of batch %s is left to be %s", batch, v)
		if n := a.Count(""); n > 0 && a.Batch != batch {
			text += fmt.Sprintf("; %s of %s at %s %s as batch %s. Look at it: vcsync airlock show %s", deletions(n), a.Type, a.Source, verb(n, "waits", "wait"), a.Batch, a.Batch)
		}
		return nil, huma.Error409Conflict(text + ".")
	}
	what := fmt.Sprintf("%d of %d deletions of %s, which waited because of %s: %s", out.Body.Decided, seen.Count, a.Type, cmp.Or(seen.Class, "what was decided before"), reason)
	err = s.act(ctx, broker.AuditRecord{Action: "airlock." + map[broker.Verdict]string{broker.Approved: "approve", broker.Rejected: "reject"}[v],
		Object: "airlock/" + string(a.Source) + "/" + batch, Before: a.Revision, Detail: what}, func(ctx context.Context) error {
		_, err := s.broker.PutAirlock(ctx, after)
		if errors.Is(err, broker.ErrConflict) {
			return huma.Error409Conflict(fmt.Sprintf("What waits of %s at %s changed this moment, and nothing was decided: look at it again: vcsync airlock list.", a.Type, a.Source))
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if s.cfg.Sources != nil {
		s.cfg.Sources.Poke(a.Source)
	}
	if out.Body.Left = batchesOf(after); v == broker.Approved {
		out.Body.Waits = s.notBelieved(a.Source, a.Type)
	}
	return out, nil
}
