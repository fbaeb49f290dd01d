package main

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kelseyhightower/envconfig"

	"github.com/vcsync/vcsync/control"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

const (
	envPrefix      = "VCSYNC_"
	defaultAPIAddr = "127.0.0.1:7780"
	// defaultNATSListen is where vcsync broker listens.
	defaultNATSListen = "127.0.0.1:4222"
)

var instanceName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// config is the environment of `vcsync up`, `vcsync demo` and the roles that run
// apart. The tags are the documentation too: docs/configuration.md is made from them.
type config struct {
	APIAddr        string        `envconfig:"API_ADDR" default:"127.0.0.1:7780" desc:"Address of the HTTP API and the status page; a loopback one, or with VCSYNC_API_CERT and an admin account any. The client commands use it too."`
	APICert        string        `envconfig:"API_CERT" desc:"File with the certificate chain of the API in PEM; with it the API speaks TLS. A new file in its place is taken within ten seconds."`
	APIKey         string        `envconfig:"API_KEY" desc:"File with the key of VCSYNC_API_CERT in PEM, which not everybody may read."`
	Data           string        `envconfig:"DATA" default:"./data" desc:"Folder that this process writes to: the high-water file; and, where it runs the broker, its store. One process at a time."`
	Keys           string        `envconfig:"KEYS" desc:"Folder of the keys, which may be read-only and shared: keyring.json; and for VCSYNC_NATS_URL what vcsync broker init wrote for the role (role.nk, ca.pem). Empty: VCSYNC_DATA."`
	Instance       string        `envconfig:"INSTANCE" desc:"Name of this process in status and leases: letters, digits, - and _, at most 64. Two processes never share one. Empty: host name and process id."`
	NATSListen     string        `envconfig:"NATS_LISTEN" desc:"Address on which the broker listens. For vcsync broker any address, 127.0.0.1:4222 where empty. For vcsync up a loopback one, for clients that sign with the nkey in the data folder; none where empty."`
	NATSURL        string        `envconfig:"NATS_URL" desc:"An external NATS server, or several of one cluster with commas between them, in place of the embedded broker, such as tls://host:4222."`
	NATSCreds      string        `envconfig:"NATS_CREDS" desc:"File with the credentials for VCSYNC_NATS_URL, where that is not a broker of vcsync broker init."`
	Replicas       int           `envconfig:"REPLICAS" default:"0" desc:"Copies of each stream on an external broker, used when the stream is created: 1, 3 or 5; 0 means 3 on a cluster, else 1."`
	Sources        string        `envconfig:"SOURCES" desc:"Servers that this producer may capture, with commas between them. Empty: all."`
	OIDCFile       string        `envconfig:"OIDC_FILE" desc:"File that says how people sign in through an identity provider; only its owner may read it. See docs/sign-in.md."`
	ServersAllow   reach         `envconfig:"SERVERS_ALLOW" default:"*" desc:"Where servers may be, with commas between: hosts, *.domain, addresses and networks, each also with :port; * is everything but this machine, which has to be listed as localhost or by its address. Link-local addresses and metadata services of clouds are never connected to."`
	EventsMaxBytes byteSize      `envconfig:"EVENTS_MAX_BYTES" default:"8GiB" desc:"Size at which the event stream refuses new events; it forgets none. The object store of large bodies gets as much beside it, at least 1 GiB. Used when the stream is created. A number of bytes, or with KiB, MiB, GiB."`
	Poll           time.Duration `envconfig:"POLL" default:"30s" desc:"Time between two listings of a source; 100ms to 24h."`
	Lanes          int           `envconfig:"LANES" default:"8" desc:"Objects of one target that are written at the same time; 1 to 64."`
	LeaseTTL       time.Duration `envconfig:"LEASE_TTL" default:"15s" desc:"How long another instance waits before it takes over a target; 10s to 10m."`
	NotifyFile     string        `envconfig:"NOTIFY_FILE" desc:"File with the receivers of notifications, one URL to a line, that only its owner can read; see notifications.md. Read by vcsync up and vcsync control at their start. Empty: nobody is notified."`
	NotifyGrace    time.Duration `envconfig:"NOTIFY_GRACE" default:"1m" desc:"How long something lasts before it is notified, and is over before that is; 0s to 24h."`
	LogLevel       slog.Level    `envconfig:"LOG_LEVEL" default:"info" desc:"debug, info, warn or error."`
	LogFormat      string        `envconfig:"LOG_FORMAT" default:"auto" desc:"text, json, or auto: text on a terminal, else JSON."`
	Production     string        `envconfig:"STANDIN_PRODUCTION_ADDR" default:"127.0.0.1:7701" desc:"Address of the demo's stand-in for production; the stand-in commands use it too."`
	Test           string        `envconfig:"STANDIN_TEST_ADDR" default:"127.0.0.1:7702" desc:"Address of the demo's stand-in for test; the stand-in commands use it too."`
	Standby        string        `envconfig:"STANDIN_STANDBY_ADDR" default:"127.0.0.1:7703" desc:"Address of the demo's stand-in for standby; the stand-in commands use it too."`
	// What only client commands read; it stands here to be known and documented.
	StandinUser      string `envconfig:"STANDIN_USER" default:"admin" desc:"Account that the stand-in commands use."`
	StandinPassword  string `envconfig:"STANDIN_PASSWORD" default:"standin-demo" desc:"Password that the stand-in commands use."`
	BackupPassphrase string `envconfig:"BACKUP_PASSPHRASE" desc:"Passphrase for vcsync backup and restore, where it is not given otherwise."`
	Password         string `envconfig:"PASSWORD" desc:"Password for server add, login and account, where it is not given otherwise."`
	APICA            string `envconfig:"API_CA" desc:"File with the certificate authority, in PEM, that the client commands trust beside those of the system."`
	Token            string `envconfig:"TOKEN" desc:"Session or token with which the client commands sign in; for scripts. Else that of vcsync login."`
}

