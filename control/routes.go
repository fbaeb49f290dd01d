package control

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/vcsync/vcsync/schemas"
)

// Paths and headers that several operations take. What is embedded has to be
// exported: huma passes over the rest without a word.
type (
	noInput struct{}

	// IDPath names a record.
	IDPath struct {
		ID string `path:"id" maxLength:"48" doc:"The short name."`
	}
	// IDMatch names a record and the revision that the caller saw.
	IDMatch struct {
		IDPath
		IfMatch string `header:"If-Match" doc:"The ETag that was read, or *."`
	}
	idBody[T any] struct {
		IDPath
		Body T
	}
	idMatchBody[T any] struct {
		IDMatch
		Body T
	}
	bodyInput[T any] struct{ Body T }
)

func (s *Server) routes() {
	const (
		servers  = "Servers"
		settings = "Sync settings"
		events   = "Events"
		parked   = "Parked"
		status   = "Status"
		runs     = "Sync now"
		safety   = "Safety"
		airlock  = "Airlock"
		passes   = "Passes"
		audit    = "Audit"
	)
	register(s, "list-servers", servers, http.MethodGet, "/servers", 200, "List the servers", s.listServers)
	register(s, "add-server", servers, http.MethodPost, "/servers", 201, "Add a server, after a test", s.addServer)
	register(s, "get-server", servers, http.MethodGet, "/servers/{id}", 200, "Read a server", s.getServer)
	register(s, "replace-server", servers, http.MethodPut, "/servers/{id}", 200, "Change a server, after a test; the password stays where none is given", s.replaceServer)
	register(s, "remove-server", servers, http.MethodDelete, "/servers/{id}", 204, "Forget a server and its password", s.removeServer)
	register(s, "test-server", servers, http.MethodPost, "/servers/{id}/test", 200, "Ask a server who it is", s.testServer)
	register(s, "make-hint-token", servers, http.MethodPost, "/servers/{id}/hint-token", 201, "Make the token with which a server's hints come; the one before it is good for nothing then", s.hintToken)
	register(s, "revoke-hint-token", servers, http.MethodDelete, "/servers/{id}/hint-token", 204, "Take no more hints of a server", s.revokeHintToken)
	s.describeHints()
	s.accountRoutes()

	register(s, "list-settings", settings, http.MethodGet, "/settings", 200, "List the sync settings", s.listSettings)
	register(s, "add-setting", settings, http.MethodPost, "/settings", 201, "Add a sync setting", s.addSetting)
	register(s, "get-setting", settings, http.MethodGet, "/settings/{id}", 200, "Read a sync setting", s.getSetting)
	register(s, "replace-setting", settings, http.MethodPut, "/settings/{id}", 200, "Replace a sync setting", s.replaceSetting)
	register(s, "remove-setting", settings, http.MethodDelete, "/settings/{id}", 204, "Forget a sync setting; nothing at its target is deleted", s.removeSetting)
	register(s, "activate-setting", settings, http.MethodPost, "/settings/{id}/activate", 200, "Turn a sync setting on", s.activateSetting)
	register(s, "deactivate-setting", settings, http.MethodPost, "/settings/{id}/deactivate", 200, "Turn a sync setting off", s.deactivateSetting)
	register(s, "clone-setting", settings, http.MethodPost, "/settings/{id}/clone", 201, "Copy a sync setting; the copy is inactive", s.cloneSetting)

	register(s, "ask-run", runs, http.MethodPost, "/settings/{id}/runs", 201, "Sync now: list source and target afresh and make a plan, of an inactive sync setting too", s.askRun)
	register(s, "get-run", runs, http.MethodGet, "/settings/{id}/run", 200, "Read the newest run of a sync setting", s.getRun)
	register(s, "list-plan", runs, http.MethodGet, "/settings/{id}/run/plan", 200, "Read a page of its plan", s.listPlan)
	register(s, "approve-run", runs, http.MethodPost, "/settings/{id}/run/approve", 200, "Approve the plan that was looked at: it is applied, and no other", s.approveRun)
	register(s, "drop-run", runs, http.MethodPost, "/settings/{id}/run/drop", 200, "Drop a run; what is under way ends after the objects that are being written", s.dropRun)
	register(s, "get-drift", runs, http.MethodGet, "/settings/{id}/drift", 200, "What the last audit of the target found", s.getDrift)
	register(s, "list-drift", runs, http.MethodGet, "/settings/{id}/drift/objects", 200, "Read a page of the objects that differed, or were held since", s.listDrift)

	register(s, "list-passes", passes, http.MethodGet, "/passes", 200, "List what was written to targets, pass by pass, newest first", s.listPasses)
	register(s, "get-pass", passes, http.MethodGet, "/passes/{pass}", 200, "Read a pass with its objects", s.getPass)
	register(s, "undo-pass", passes, http.MethodPost, "/passes/{pass}/undo", 201, "Make a plan that undoes a pass, or some of its objects", s.undoPass)
	register(s, "revert-object", passes, http.MethodPost, "/history/{type}/{token}/revert", 201, "Make a plan that brings an older version of an object back, at its source or at one target", s.revertObject)
	register(s, "get-server-run", passes, http.MethodGet, "/servers/{id}/run", 200, "Read the newest run at a server", s.getServerRun)
	register(s, "list-server-plan", passes, http.MethodGet, "/servers/{id}/run/plan", 200, "Read a page of its plan", s.listServerPlan)
	register(s, "approve-server-run", passes, http.MethodPost, "/servers/{id}/run/approve", 200, "Approve the plan that was looked at: it is applied, and no other", s.approveServerRun)
	register(s, "drop-server-run", passes, http.MethodPost, "/servers/{id}/run/drop", 200, "Drop a run at a server; what is under way ends after the objects that are being written", s.dropServerRun)

	register(s, "explain-object", settings, http.MethodGet, "/settings/{id}/explain/{type}/{token}", 200, "Say gate by gate what becomes of an object, and which one holds it", s.explainObject)
	register(s, "match-setting", settings, http.MethodPost, "/settings/{id}/match", 200, "Pair objects of both servers by name, for pins; nothing is changed", s.matchSetting)
	register(s, "list-flagged", settings, http.MethodGet, "/settings/{id}/flagged", 200, "List the objects that would speak, from the target, to a server of the fleet", s.flagged)
	register(s, "check-config", settings, http.MethodPost, "/config/check", 200, "Tell whether a configuration could stand; nothing is changed", s.checkConfig)

	register(s, "list-events", events, http.MethodGet, "/events", 200, "Read events, newest first", s.listEvents)
	register(s, "read-history", events, http.MethodGet, "/history/{type}/{token}", 200, "Read what the stream holds of an object, newest first, and where it stands", s.history)
	register(s, "read-version", events, http.MethodGet, "/history/{type}/{token}/versions/{version}", 200, "Read the configuration of one version, secrets masked", s.getVersion)
	register(s, "list-changes", events, http.MethodGet, "/history/{type}/{token}/changes", 200, "Compare two versions of an object, secrets masked", s.listChanges)
	s.registerStream()

	register(s, "get-status", status, http.MethodGet, "/status", 200, "How sources, targets, sync settings and the store do", s.getStatus)
	register(s, "get-safe-mode", safety, http.MethodGet, "/safe-mode", 200, "Tell whether vcsync is in safe mode: it deletes nothing, and writes nothing but approved plans", s.getSafeMode)
	register(s, "enter-safe-mode", safety, http.MethodPost, "/safe-mode/on", 200, "Enter safe mode", s.enterSafeMode)
	register(s, "leave-safe-mode", safety, http.MethodPost, "/safe-mode/off", 200, "Leave safe mode", s.leaveSafeMode)
	register(s, "list-keys", safety, http.MethodGet, "/keys", 200, "List the keys of the keyring, and how much is sealed with each", s.listKeys)
	register(s, "rewrap-keys", safety, http.MethodPost, "/keys/rewrap", 200, "Seal all passwords and accounts with the key that seals now", s.rewrapKeys)
	register(s, "make-backup", safety, http.MethodPost, "/backup", 200, "Make an encrypted backup of everything but events", s.backup)
	register(s, "poll-source", status, http.MethodPost, "/sources/{id}/poll", 202, "Make the next poll of a source immediate", s.pollSource)

	register(s, "list-audit", audit, http.MethodGet, "/audit", 200, "List the acts, newest first, each with its result", s.listAudit)
	register(s, "verify-audit", audit, http.MethodGet, "/audit/verify", 200, "Check the chain of the audit, part by part; the first record that is not what was written is named", s.verifyAudit)
	register(s, "export-audit", audit, http.MethodGet, "/audit/export", 200, "Read the records as they are stored, as lines of JSON, part by part", s.exportAudit)

	register(s, "list-airlock", airlock, http.MethodGet, "/airlock", 200, "List the deletions that wait at sources, and what was decided about them", s.listAirlock)
	register(s, "get-airlock", airlock, http.MethodGet, "/airlock/{batch}", 200, "Read a batch with its objects", s.getAirlock)
	register(s, "approve-airlock", airlock, http.MethodPost, "/airlock/{batch}/approve", 202, "Let deletions go on; those of objects that the source still lacks are published", s.approveAirlock)
	register(s, "reject-airlock", airlock, http.MethodPost, "/airlock/{batch}/reject", 202, "Keep objects as they are, until the source has them again", s.rejectAirlock)

	register(s, "list-parked", parked, http.MethodGet, "/parked", 200, "List what is parked", s.listParked)
	register(s, "get-parked", parked, http.MethodGet, "/parked/{target}/{type}/{token}", 200, "Read one parked record", s.getParked)
	register(s, "retry-parked", parked, http.MethodPost, "/parked/{target}/{type}/{token}/retry", 202, "Ask for another try of one", s.retryParked)
	register(s, "retry-all-parked", parked, http.MethodPost, "/parked/retry", 202, "Ask for another try of all, or all of one target", s.retryAllParked)
	register(s, "discard-parked", parked, http.MethodPost, "/parked/{target}/{type}/{token}/discard", 202, "Leave this version of an object unapplied", s.discardParked)
}

func register[I, O any](s *Server, id, tag, method, path string, status int, summary string, h func(context.Context, *I) (*O, error)) {
	huma.Register(s.api, huma.Operation{OperationID: id, Method: method, Path: apiPrefix + path, DefaultStatus: status, Summary: summary,
		Tags: []string{tag}, MaxBodyBytes: maxBody, Errors: []int{http.StatusInternalServerError}},
		func(ctx context.Context, in *I) (*O, error) {
			out, err := h(ctx, in)
			return out, s.problem(ctx, err)
		})
}

func parseSlug(text string) (schemas.Slug, error) {
	id, err := schemas.ParseSlug(text)
	if err != nil {
		return "", huma.Error422UnprocessableEntity(err.Error())
	}
	return id, nil
}
