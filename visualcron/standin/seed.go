package standin

import (
	"crypto/sha256"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"sync"

	"github.com/vcsync/vcsync/schemas"
)

// SeedJobs is how many jobs Seed brings.
const SeedJobs = 200

// seedingFile lies in a stand-in's folder while it is being seeded; found later it
// says that the seeding was cut off.
const seedingFile = "seeding"

// Seed fills a stand-in that holds its built-ins only with the objects of
// SeedObjects; a seeding that was cut off, by a kill for instance, is done again
// from its beginning. Otherwise it changes nothing and returns an error that wraps
// ErrNotEmpty.
func Seed(s *Server) (err error) {
	cutOff := s.store != nil && s.store.has(seedingFile)
	for _, t := range schemas.Types() {
		for _, row := range s.Objects(t) {
			if !IsBuiltin(t, row.ID) && !cutOff {
				return fmt.Errorf("%w: it holds %s %.64s; seed a new one, or remove its folder first", ErrNotEmpty, t, row.ID)
			}
		}
	}
	if s.store != nil {
		if err := s.store.write(s.store.dir, seedingFile, nil); err != nil {
			return err
		}
		defer func() {
			if err == nil {
				err = s.store.drop(seedingFile)
			}
		}()
	}
	objects := SeedObjects()
	work := make(chan Object)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for range 8 { // side by side, because each waits for the disk
		wg.Go(func() {
			for o := range work {
				if _, _, err := s.Put(o.Type, o.Body); err != nil {
					mu.Lock()
					errs = append(errs, fmt.Errorf("seed %s %s: %w", o.Type, o.ID, err))
					mu.Unlock()
				}
			}
		})
	}
	for _, o := range objects {
		work <- o
	}
	close(work)
	wg.Wait()
	return errors.Join(errs...)
}

// IsBuiltin tells whether every new stand-in holds this object.
func IsBuiltin(t schemas.Type, id schemas.ID) bool {
	return slices.ContainsFunc(builtins(""), func(o Object) bool { return o.Type == t && o.ID == id })
}

// seedGUID makes the same GUID for the same words at all times.
func seedGUID(kind string, n int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "vcsync stand-in seed/%s/%d", kind, n))
	var b [16]byte
	copy(b[:], sum[:])
	b[6], b[8] = b[6]&0x0f|0x80, b[8]&0x3f|0x80 // version 8: made by a rule of one's own
	return guidText(b)
}

