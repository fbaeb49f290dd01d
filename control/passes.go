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
	"github.com/nats-io/nuid"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
)

// PassRecord is what was written to a target in one go: by a run, or by a sync setting
// until it wrote nothing for 30 seconds.
type PassRecord struct {
	Pass    string         `json:"pass"`
	Target  string         `json:"target"`
	Setting string         `json:"setting,omitzero"`
	Sources []string       `json:"sources,omitzero" doc:"The servers that the objects came from."`
	By      string         `json:"by,omitzero" doc:"Who approved it; absent for what vcsync did by itself."`
	Undoes  string         `json:"undoes,omitzero" doc:"The pass that it undid."`
	Reverts string         `json:"reverts,omitzero" doc:"The version that it brought back."`
	Began   time.Time      `json:"began"`
	Ended   time.Time      `json:"ended" doc:"When its last write was noted."`
	Acts    map[string]int `json:"acts" nullable:"false" doc:"How many objects it was to add, update and delete."`
}

// PassObject is what a pass did with one object.
type PassObject struct {
	Type     string    `json:"type"`
	ID       string    `json:"id" doc:"At the target."`
	SourceID string    `json:"sourceId,omitzero" doc:"At its source, where a pin makes it another."`
	Name     string    `json:"name,omitzero"`
	Group    string    `json:"group,omitzero"`
	Act      string    `json:"act" doc:"add, update or delete."`
	Source   string    `json:"source,omitzero"`
	Version  string    `json:"version,omitzero"`
	At       time.Time `json:"at" doc:"When it was noted, right before the write."`
	Writes   int       `json:"writes" doc:"How often it was written; a write that was refused counts too."`
}

// PassDetail is a pass with its objects.
type PassDetail struct {
	PassRecord
	Objects []PassObject `json:"objects" nullable:"false"`
}

// PassPath names a pass.
type PassPath struct {
	Pass string `path:"pass" maxLength:"64" pattern:"^[0-9A-Za-z]+$"`
}

// UndoPass is the body of undoing a pass.
type UndoPass struct {
	Objects []ObjectRef `json:"objects,omitzero" maxItems:"1000" doc:"Only these, by their ids at the target; all where absent."`
	DryRun  bool        `json:"dryRun,omitzero" doc:"It ends when the plan is there."`
}

// RevertObject is the body of bringing an older version back.
type RevertObject struct {
	Source  string `json:"source,omitzero" maxLength:"48" doc:"The source; needed where several have an object of this type and id."`
	Version string `json:"version" maxLength:"64" doc:"EPOCH.REVISION or REVISION."`
	At      string `json:"at,omitzero" maxLength:"48" doc:"The target at which it is brought back, and paused; at the source where absent, as a new change that goes to all."`
	Force   bool   `json:"force,omitzero" doc:"Also where it refers to what is not there."`
	DryRun  bool   `json:"dryRun,omitzero" doc:"It ends when the plan is there."`
}

func passRecord(p broker.PassInfo) PassRecord {
	r := PassRecord{Pass: p.ID, Target: string(p.Target), Setting: string(p.Setting), By: p.By, Undoes: p.Undoes, Reverts: p.Reverts, Began: p.Began, Ended: p.Ended, Acts: p.Acts}
	for _, s := range p.Sources {
		r.Sources = append(r.Sources, string(s))
	}
	return r
}

func (s *Server) listPasses(ctx context.Context, in *struct {
	Target string    `query:"target" maxLength:"48" doc:"Only at this target."`
	Since  time.Time `query:"since" doc:"Only those that ended since then."`
}) (*output[list[PassRecord]], error) {
	var target schemas.Slug
	if in.Target != "" {
		var err error
		if target, err = parseSlug(in.Target); err != nil {
			return nil, err
		}
	}
	all, err := s.broker.Passes(ctx, target, in.Since)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 && target != "" { // a mistyped name is no server at which nothing was written
		if _, _, err := s.server(ctx, in.Target); err != nil {
			return nil, err
		}
	}
	out := &output[list[PassRecord]]{Body: list[PassRecord]{Items: []PassRecord{}}}
	for _, p := range all {
		out.Body.Items = append(out.Body.Items, passRecord(p))
	}
	return out, nil
}

