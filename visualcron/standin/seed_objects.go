package standin

import (
	"crypto/sha256"
	"fmt"
	mathrand "math/rand/v2"
	"strings"

	"github.com/vcsync/vcsync/schemas"
)

// Ref names one object.
type Ref struct {
	Type schemas.Type
	ID   schemas.ID
}

// Dangling is a reference whose object is not there.
type Dangling struct{ From, To Ref }

// SeedObjects returns the synthetic objects of Contoso: 200 jobs, 60 connections,
// 40 credentials, 50 variables and some of every other type, in the order of
// schemas.ApplyOrder. Nothing refers to what comes later, the cycles of SeedCycles
// and the references of SeedDangling apart. The objects, ids included, are the same
// at every call.
func SeedObjects() []Object { return newSeed().objects }

// SeedSecrets returns every secret of the seed: text that stands in one place of
// one body and nowhere else, to be looked for wherever it must not be.
func SeedSecrets() []string { return newSeed().secrets }

// SeedDangling returns the references of the seed that lead nowhere.
func SeedDangling() []Dangling { return newSeed().dangling }

// SeedCycles returns the circles in which objects of the seed refer to each other:
// each to the next, the last to the first.
func SeedCycles() [][]Ref { return newSeed().cycles }

// SeedSecret makes the n-th secret of a kind, the same at all times.
func SeedSecret(kind string, n int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "vcsync stand-in secret/%s/%d", kind, n))
	return fmt.Sprintf("S3ed-%x-%s%d", sum[:8], kind, n)
}

// seed is the seed in the making.
type seed struct {
	r        *mathrand.Rand
	objects  []Object
	secrets  []string
	counts   map[string]int // of secrets by kind
	dangling []Dangling
	cycles   [][]Ref
}

func newSeed() *seed {
	s := &seed{r: mathrand.New(mathrand.NewPCG(20260304, 200)), counts: map[string]int{}}
	s.all()
	return s
}

func (s *seed) add(t schemas.Type, body doc) { s.objects = append(s.objects, newObject(t, body)) }

func (s *seed) secret(kind string) string {
	text := SeedSecret(kind, s.counts[kind])
	s.counts[kind]++
	s.secrets = append(s.secrets, text)
	return text
}

// key is a secret of several lines.
func (s *seed) key(kind string) string {
	return "-----BEGIN CONTOSO KEY-----\r\n" + s.secret(kind) + "\r\n-----END CONTOSO KEY-----\r\n"
}

// missing returns the id of an object that is nowhere.
func (s *seed) missing(from schemas.Type, id string, to schemas.Type) string {
	gone := seedGUID("missing "+string(to), len(s.dangling))
	s.dangling = append(s.dangling, Dangling{Ref{from, schemas.ID(id)}, Ref{to, schemas.ID(gone)}})
	return gone
}

func seedIDs(kind string, n int) []string {
	l := make([]string, n)
	for i := range l {
		l[i] = seedGUID(kind, i)
	}
	return l
}

// at takes from a list round and round.
func at[T any](list []T, i int) T { return list[i%len(list)] }

func pick[T any](r *mathrand.Rand, list []T) T { return list[r.IntN(len(list))] }

// oddDates are ways in which .NET writes dates, never and no end among them.
var oddDates = []string{"0001-01-01T00:00:00", "9999-12-31T23:59:59.9999999", "2026-03-04T02:00:00.1371842+01:00", "2026-03-04T02:00:00Z",
	"2025-10-26T02:30:00.5-03:30", "9999-12-31T23:59:59.9999999Z", "0001-01-01T00:00:00Z", "2024-02-29T23:59:59.0000001+13:45"}

// protocols and triggerTypes are the enumerations that the stand-in writes as text
// or as their place in the list. Which numbers VisualCron has for them is not known.
var (
	protocols    = []string{"SQL", "FTP", "SMTP", "SFTP", "VisualCron", "HTTP", "SSH", "SharePoint", "AzureStorage", "AmazonS3", "IMAP", "WebDAV"}
	triggerTypes = []string{"TimeType", "EventType"}
)

