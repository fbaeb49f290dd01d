package schemas

import (
	"fmt"
	"slices"
	"strings"
)

// Type is the type of a synced object, in VisualCron's own singular words. The
// first fourteen are the tabs of the native Sync Server Objects window; SSHKey,
// ExitCode and ServerSettings have none there.
type Type string

// The 17 types.
const (
	User           Type = "User"
	UserGroup      Type = "UserGroup"
	Job            Type = "Job"
	Connection     Type = "Connection"
	Credential     Type = "Credential"
	Notification   Type = "Notification"
	Certificate    Type = "Certificate"
	Condition      Type = "Condition"
	PGPKeyRing     Type = "PGPKeyRing"
	TimeException  Type = "TimeException"
	TaskRepository Type = "TaskRepository"
	Variable       Type = "Variable"
	NetworkDrive   Type = "NetworkDrive"
	MFTServer      Type = "MFTServer"
	SSHKey         Type = "SSHKey"
	ExitCode       Type = "ExitCode"
	// ServerSettings is one object per server, id "server"; off unless asked for.
	ServerSettings Type = "ServerSettings"
)

// Types returns all types in the order of the native window's tabs, then those
// that have no tab. The slice is the caller's own.
func Types() []Type {
	return []Type{User, UserGroup, Job, Connection, Credential, Notification, Certificate, Condition,
		PGPKeyRing, TimeException, TaskRepository, Variable, NetworkDrive, MFTServer, SSHKey, ExitCode, ServerSettings}
}

// ApplyOrder returns all types in the order in which a pass creates and updates
// them, so that what is referred to stands before what refers to it. A pass
// deletes in reverse. References between VisualCron objects are soft, so cycles
// need no order.
func ApplyOrder() []Type {
	return []Type{ServerSettings, UserGroup, User, Certificate, SSHKey, PGPKeyRing, Credential, Connection, NetworkDrive,
		Variable, TimeException, ExitCode, TaskRepository, Notification, Condition, Job, MFTServer}
}

// String returns the type's word, as it stands in subjects.
func (t Type) String() string { return string(t) }

// ParseType is the inverse of Type.String. It accepts the exact word only, no
// plural and no other case, and returns an error that wraps ErrType otherwise.
func ParseType(s string) (Type, error) {
	if slices.Contains(Types(), Type(s)) {
		return Type(s), nil
	}
	hint := ""
	for _, t := range Types() {
		if strings.EqualFold(string(t), s) || strings.EqualFold(string(t)+"s", s) {
			hint = fmt.Sprintf("; did you mean %s?", t)
		}
	}
	return "", fmt.Errorf("%w %.64q%s", ErrType, s, hint)
}

// UnmarshalText parses with ParseType.
func (t *Type) UnmarshalText(b []byte) error {
	v, err := ParseType(string(b))
	if err == nil {
		*t = v
	}
	return err
}

// MarshalText returns the type's word.
func (t Type) MarshalText() ([]byte, error) { return []byte(t), nil }