// apiURL is where the API is.
func (c config) apiURL() string {
	if c.APICert != "" {
		return "https://" + c.APIAddr
	}
	return "http://" + c.APIAddr
}

// reach is a list of where servers may be.
type reach string

// Decode is envconfig's.
func (r *reach) Decode(s string) error {
	_, err := visualcron.ParseReach(s)
	*r = reach(s)
	return err
}

// list returns what was decoded.
func (r reach) list() visualcron.Reach {
	out, _ := visualcron.ParseReach(string(r)) // Decode has looked
	return out
}

// byteSize is a number of bytes, as people write it.
type byteSize int64

var byteUnits = []struct {
	suffix string
	size   byteSize
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}}

// Decode is envconfig's.
func (b *byteSize) Decode(s string) error {
	digits, unit := s, byteSize(1)
	for _, u := range byteUnits {
		if rest, ok := strings.CutSuffix(s, u.suffix); ok {
			digits, unit = strings.TrimSpace(rest), u.size
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n <= 0 || n > int64(1<<62/unit) {
		return errors.New("want a number of bytes, such as 1073741824, 512MiB or 8GiB")
	}
	*b = byteSize(n) * unit
	return nil
}

// option is one variable.
type option struct {
	name, def, desc string
}

// options returns all variables in the order of config's fields.
func options() []option {
	var out []option
	for f := range reflect.TypeFor[config]().Fields() {
		out = append(out, option{envPrefix + f.Tag.Get("envconfig"), f.Tag.Get("default"), f.Tag.Get("desc")})
	}
	return out
}

// loadConfig reads the environment. It reports all faults at once, also variables
// that nothing reads: a mistyped name would otherwise be a setting that is not
// followed.
func loadConfig() (config, error) { return loadConfigOf(false) }

// loadConfigOf is loadConfig for vcsync broker, which may listen on any address
// because it has TLS, or for every other command.
func loadConfigOf(brokerRole bool) (config, error) {
	var c config
	errs := unknownVariables(os.Environ())
	v := reflect.ValueOf(&c).Elem()
	faulty := map[string]bool{}
	for i := range v.NumField() {
		f := v.Type().Field(i)
		// One field at a time, because envconfig stops at the first fault.
		one := reflect.New(reflect.StructOf([]reflect.StructField{f}))
		if err := envconfig.Process(strings.TrimSuffix(envPrefix, "_"), one.Interface()); err != nil {
			name := envPrefix + f.Tag.Get("envconfig")
			cause := err
			if p, ok := errors.AsType[*envconfig.ParseError](err); ok {
				cause = p.Err
			}
			faulty[name] = true
			errs = append(errs, fmt.Errorf("%s=%.80q: %w (%s)", name, os.Getenv(name), cause, strings.TrimSuffix(f.Tag.Get("desc"), ".")))
			continue
		}
		v.Field(i).Set(one.Elem().Field(0))
	}
	check := func(name string, ok bool, want string) {
		name = envPrefix + name
		if !ok && !faulty[name] {
			errs = append(errs, fmt.Errorf("%s=%.80q: want %s", name, os.Getenv(name), want))
		}
	}
	check("API_KEY", (c.APIKey == "") == (c.APICert == ""), "VCSYNC_API_CERT and VCSYNC_API_KEY, both or none")
	if err := control.CheckAddr(c.APIAddr, c.APICert != ""); err != nil {
		errs = append(errs, err)
	}
	check("DATA", c.Data != "", "a folder")
	check("POLL", c.Poll >= 100*time.Millisecond && c.Poll <= 24*time.Hour, "100ms to 24h, such as 30s")
	check("LANES", c.Lanes >= 1 && c.Lanes <= 64, "1 to 64")
	check("LEASE_TTL", c.LeaseTTL >= 10*time.Second && c.LeaseTTL <= 10*time.Minute, "10s to 10m, such as 15s")
	check("NOTIFY_GRACE", c.NotifyGrace >= 0 && c.NotifyGrace <= 24*time.Hour, "0s to 24h, such as 1m")
	check("LOG_FORMAT", slices.Contains([]string{"auto", "text", "json"}, c.LogFormat), "auto, text or json")
	check("NATS_CREDS", c.NATSCreds == "" || c.NATSURL != "", "VCSYNC_NATS_URL beside it")
	check("EVENTS_MAX_BYTES", c.EventsMaxBytes >= 64<<20, "64MiB or more; the largest event alone takes 4MiB")
	if brokerRole {
		_, port, err := net.SplitHostPort(cmp.Or(c.NATSListen, defaultNATSListen))
		check("NATS_LISTEN", err == nil && port != "", "an address and port, such as 0.0.0.0:4222")
	} else {
		check("NATS_LISTEN", c.NATSListen == "" || loopback(c.NATSListen), "a loopback address and port, such as 127.0.0.1:4222")
	}
	check("NATS_URL", c.NATSURL == "" || !slices.ContainsFunc(strings.Split(c.NATSURL, ","), func(u string) bool { return !strings.Contains(u, "://") }), "URLs such as tls://host:4222, with commas between them")
	check("REPLICAS", slices.Contains([]int{0, 1, 3, 5}, c.Replicas), "0, 1, 3 or 5")
	check("INSTANCE", c.Instance == "" || instanceName.MatchString(c.Instance), "at most 64 letters, digits, - and _")
	for s := range strings.SplitSeq(c.Sources, ",") {
		_, err := schemas.ParseSlug(strings.TrimSpace(s))
		check("SOURCES", c.Sources == "" || err == nil, "names of servers with commas between them")
	}
	for name, addr := range map[string]string{"PRODUCTION": c.Production, "TEST": c.Test, "STANDBY": c.Standby} {
		check("STANDIN_"+name+"_ADDR", loopback(addr), "a loopback address and port, such as 127.0.0.1:7701: a stand-in's password is known to all")
	}
	check("NATS_LISTEN", c.NATSListen == "" || c.NATSURL == "", "no VCSYNC_NATS_URL beside it: there is no embedded broker then")
	if err := errors.Join(errs...); err != nil {
		return config{}, failed(exitUsage, fmt.Errorf("the environment is not right (see docs/configuration.md):\n%w", err))
	}
	return c, nil
}

// unknownVariables names every variable with the prefix that nothing reads, with
// the nearest that something does.
func unknownVariables(environ []string) (errs []error) {
	opts := options()
	var names []string
	for _, o := range opts {
		names = append(names, o.name)
	}
	for _, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, envPrefix) || slices.Contains(names, name) {
			continue
		}
		near := slices.MinFunc(names, func(a, b string) int { return cmp.Compare(distance(name, a), distance(name, b)) })
		hint := ""
		if distance(name, near) <= len(name)/3 {
			hint = "; did you mean " + near + "?"
		}
		errs = append(errs, fmt.Errorf("%.80s is not a variable of vcsync%s", name, hint))
	}
	if errs != nil {
		errs = append(errs, fmt.Errorf("the variables are %s", strings.Join(names, ", ")))
	}
	return errs
}

// distance is how many letters have to be inserted, removed or changed to make b
// of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			diagonal, row[j] = row[j], min(row[j]+1, row[j-1]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}

// loopback tells whether an address is one that only this machine reaches.
func loopback(addr string) bool {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || port == "" {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