// script is one of about 300 kB.
func script(name string) string {
	var b strings.Builder
	for i := 0; b.Len() < 300<<10; i++ {
		fmt.Fprintf(&b, "# %s, rad %d: \"citat\", 'apostrof', komma; ÅÄÖ ß 請求書\r\nWrite-Output (\"{0}\t{1}\" -f %d, $env:COMPUTERNAME)\r\n", name, i+1, i)
	}
	return b.String()
}

func (s *seed) all() {
	r := s.r

	// The one settings object of the server itself.
	s.add(schemas.ServerSettings, doc{"Name": "Contoso production", "LogLevel": "Normal", "MaxLogDays": 30, "DateFormat": "yyyy-MM-dd",
		"Mail":  doc{"Server": "smtp.contoso.com", "Port": 587, "UserName": "vc@contoso.com", "PassWord": s.secret("settings"), "From": "VisualCron, Contoso <vc@contoso.com>"},
		"Proxy": doc{"Address": "proxy.contoso.com", "Port": 8080, "UserName": "CONTOSO\\proxy", "PassWord": s.secret("settings")},
		"AD":    doc{"Domain": "contoso.com", "UserName": "svc-ad", "BindPassword": s.secret("settings"), "Groups": []string{}}})

	groups := seedIDs("user group", 5)
	for i, name := range []string{"Contoso operators", "Contoso développeurs", "Contoso auditors", "Contoso operators", "Löner, \"HR\" & lön"} {
		var permissions []doc
		for _, p := range []string{"Jobs", "Tasks", "Triggers", "Connections", "Credentials", "Variables"} {
			permissions = append(permissions, doc{"Permission": p, "Read": true, "Add": i == 1, "Edit": i == 1, "Execute": i < 2, "Delete": false})
		}
		s.add(schemas.UserGroup, doc{"Id": groups[i], "Name": name, "Description": "Run and view\r\nline two", "DefaultGroup": false,
			"AutoOverrideObjectPermission": i == 2, "Permissions": permissions})
	}

	users := seedIDs("user", 12)
	for i, name := range []string{"Åsa Lindqvist", "Jürgen Groß", "Noémie Lefèvre", "山田 太郎", "Mary O'Neil", "Zoë \"Zed\" Ünal", "Иван Петров",
		"Åsa Lindqvist", "svc backup", "CONTOSO\\AD operators", "Ólafur Þórsson", "Smith, John"} {
		body := doc{"Id": users[i], "Name": name, "UserName": fmt.Sprintf("contoso%d", i+1), "PassWord": nil,
			"Email": fmt.Sprintf("user%d@contoso.com", i+1), "Active": i != 8, "Groups": []string{at(groups, i)}, "IsADUser": i == 10,
			"IsADGroup": i == 9, "ADGroup": nil, "ADDC": nil, "ADHostName": nil, "InheritGroup": i == 9, "ExpiryDate": at(oddDates, i), "Blocked": false}
		switch {
		case i == 9:
			body["ADGroup"], body["ADDC"] = "CN=AD operators,OU=Contoso,DC=contoso,DC=com", "dc01.contoso.com"
		case i == 10:
			body["ADHostName"] = "dc01.contoso.com"
		default:
			body["PassWord"] = s.secret("user")
		}
		if i == 4 {
			body["Groups"] = []string{groups[0], s.missing(schemas.User, users[i], schemas.UserGroup), groups[2]}
		}
		s.add(schemas.User, body)
	}

	certificates := seedIDs("certificate", 5)
	for i, cn := range []string{"mail.contoso.com", "sftp.contoso.com", "*.contoso.com", "mail.contoso.com", "überwachung.contoso.com"} {
		s.add(schemas.Certificate, doc{"Id": certificates[i], "Name": "contoso-" + cn[:4], "CommonName": cn, "IssuerName": "CN=Contoso Root, O=\"Contoso, Inc.\"",
			"Email": "pki@contoso.com", "SelfSigned": i == 2, "HasPrivateKey": true, "CanEncrypt": true, "CanSign": i != 3, "KeyValid": true,
			"ValidFrom": "2025-01-01T00:00:00+01:00", "ValidTo": at(oddDates, i+1), "Data": s.key("certificate"), "Password": s.secret("certificate")})
	}

	sshKeys := seedIDs("ssh key", 4)
	for i, name := range []string{"erp-sftp", "bank-sftp", "bank-sftp", "schlüssel"} {
		body := doc{"Id": sshKeys[i], "Name": name, "Algorithm": []string{"RSA", "Ed25519"}[i%2], "Bits": []int{4096, 256}[i%2], "IsPublic": i == 3,
			"PublicKey": fmt.Sprintf("ssh-rsa AAAAB3Contoso%04d %s@contoso", i, name), "Fingerprint": fmt.Sprintf("SHA256:Contoso%04d", i), "Data": s.key("sshkey")}
		if i < 2 {
			body["Passphrase"] = s.secret("sshkey")
		}
		s.add(schemas.SSHKey, body)
	}

	rings := seedIDs("pgp", 3)
	for i, name := range []string{"Contoso partners", "Contoso Banken", "empty ring"} {
		keys := []doc{}
		for k := range 2 - i {
			keys = append(keys, doc{"Id": seedGUID(fmt.Sprintf("pgp %d key", i), k), "KeyId": fmt.Sprintf("0xC0%02d%02d", i, k),
				"UserId": fmt.Sprintf("Contoso %d <pgp%d@contoso.com>", k+1, k+1), "Type": []string{"Public", "Private"}[k%2], "Bits": 3072,
				"Expires": at(oddDates, i+k), "Data": s.key("pgp"), "Passphrase": s.secret("pgp")})
		}
		s.add(schemas.PGPKeyRing, doc{"Id": rings[i], "Name": name, "Description": "Keys for " + name, "Keys": keys})
	}

	credentials := seedIDs("credential", SeedCredentials)
	// One id may stand for objects of two types.
	credentials[SeedCredentials-1] = certificates[0]
	for i := range credentials {
		body := doc{"Id": credentials[i], "Username": fmt.Sprintf("svc-%02d", i+1), "Password": nil, "Domain": []string{"CONTOSO", "", "MÜNCHEN", "contoso.com"}[i%4], "IsMSA": false, "LocalLogin": i%2 == 0, "LoadProfile": i%3 == 0}
		switch {
		case i%11 == 10: // a managed service account has no password
			body["Username"], body["IsMSA"] = fmt.Sprintf("gmsa-%02d$", i+1), true
		case i == 7 || i == 8: // the same account twice
			body["Username"], body["Domain"] = "svc-batch", "CONTOSO"
		case i == 12:
			body["Username"] = "Größe, \"quoted\"\\tab"
		}
		if body["IsMSA"] == false {
			body["Password"] = s.secret("credential")
		}
		if i%9 == 4 {
			body["PermissionOverride"] = []doc{{"Group": at(groups, i), "Read": true, "Edit": false}}
		}
		s.add(schemas.Credential, body)
	}

	connections := seedIDs("connection", SeedConnections)
	for i := range connections {
		number := i % len(protocols)
		protocol := protocols[number]
		body := doc{"Id": connections[i], "Name": fmt.Sprintf("Contoso %s %02d", protocol, i+1),
			"Group": []string{"Default group", "Finance", "Löner", "Partners & banks"}[i%4], "ProtocolType": protocol,
			"Address": fmt.Sprintf("%s%02d.contoso.com", strings.ToLower(protocol), i+1), "Port": 1000 + i, "TimeOut": 60, "CodePage": 65001,
			"UserName": fmt.Sprintf("connect-%02d", i+1), "PassWord": s.secret("connection"), "Certificate": nil, "SSHKey": nil, "Proxy": nil,
			"UseTLS": i%2 == 0}
		switch {
		case i%10 == 9:
			body["ProtocolType"] = number // some have the enumeration as a number
		case i%10 == 4:
			body["ProtocolType"] = strings.ToLower(protocol)
		}
		switch protocol {
		case "SFTP", "SSH":
			body["SSHKey"] = at(sshKeys, i)
		case "HTTP", "WebDAV":
			body["Certificate"] = at(certificates, i)
			body["ClientSecret"] = s.secret("connection")
		case "AmazonS3":
			body["AccessKey"] = s.secret("connection")
			body["Region"] = "eu-north-1"
		case "SharePoint":
			body["OAuth"] = doc{"TenantId": "contoso.onmicrosoft.com", "AccessToken": nil, "RefreshToken": nil, "Expires": at(oddDates, i)}
			if i < len(protocols) { // one where somebody has signed in: a target has to do so itself
				body["OAuth"] = doc{"TenantId": "contoso.onmicrosoft.com", "AccessToken": s.secret("connection"), "RefreshToken": s.secret("connection"), "Expires": at(oddDates, i)}
			}
		}
		if i%7 == 3 {
			body["Proxy"] = doc{"Type": "HTTP", "Address": "proxy.contoso.com", "Port": 8080, "UserName": fmt.Sprintf("proxy-%d", i), "PassWord": s.secret("proxy")}
		}
		switch i {
		case 20, 21:
			body["Name"] = "Contoso ERP" // two of one name
		case 22:
			body["Name"] = "Müller & Söhne, \"Zürich\"\r\nZeile 2"
		case 27:
			body["SSHKey"] = s.missing(schemas.Connection, connections[i], schemas.SSHKey)
		case 41:
			body["Certificate"] = s.missing(schemas.Connection, connections[i], schemas.Certificate)
		}
		s.add(schemas.Connection, body)
	}
	// of returns a connection of a protocol, whose places in the list repeat.
	of := func(protocol string, i int) string {
		for n, p := range protocols {
			if p == protocol {
				return connections[n+len(protocols)*(i%(SeedConnections/len(protocols)))]
			}
		}
		panic("standin: no connection of protocol " + protocol)
	}

	drives := seedIDs("drive", 4)
	for i, letter := range []string{"Y:", "Z:", "X:", "W:"} {
		body := doc{"Id": drives[i], "Drive": letter, "Path": fmt.Sprintf(`\\fs%02d.contoso.com\data, "år" 2026`, i+1), "Controlled": i%2 == 0,
			"ConnectionStatus": []string{"Connected", "Disconnected"}[i%2], "Credential": credentials[i]}
		if i == 3 {
			body["Credential"] = s.missing(schemas.NetworkDrive, drives[i], schemas.Credential)
		}
		s.add(schemas.NetworkDrive, body)
	}

	variables := []string{"ContosoRegion", "Contoso.Root", "Contoso/Share", "Größe", "Fiscal year", "出力先", "ContosoMail", "ContosoRetries",
		"../up", "..", "A+B=C", "100%", "Pfad\\Neu", "a,b;c", "Straße/Größe.Ende", "contosoregion"}
	for i := len(variables); i < SeedVariables; i++ {
		variables = append(variables, fmt.Sprintf("Contoso.Team%d/Setting %02d", i%5, i+1))
	}
	for i, name := range variables {
		s.add(schemas.Variable, doc{"Name": name, "Description": "Value of " + name + ", \"seeded\"", "ObjectType": []string{"String", "Double", "Int32"}[i%3],
			"ValueObject": s.secret("variable")})
	}

	exceptions := seedIDs("time exception", 6)
	for i, name := range []string{"Contoso holidays", "Månadsbokslut", "Maintenance Sunday", "Year's end", "Contoso holidays", "年末年始"} {
		var days []doc
		for k := range 1 + i%3 {
			days = append(days, doc{"Id": seedGUID(fmt.Sprintf("exception %d", i), k), "Name": fmt.Sprintf("Day %d of %s", k+1, name), "Description": "1 January",
				"From": at(oddDates, i+k), "To": at(oddDates, i+k+1)})
		}
		s.add(schemas.TimeException, doc{"Id": exceptions[i], "Name": name, "Description": "", "Use": true, "Exceptions": days})
	}

	exitCodes := seedIDs("exit code", 4)
	for i, name := range []string{"Robocopy", "Contoso ERP", "Größer als 0", "Robocopy"} {
		s.add(schemas.ExitCode, doc{"Id": exitCodes[i], "Name": name,
			"Codes": []doc{{"Code": 1, "Description": "Files copied", "Success": true}, {"Code": 16 + i, "Description": "Nothing copied, see \"log\"", "Success": false}}})
	}

	for i, name := range []string{"Rotate logs", "Check disk", "Månadsrapport", "Big library"} {
		id := seedGUID("repository task", i)
		kind, slot := "PowerShell", doc{"Script": "Write-Output '" + name + "'\r\n", "ConnectionId": of("SSH", i)}
		if i == 2 {
			kind, slot = "DotNetExecute", doc{"Language": "C#", "Code": "class A { string s = \"å\"; }", "ApiKey": s.secret("repository"), "Credential": credentials[5]}
		}
		if i == 3 {
			slot = doc{"Script": script(name)}
		}
		s.add(schemas.TaskRepository, doc{"Version": i + 1, "Lang": []string{"PowerShell", "C#"}[i%2], "Task": taskDoc(id, "", name, 1, kind, slot)})
	}

	notifications := seedIDs("notification", 6)
	for i, name := range []string{"Mail ops", "Mail finance", "Måla tavlan röd", "Mail ops", "Web hook", "Teams, \"IT\""} {
		kind, slot := "Email", doc{"ConnectionId": of("SMTP", i), "To": "ops@contoso.com", "Subject": name + " {JOB(Active|Name)}, {USERVAR(" + variables[i] + ")}",
			"Body": "Line one\r\nline two", "Certificate": at(certificates, i)}
		if i > 3 {
			kind, slot = "HTTP", doc{"ConnectionId": of("HTTP", i), "Url": "https://hooks.contoso.com/" + fmt.Sprint(i), "AccessToken": s.secret("notification")}
		}
		if i == 3 {
			slot["ConnectionId"] = s.missing(schemas.Notification, notifications[i], schemas.Connection)
		}
		s.add(schemas.Notification, doc{"Id": notifications[i], "Task": taskDoc(notifications[i], "", name, 1, kind, slot)})
	}

	jobs := seedIDs("job", SeedJobs)
	conditions := seedIDs("condition", 6)
	ref := func(t schemas.Type, id string) Ref { return Ref{t, schemas.ID(id)} }
	// A condition that names a job stands in a circle with it: the job has the
	// condition. The jobs are added below.
	s.cycles = append(s.cycles, []Ref{ref(schemas.Condition, conditions[0]), ref(schemas.Job, jobs[30])},
		[]Ref{ref(schemas.Condition, conditions[1]), ref(schemas.Job, jobs[31])})
	for i := range conditions {
		row := doc{"Id": seedGUID("condition row", i), "ConditionType": []string{"File", "Variable", "Process"}[i%3],
			"Description": "orders.csv, \"today\"", "Active": true, "Credential": credentials[i], "Value": "{USERVAR(" + variables[i] + ")}"}
		body := doc{"Id": conditions[i], "Description": fmt.Sprintf("Contoso-Datei %d vorhanden", 1+i/2), "Conditions": []doc{row},
			"OnMatchAll": doc{"Action": "Continue"}, "OnMatchAny": nil, "OnMatchNone": doc{"Action": "Exit", "WaitTime": 1.5}, "OnMatchError": doc{"Action": "Retry"}}
		switch i {
		case 0:
			body["OnMatchNone"] = doc{"Action": "Run Job", "Job": jobs[30]}
		case 1:
			row["ConditionType"], row["Job"] = "VisualCron", jobs[31]
		case 5:
			row["Credential"] = s.missing(schemas.Condition, conditions[i], schemas.Credential)
		}
		s.add(schemas.Condition, body)
	}

	// Which job starts which, where that makes a circle.
	next := map[int]int{10: 11, 11: 10, 20: 21, 21: 22, 22: 20, 40: 40}
	s.cycles = append(s.cycles, []Ref{ref(schemas.Job, jobs[10]), ref(schemas.Job, jobs[11])},
		[]Ref{ref(schemas.Job, jobs[20]), ref(schemas.Job, jobs[21]), ref(schemas.Job, jobs[22])}, []Ref{ref(schemas.Job, jobs[40])})
	jobGroups := []string{"Default group", "Finance", "Sales", "Warehouse", "HR", "Löner", "Производство", "Fakturierung", "IT operations", "Reporting",
		"Partners & banks", "Überwachung"}
	verbs := []string{"Export", "Import", "Check", "Rotate", "Mail", "Zip", "Überprüfe", "Flytta", "Load", "Reconcile"}
	things := []string{"orders", "invoices", "Löhne", "stock levels", "kontoutdrag", "price lists", "customer data", "web logs", "請求書", "budget"}
	kinds := []string{"Execute", "SQL", "PowerShell", "HTTP", "Email", "FTP", "JobTaskControl", "FileWrite"}
	var lastTask []string // of each job so far
	for i, id := range jobs {
		name := fmt.Sprintf("%s %s %03d", pick(r, verbs), pick(r, things), i+1)
		switch i {
		case 50, 51, 52:
			name = "Contoso nightly" // three of one name
		case 53:
			name = "Tab\tund \"Zitat\", Komma; Umbruch\r\nzweite Zeile"
		}
		date := fmt.Sprintf("2025-%02d-%02dT%02d:%02d:%02d.%07d+01:00", 1+i%12, 1+i%28, i%24, r.IntN(60), r.IntN(60), 1+r.IntN(9999998))
		if i%20 == 13 {
			date = at(oddDates, i/20)
		}
		var tasks []doc
		taskIDs := seedIDs(fmt.Sprintf("job %d task", i), 1+i%6)
		for k, task := range taskIDs {
			kind := pick(r, kinds)
			if _, circle := next[i]; k == 0 && (circle || i == 60 || i == 61) {
				kind = "JobTaskControl"
			} else if kind == "JobTaskControl" && i == 0 {
				kind = "Execute" // there is no job before the first
			}
			if i%67 == 66 && k == 0 {
				kind = "PowerShell"
			}
			var slot doc
			switch kind {
			case "Execute":
				slot = doc{"CmdLine": fmt.Sprintf(`C:\Contoso\job%03d\step%d.cmd`, i+1, k+1), "Arguments": `/q "{USERVAR(` + pick(r, variables) + `)}"`,
					"NetworkCredential": pick(r, credentials)}
			case "SQL":
				slot = doc{"ConnectionId": of("SQL", r.IntN(9)), "Credential": pick(r, credentials), "Command": nil, "EncryptedCommand": s.secret("sql")}
			case "PowerShell":
				slot = doc{"Script": "# " + name + "\r\nGet-ChildItem -Path \"{USERVAR(Contoso.Root)}\" |\r\n  Where-Object { $_.Length -gt 0 }\r\n"}
				if i%67 == 66 {
					slot["Script"] = script(name)
				}
			case "HTTP":
				slot = doc{"ConnectionId": of("HTTP", r.IntN(9)), "HostName": "api.contoso.com", "Path": fmt.Sprintf("/v1/%d", i+1), "Method": "POST",
					"Certificate": pick(r, certificates), "Auth": doc{"UserName": "api", "Password": s.secret("http")}}
			case "Email":
				slot = doc{"ConnectionId": of("SMTP", r.IntN(9)), "To": "ops@contoso.com", "Subject": name, "Body": "Done, see \"log\"; naïve, café"}
			case "FTP":
				slot = doc{"ConnectionId": of("SFTP", r.IntN(9)), "SSHKey": pick(r, sshKeys), "PGPKeyRing": pick(r, rings),
					"FTPCommands": []doc{{"Id": seedGUID(task, 0), "CommandType": "Upload", "Local": `Y:\out`, "Remote": "/in", "FilePassword": s.secret("ftp")}}}
			case "JobTaskControl":
				target, circle := next[i]
				if !circle || k > 0 {
					target = r.IntN(max(i, 1))
				}
				slot = doc{"JobId": jobs[target], "Action": "Run"}
				if i == 60 || i == 61 {
					slot["JobId"] = s.missing(schemas.Job, id, schemas.Job)
				}
			case "FileWrite":
				slot = doc{"FilePath": fmt.Sprintf(`Y:\log\%03d.txt`, i+1), "Text": "Wrote"}
				switch {
				case k > 0 && i > 0:
					slot["Text"] = "Before: {TASK(" + taskIDs[k-1] + ",Name)}; job: {JOB(" + pick(r, jobs[:i]) + "|Variable|Region)}"
				case i > 0:
					slot["Text"] = "Before: {TASK(" + pick(r, lastTask) + "|Output)}; job: {JOB(" + pick(r, jobs[:i]) + ",Name)}"
				}
			}
			td := taskDoc(task, id, fmt.Sprintf("%s %d", kind, k+1), k+1, kind, slot)
			switch r.IntN(6) {
			case 0:
				td["Flow"] = []doc{{"Type": "OnError", "Action": "Notification", "NotificationId": pick(r, notifications)}}
			case 1:
				td["ExitCodeCollection"] = pick(r, exitCodes)
			case 2:
				td["Conditions"] = pick(r, conditions[2:5])
			}
			tasks = append(tasks, td)
		}
		lastTask = append(lastTask, taskIDs[len(taskIDs)-1])
		var triggers []doc
		for k := range 1 + r.IntN(2) {
			t := triggerDoc(seedGUID(fmt.Sprintf("job %d trigger", i), k), id, fmt.Sprintf("Daily at %d:%02d:00 AM", 1+r.IntN(11), r.IntN(60)))
			switch {
			case i%9 == 5:
				t["TriggerType"] = 0 // TimeType as a number
			case i%9 == 7:
				t["TriggerType"], t["Description"] = "EventType", "File arrives"
				t["EventType"] = doc{"Folder": `Y:\in`, "Credential": pick(r, credentials), "Password": s.secret("trigger")}
			}
			t["ExpiryDate"] = at(oddDates, i+k)
			triggers = append(triggers, t)
		}
		body := jobDoc(id, name, fmt.Sprintf("%s of Contoso, step by step", name), at(jobGroups, i), r.IntN(10) > 0, date, triggers, tasks)
		body["CreatedBy"], body["ModifiedBy"] = pick(r, users), pick(r, users)
		if r.IntN(3) == 0 {
			body["TimeExceptions"] = []string{pick(r, exceptions)}
		}
		if r.IntN(5) == 0 {
			body["Conditions"] = pick(r, conditions[2:])
		}
		if r.IntN(2) == 0 {
			body["Variables"] = []doc{{"Key": "Region", "ValueObject": s.secret("jobvariable")}, {"Key": "Größe, netto", "ValueObject": s.secret("jobvariable")}}
		}
		if i%25 == 7 {
			body["GroupOverride"] = []doc{{"Group": at(groups, i), "Read": true, "Edit": false, "Execute": true}}
		}
		switch i {
		case 30:
			body["Conditions"] = conditions[0]
		case 31:
			body["Conditions"] = conditions[1]
		case 70:
			body["RunOnce"] = true
		case 71:
			body["RemoveAfterExecution"] = true
		case 72:
			body["TimeExceptions"] = []string{exceptions[0], s.missing(schemas.Job, id, schemas.TimeException)}
		case 73:
			body["Conditions"] = s.missing(schemas.Job, id, schemas.Condition)
		}
		if i == 70 || i == 71 {
			body["Stats"].(doc)["Active"] = true
		}
		s.add(schemas.Job, body)
	}

	servers := seedIDs("mft", 3)
	for i, name := range []string{"Contoso SFTP", "Contoso FTPS", "Überseehafen"} {
		var people []doc
		for k := range 3 {
			people = append(people, doc{"Id": seedGUID(fmt.Sprintf("mft %d user", i), k), "UserName": fmt.Sprintf("partner%d", k+1), "PassWord": s.secret("mft"),
				"User": at(users, i+k), "Folders": []doc{{"Path": fmt.Sprintf(`D:\mft\%d\år`, k), "Virtual": "/in", "Read": true, "Write": k == 0, "Delete": false}}})
		}
		body := doc{"Id": servers[i], "Name": name, "Type": []string{"SFTP", "FTPS", "SFTP"}[i], "Port": 22 + i, "Active": i < 2, "Status": "Started", "Connections": i,
			"Certificate": certificates[1], "SSHKey": at(sshKeys, i), "Credential": credentials[i], "PrivateKey": s.key("mft"),
			"Endpoints": []doc{{"Address": "0.0.0.0", "Port": 22 + i}}, "Users": people}
		if i == 2 {
			people[2]["User"] = s.missing(schemas.MFTServer, servers[i], schemas.User)
		}
		s.add(schemas.MFTServer, body)
	}
}