// SeedObjects returns 200 synthetic jobs of Contoso and what they refer to, in an
// order in which nothing refers to what comes later, other jobs apart. The
// objects, ids included, are the same at every call.
func SeedObjects() []Object {
	r := mathrand.New(mathrand.NewPCG(20260304, 200))
	pick := func(list []string) string { return list[r.IntN(len(list))] }
	var out []Object
	add := func(t schemas.Type, body doc) { out = append(out, newObject(t, body)) }
	ids := func(kind string, n int) []string {
		l := make([]string, n)
		for i := range l {
			l[i] = seedGUID(kind, i)
		}
		return l
	}

	groups := ids("user group", 3)
	for i, name := range []string{"Contoso operators", "Contoso développeurs", "Contoso auditors"} {
		add(schemas.UserGroup, doc{"Id": groups[i], "Name": name, "Description": "Run and view", "DefaultGroup": false,
			"Permissions": []doc{{"Permission": "Jobs", "Read": true, "Add": i == 1, "Edit": i == 1, "Execute": i < 2, "Delete": false}}})
	}
	users := ids("user", 5)
	for i, name := range []string{"Åsa Lindqvist", "Jürgen Groß", "Noémie Lefèvre", "山田 太郎", "Mary O'Neil"} {
		add(schemas.User, doc{"Id": users[i], "Name": name, "UserName": fmt.Sprintf("contoso%d", i+1), "PassWord": fmt.Sprintf("enc:user-%d", i+1),
			"Email": fmt.Sprintf("user%d@contoso.com", i+1), "Active": true, "Groups": []string{groups[i%len(groups)]}, "IsADUser": false,
			"IsADGroup": false, "ADGroup": nil, "ADDC": nil, "ADHostName": nil, "InheritGroup": false, "ExpiryDate": "9999-12-31T23:59:59.9999999"})
	}
	certificates := ids("certificate", 2)
	for i, cn := range []string{"mail.contoso.com", "sftp.contoso.com"} {
		add(schemas.Certificate, doc{"Id": certificates[i], "Name": "contoso-" + cn[:4], "CommonName": cn, "HasPrivateKey": true, "Data": fmt.Sprintf("enc:certificate-%d", i+1)})
	}
	sshKeys := ids("ssh key", 2)
	for i, name := range []string{"erp-sftp", "bank-sftp"} {
		add(schemas.SSHKey, doc{"Id": sshKeys[i], "Name": name, "Algorithm": "RSA", "Bits": 4096, "IsPublic": false, "Data": fmt.Sprintf("enc:key-%d", i+1)})
	}
	add(schemas.PGPKeyRing, doc{"Id": seedGUID("pgp", 0), "Name": "Contoso partners", "Keys": []doc{}})
	credentials := ids("credential", 6)
	for i := range credentials {
		add(schemas.Credential, doc{"Id": credentials[i], "Username": fmt.Sprintf("enc:svc-%d", i+1), "Password": fmt.Sprintf("enc:secret-%d", i+1),
			"Domain": "enc:CONTOSO", "IsMSA": false, "LocalLogin": i%2 == 0, "LoadProfile": false})
	}
	connections := ids("connection", 12)
	for i := range connections {
		protocol := []string{"SQL", "FTP", "SMTP", "SFTP", "VisualCron", "HTTP"}[i%6]
		body := doc{"Id": connections[i], "Name": fmt.Sprintf("Contoso %s %02d", protocol, i+1), "Group": []string{"Default group", "Finance"}[i%2],
			"ProtocolType": protocol, "Address": fmt.Sprintf("%s%02d.contoso.com", strings.ToLower(protocol), i+1), "Port": 1000 + i, "TimeOut": 60,
			"UserName": fmt.Sprintf("enc:connection-user-%d", i+1), "PassWord": fmt.Sprintf("enc:connection-%d", i+1)}
		if protocol == "SFTP" {
			body["SSHKey"] = sshKeys[i%len(sshKeys)]
		}
		add(schemas.Connection, body)
	}
	for i := range 2 {
		add(schemas.NetworkDrive, doc{"Id": seedGUID("drive", i), "Drive": string(rune('Y'+i)) + ":", "Path": fmt.Sprintf(`\\fs%02d.contoso.com\data`, i+1),
			"Controlled": true, "Credential": credentials[i]})
	}
	variables := []string{"ContosoRegion", "Contoso.Root", "Contoso/Share", "Größe", "Fiscal year", "出力先", "ContosoMail", "ContosoRetries"}
	for i, name := range variables {
		add(schemas.Variable, doc{"Name": name, "Description": "Seeded value " + name, "ObjectType": "String", "ValueObject": fmt.Sprintf("enc:value-%d", i+1)})
	}
	exceptions := ids("time exception", 4)
	for i, name := range []string{"Contoso holidays", "Månadsbokslut", "Maintenance Sunday", "Year's end"} {
		add(schemas.TimeException, doc{"Id": exceptions[i], "Name": name, "Description": "",
			"Exceptions": []doc{{"Id": seedGUID("exception", i), "Name": "Day " + name, "Description": "1 January"}}})
	}
	add(schemas.ExitCode, doc{"Id": seedGUID("exit code", 0), "Name": "Robocopy",
		"Codes": []doc{{"Code": 1, "Description": "Files copied", "Success": true}, {"Code": 16, "Description": "Nothing copied", "Success": false}}})
	for i, name := range []string{"Rotate logs", "Check disk"} {
		add(schemas.TaskRepository, doc{"Version": i + 1, "Task": taskDoc(seedGUID("repository task", i), "", name, 1, "PowerShell",
			doc{"Script": "Write-Output '" + name + "'"})})
	}
	notifications := ids("notification", 3)
	for i, name := range []string{"Mail ops", "Mail finance", "Måla tavlan röd"} {
		add(schemas.Notification, doc{"Id": notifications[i], "Task": taskDoc(notifications[i], "", name, 1, "Email",
			doc{"ConnectionId": connections[2], "To": "ops@contoso.com", "Subject": name + " {JOB(Active|Name)}"})})
	}

	jobs := ids("job", SeedJobs)
	conditions := ids("condition", 3)
	for i := range conditions {
		add(schemas.Condition, doc{"Id": conditions[i], "Description": fmt.Sprintf("Contoso file %d present", i+1),
			"Conditions": []doc{{"Id": seedGUID("condition row", i), "ConditionType": "File", "Description": "orders.csv", "Active": true,
				"Credential": credentials[i]}},
			"OnMatchAll": doc{"Action": "Continue"}, "OnMatchNone": doc{"Action": "Exit", "Job": jobs[i]}})
	}
	jobGroups := []string{"Default group", "Finance", "Sales", "Warehouse", "HR", "Löner", "Производство", "Fakturierung", "IT operations", "Reporting",
		"Partners & banks", "Überwachung"}
	verbs := []string{"Export", "Import", "Check", "Rotate", "Mail", "Zip", "Überprüfe", "Flytta", "Load", "Reconcile"}
	things := []string{"orders", "invoices", "Löhne", "stock levels", "kontoutdrag", "price lists", "customer data", "web logs", "請求書", "budget"}
	for i, id := range jobs {
		name := fmt.Sprintf("%s %s %03d", pick(verbs), pick(things), i+1)
		date := fmt.Sprintf("2025-%02d-%02dT%02d:%02d:%02d.%07d+01:00", 1+i%12, 1+i%28, i%24, r.IntN(60), r.IntN(60), 1+r.IntN(9999998))
		var tasks []doc
		taskIDs := ids(fmt.Sprintf("job %d task", i), 1+i%6)
		for k, task := range taskIDs {
			kind := []string{"Execute", "SQL", "PowerShell", "HTTP", "Email", "FTP", "JobTaskControl", "FileWrite"}[r.IntN(8)]
			var slot doc
			switch kind {
			case "Execute":
				slot = doc{"CmdLine": fmt.Sprintf(`C:\Contoso\job%03d\step%d.cmd`, i+1, k+1), "Arguments": `/q "{USERVAR(` + pick(variables) + `)}"`,
					"NetworkCredential": pick(credentials)}
			case "SQL":
				slot = doc{"ConnectionId": connections[r.IntN(2)*6], "Credential": pick(credentials), "Command": nil,
					"EncryptedCommand": fmt.Sprintf("enc:sql-%d-%d", i+1, k+1)}
			case "PowerShell":
				slot = doc{"Script": "# " + name + "\r\nGet-ChildItem -Path \"{USERVAR(Contoso.Root)}\" |\r\n  Where-Object { $_.Length -gt 0 }\r\n"}
			case "HTTP":
				slot = doc{"ConnectionId": connections[5], "HostName": "api.contoso.com", "Path": fmt.Sprintf("/v1/%d", i+1), "Method": "POST"}
			case "Email":
				slot = doc{"ConnectionId": connections[2], "To": "ops@contoso.com", "Subject": name, "Body": "Done, see \"log\"; naïve, café"}
			case "FTP":
				slot = doc{"ConnectionId": connections[1], "FTPCommands": []doc{{"CommandType": "Upload", "Local": `Y:\out`, "Remote": "/in"}}}
			case "JobTaskControl":
				slot = doc{"JobId": jobs[(i+1+r.IntN(SeedJobs-1))%SeedJobs], "Action": "Run"}
			case "FileWrite":
				slot = doc{"FilePath": fmt.Sprintf(`Y:\log\%03d.txt`, i+1), "Text": "Wrote"}
				if k > 0 {
					slot["Text"] = "Before: {TASK(" + taskIDs[k-1] + ",Name)}; job: {JOB(" + pick(jobs) + "|Variable|Region)}"
				}
			}
			td := taskDoc(task, id, fmt.Sprintf("%s %d", kind, k+1), k+1, kind, slot)
			if r.IntN(4) == 0 {
				td["Flow"] = []doc{{"Type": "OnError", "Action": "Notification", "NotificationId": pick(notifications)}}
			}
			tasks = append(tasks, td)
		}
		var triggers []doc
		for k := range 1 + r.IntN(2) {
			triggers = append(triggers, triggerDoc(seedGUID(fmt.Sprintf("job %d trigger", i), k), id, fmt.Sprintf("Daily at %d:%02d:00 AM", 1+r.IntN(11), r.IntN(60))))
		}
		body := jobDoc(id, name, fmt.Sprintf("%s of Contoso, step by step", name), jobGroups[i%len(jobGroups)], r.IntN(10) > 0, date, triggers, tasks)
		body["CreatedBy"], body["ModifiedBy"] = pick(users), pick(users)
		if r.IntN(3) == 0 {
			body["TimeExceptions"] = []string{pick(exceptions)}
		}
		if r.IntN(5) == 0 {
			body["Conditions"] = pick(conditions)
		}
		if r.IntN(2) == 0 {
			body["Variables"] = []doc{{"Key": "Region", "ValueObject": "AAEAAAD/////AQ=="}}
		}
		add(schemas.Job, body)
	}
	add(schemas.MFTServer, doc{"Id": seedGUID("mft", 0), "Name": "Contoso SFTP", "Type": "SFTP", "Port": 22, "Active": true, "Certificate": certificates[1]})
	return out
}
