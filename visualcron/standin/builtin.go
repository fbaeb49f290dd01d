package standin

import (
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// Object is one object to be stored, its body without empty Task slots.
type Object struct {
	Type schemas.Type
	ID   schemas.ID
	Body jsontext.Value
}

// doc is a JSON object in the making; its members come out sorted by name.
type doc = map[string]any

// newObject panics for a body without an id: bodies here are all of this package.
func newObject(t schemas.Type, body doc) Object {
	b, err := json.Marshal(body, json.Deterministic(true))
	if err != nil {
		panic("standin: " + err.Error())
	}
	id, err := visualcron.BodyID(t, b)
	if err != nil {
		panic("standin: " + err.Error())
	}
	return Object{Type: t, ID: id, Body: b}
}

// Ids of the built-in objects, equal on all stand-ins. That VisualCron's own are
// equal on all servers is assumed.
const (
	builtinDate = "2019-01-01T00:00:00Z" // built-in jobs have a date like it (public client code)

	groupAdministrators = "00000000-57a1-4d10-8000-000000000001"
	groupViewers        = "00000000-57a1-4d10-8000-000000000002"
	groupSystem         = "00000000-57a1-4d10-8000-000000000003"
	userAdmin           = "00000000-57a1-4d10-8000-000000000011"
	userTray            = "00000000-57a1-4d10-8000-000000000012"
	jobBackup           = "00000000-57a1-4d10-8000-000000000021"
	jobDeleteLogs       = "00000000-57a1-4d10-8000-000000000022"
	exitCodesWindows    = "00000000-57a1-4d10-8000-000000000031"
)

// builtins returns what an empty VisualCron server holds, as far as screenshots in
// the VisualCron docs show it; their fields are assumed.
func builtins(server string) []Object {
	group := func(id, name, description string, isDefault bool) Object {
		return newObject(schemas.UserGroup, doc{"Id": id, "Name": name, "Description": description, "DefaultGroup": isDefault})
	}
	user := func(id, name, group string) Object {
		return newObject(schemas.User, doc{"Id": id, "Name": name, "UserName": name, "PassWord": nil, "Email": "", "Active": true,
			"Groups": []string{group}, "IsADUser": false, "IsADGroup": false, "ExpiryDate": "9999-12-31T23:59:59.9999999"})
	}
	job := func(id, task, trigger, name, description, when, cmd string) Object {
		return newObject(schemas.Job, jobDoc(id, name, description, "Default group", true, builtinDate,
			[]doc{triggerDoc(trigger, id, when)},
			[]doc{taskDoc(task, id, name, 1, "Execute", doc{"CmdLine": cmd, "Arguments": ""})}))
	}
	return []Object{
		newObject(schemas.ServerSettings, doc{"Name": server, "LogLevel": "Normal"}),
		group(groupAdministrators, "Administrators", "Full access", true),
		group(groupViewers, "Viewers", "Read only", true),
		group(groupSystem, "VisualCron system group", "", true),
		user(userAdmin, "admin", groupAdministrators),
		user(userTray, "TrayClientUser", groupSystem),
		newObject(schemas.ExitCode, doc{"Id": exitCodesWindows, "Name": "Windows (default)",
			"Codes": []doc{{"Code": 0, "Description": "The operation completed successfully", "Success": true},
				{"Code": 1, "Description": "Incorrect function", "Success": false}}}),
		job(jobBackup, "00000000-57a1-4d10-8000-000000000041", "00000000-57a1-4d10-8000-000000000051",
			"Backup settings", "Exports all settings every night", "Daily at 1:00:00 AM", `C:\Contoso\backup.cmd`),
		job(jobDeleteLogs, "00000000-57a1-4d10-8000-000000000042", "00000000-57a1-4d10-8000-000000000052",
			"Delete old log files", "Removes log files after 30 days", "Daily at 2:00:00 AM", `C:\Contoso\clean.cmd`),
	}
}

// jobDoc is a Job with the members known from public client code; the shapes of
// the empty ones are assumed.
func jobDoc(id, name, description, group string, active bool, date string, triggers, tasks []doc) doc {
	return doc{
		"Id": id, "Name": name, "Description": description, "Group": group, "GroupOverride": []doc{},
		"Stats": doc{"JobId": id, "Active": active, "ExitCode": 0, "ExitCodeResult": 0, "DateLastExecution": never,
			"DateNextExecution": never, "DateLastExited": never, "DateCreated": date, "DateModified": date, "NoExecutes": 0,
			"ExecutionTime": 0, "LastTriggerId": zeroGUID, "Status": 1, "CPUTime": 0, "TriggerCPUTime": 0, "TasksCPUTime": 0,
			"NotificationCPUTime": 0},
		"Tasks": tasks, "Triggers": triggers, "Variables": []doc{}, "Flow": []doc{}, "JobLoops": []doc{}, "TriggerDependencies": []doc{},
		"ResetTriggers": false, "ResetTriggerDepedency": false, "StartNotifications": nil, "CompleteNotifications": nil,
		"ErrorNotifications": nil, "TimeExceptions": []string{}, "Conditions": nil, "TimeOut": nil, "ROISettings": nil, "Test": false,
		"ResultOutput": nil, "IsTaskRepository": false, "UseRunRandomValue": false, "RunRandomValue": 0, "Missed": false,
		"MissedDate": never, "JobDebugging": false, "RunMissed": false, "RunOnce": false, "RemoveAfterExecution": false,
		"RunTasksInOrder": true, "NotStartIfRunning": true, "QueueJobs": false, "CreatedBy": userAdmin, "ModifiedBy": userAdmin,
		"UniqueRunId": 0, "JobFolders": []doc{},
	}
}

const (
	never    = "0001-01-01T00:00:00Z" // how .NET says never (public client code)
	zeroGUID = "00000000-0000-0000-0000-000000000000"
)

func triggerDoc(id, job, description string) doc {
	return doc{"Id": id, "JobId": job, "Active": true, "TriggerType": "TimeType", "Description": description}
}

// taskDoc is a Task whose slot named by taskType holds settings.
func taskDoc(id, job, name string, order int, taskType string, settings doc) doc {
	d := doc{"Id": id, "Name": name, "Order": order, "Description": "", "TaskType": taskType, "CodePage": 0, "StoreSTDOut": true,
		"StoreSTDErr": true, "TaskDebugging": false, "Conditions": nil, "ConditionsArray": []doc{}, "TimeOut": nil, "Flow": []doc{},
		"Stats":  doc{"Active": true, "Status": 1, "Result": "", "ExecutionTime": 0, "DateLastExecution": never},
		taskType: settings}
	if job != "" {
		d["JobId"] = job
	}
	return d
}