// pass reads a pass.
func (s *Server) pass(ctx context.Context, id string) (PassDetail, error) {
	type key struct {
		t  schemas.Type
		id schemas.ID
	}
	at := map[key]int{}
	var out PassDetail
	err := s.broker.ScanDone(ctx, "", id, time.Time{}, func(d broker.Done) {
		if out.Pass == "" {
			out.PassRecord = PassRecord{Pass: d.Pass, Target: string(d.Target), Setting: string(d.Setting), By: d.By, Undoes: d.Undoes, Reverts: d.Reverts, Began: d.At, Acts: map[string]int{}}
		}
		if d.Source != "" && !slices.Contains(out.Sources, string(d.Source)) {
			out.Sources = append(out.Sources, string(d.Source))
		}
		out.Ended = d.At
		k := key{d.Type, d.ID}
		i, ok := at[k]
		if !ok {
			i = len(out.Objects)
			at[k] = i
			out.Objects = append(out.Objects, PassObject{Type: string(d.Type), ID: string(d.ID), SourceID: string(d.SourceID), Act: d.Act})
			out.Acts[d.Act]++
		}
		o := &out.Objects[i]
		o.Name, o.Group, o.Source, o.At, o.Writes = cmp.Or(d.Name, o.Name), cmp.Or(d.Group, o.Group), string(d.Source), d.At, o.Writes+1
		if !d.Version.IsZero() {
			o.Version = d.Version.String()
		}
	})
	if err == nil && out.Pass == "" {
		err = huma.Error404NotFound(fmt.Sprintf("Nothing of a pass %.64q is kept: it is for 30 days, and as long as there is room. vcsync pass list shows what there is.", id))
	}
	return out, err
}

func (s *Server) getPass(ctx context.Context, in *PassPath) (*output[PassDetail], error) {
	p, err := s.pass(ctx, in.Pass)
	if err != nil {
		return nil, err
	}
	return &output[PassDetail]{p}, nil
}

func (s *Server) undoPass(ctx context.Context, in *struct {
	PassPath
	Body UndoPass
}) (*tagged[RunRecord], error) {
	p, err := s.pass(ctx, in.Pass)
	if err != nil {
		return nil, err
	}
	var scope broker.RunScope
	for _, ref := range in.Body.Objects {
		t, err := schemas.ParseType(ref.Type)
		if err != nil {
			return nil, err
		}
		id, err := schemas.ParseID(ref.ID)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(p.Objects, func(o PassObject) bool { return o.Type == string(t) && o.ID == string(id) }) {
			return nil, huma.Error422UnprocessableEntity(fmt.Sprintf("Pass %s did nothing with %s/%.64s. vcsync pass show %s lists its objects, by their ids at %s.", p.Pass, t, id, p.Pass, p.Target))
		}
		scope.Objects = append(scope.Objects, broker.RunObject{Type: t, ID: id})
	}
	return s.askAct(ctx, schemas.Slug(p.Target), broker.RunAct{Undo: p.Pass}, scope, in.Body.DryRun, "undo of pass "+p.Pass)
}

func (s *Server) revertObject(ctx context.Context, in *struct {
	ObjectPath
	Body RevertObject
}) (*tagged[RunRecord], error) {
	n, err := s.object(ctx, in.ObjectPath, in.Body.Source)
	if err != nil {
		return nil, err
	}
	all, _, err := s.broker.History(ctx, n.Key)
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("%s/%s", n.Key.Type, n.ID)
	i := slices.IndexFunc(all, func(e broker.StoredEvent) bool {
		text := e.Version.String()
		_, revision, _ := strings.Cut(text, ".")
		return in.Body.Version == text || in.Body.Version == revision && e.Version.Epoch == n.Version.Epoch
	})
	switch {
	case i < 0:
		return nil, huma.Error404NotFound(fmt.Sprintf("The stream holds no version %.64s of %s. vcsync history %s shows those that it holds.", in.Body.Version, name, name))
	case all[i].Kind == schemas.Deleted:
		return nil, huma.Error422UnprocessableEntity(fmt.Sprintf("Version %s of %s is its deletion: there is nothing to bring back.", all[i].Version, name))
	}
	act := broker.RunAct{Revert: broker.RunRevert{Source: n.Key.Source, Type: n.Key.Type, ID: n.ID, Seq: all[i].Seq, Version: all[i].Version, Force: in.Body.Force}}
	at := n.Key.Source
	if in.Body.At != "" {
		if at, err = parseSlug(in.Body.At); err != nil {
			return nil, err
		}
	}
	if at != n.Key.Source {
		snap, err := s.broker.Snapshot(ctx)
		if err != nil {
			return nil, err
		}
		for _, v := range sortedSettings(snap) {
			if v.Active && v.Source == n.Key.Source && v.Target == at && len(snap.Awaits(v)) == 0 && v.Rights(n.Key.Type, all[i].Selected()).Use() {
				act.Revert.Setting = v.ID
				break
			}
		}
		if act.Revert.Setting == "" {
			return nil, huma.Error409Conflict(fmt.Sprintf("No active sync setting takes %s from %s to %s, so what it is to become there is not known.", name, n.Key.Source, at))
		}
	}
	return s.askAct(ctx, at, act, broker.RunScope{}, in.Body.DryRun, fmt.Sprintf("version %s of %s from %s", all[i].Version, name, n.Key.Source))
}

// askAct asks for a run at a server.
func (s *Server) askAct(ctx context.Context, server schemas.Slug, act broker.RunAct, scope broker.RunScope, dryRun bool, what string) (*tagged[RunRecord], error) {
	s.writes.Lock()
	defer s.writes.Unlock()
	v, snap, err := s.actServer(ctx, string(server))
	if err != nil {
		return nil, err
	}
	if s.cfg.Targets == nil {
		return nil, huma.Error409Conflict("No consumer is known here, so nobody would do it.")
	}
	old := snap.Runs[v.ID]
	if old.ID != "" && !old.Phase.Over() {
		return nil, huma.Error409Conflict(fmt.Sprintf("A run at server %s is under way since %s (%s). Wait for its end, or drop it: vcsync undo --drop %s.", server, old.Asked.Format(time.RFC3339), old.Phase, server))
	}
	r := broker.StoredRun{Run: broker.Run{ID: nuid.Next(), Setting: v.ID, Server: server, SettingRevision: v.Revision, Phase: broker.RunPlan, Scope: scope, Act: act, DryRun: dryRun,
		By: who(ctx), Asked: time.Now().UTC()}}
	if dryRun {
		what += ", dry run"
	}
	err = s.act(ctx, broker.AuditRecord{Action: "run.ask", Object: "server/" + string(server), Before: old.Revision, Detail: "run " + r.ID + ": " + what}, func(ctx context.Context) error {
		var err error
		r.Revision, err = s.broker.PutRun(ctx, r.Run, old.Revision)
		return err
	})
	if errors.Is(err, broker.ErrConflict) {
		return nil, huma.Error409Conflict(fmt.Sprintf("Somebody began another run at server %s this moment.", server))
	}
	if err != nil {
		return nil, err
	}
	return s.tagRun(ctx, r)
}

// actServer returns a server as what a run is of.
func (s *Server) actServer(ctx context.Context, text string) (broker.StoredSetting, broker.Snapshot, error) {
	id, err := parseSlug(text)
	if err != nil {
		return broker.StoredSetting{}, broker.Snapshot{}, err
	}
	snap, err := s.broker.Snapshot(ctx)
	if err != nil {
		return broker.StoredSetting{}, snap, err
	}
	v, ok := snap.Subject(broker.ActAt(id))
	if !ok {
		return v, snap, notFound("server", id)
	}
	return v, snap, nil
}

func (s *Server) getServerRun(ctx context.Context, in *IDPath) (*tagged[RunRecord], error) {
	return s.getRunOf(ctx, s.actServer, in)
}

func (s *Server) listServerPlan(ctx context.Context, in *PageInput) (*output[EntryPage], error) {
	return s.listPlanOf(ctx, s.actServer, in)
}

func (s *Server) approveServerRun(ctx context.Context, in *idBody[ApproveRun]) (*tagged[RunRecord], error) {
	return s.approveRunOf(ctx, s.actServer, in)
}

func (s *Server) dropServerRun(ctx context.Context, in *idBody[DropRun]) (*tagged[RunRecord], error) {
	return s.dropRunOf(ctx, s.actServer, in)
}
