package broker

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/vcsync/vcsync/schemas"
)

const (
	// The files of Init beside those of a role.
	caKeyFile      = "ca.key"
	rolesFile      = "roles.json"
	brokerFolder   = "broker"
	serverCertFile = "server.pem"
	serverKeyFile  = "server.key"
	usersFile      = "users.conf"

	caLife     = 10 * 365 * 24 * time.Hour
	serverLife = 5 * 365 * 24 * time.Hour
	// serverRenew is the rest of its life in which Init makes a new server
	// certificate.
	serverRenew = 365 * 24 * time.Hour
)

// InitOptions say what Init makes beside what is always there.
type InitOptions struct {
	// Hosts are the names and addresses under which the brokers are reached.
	// localhost, 127.0.0.1 and ::1 are always among them.
	Hosts []string
	// Producers are keys of producers that may capture only these sources, by name.
	// Without any, now or before, there is one producer key for all sources.
	Producers map[string][]schemas.Slug
}

// InitStep is one thing that Init made, changed or found.
type InitStep struct {
	Path string
	// What is "made", "changed" or "kept".
	What string
	Note string
}

// rolesRecord is what Init has to know at its next run.
type rolesRecord struct {
	Version   int                       `json:"version"`
	Producers map[string][]schemas.Slug `json:"producers,omitzero"`
}

var producerName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

type initRun struct {
	dir   string
	steps []InitStep
}

// Init writes to dir all keys of an installation whose roles run apart: a certificate
// authority and a server certificate, one nkey per role with least rights, and the
// keyring. Each role gets a folder that holds what it needs and no more. It keeps
// what is there and makes what is missing, so it may run again to add a host or a
// producer; users.conf is written anew whenever the rights change. Files have mode
// 0600, folders 0700.
func Init(dir string, o InitOptions) ([]InitStep, error) {
	r := &initRun{dir: dir}
	if err := r.run(o); err != nil {
		return r.steps, fmt.Errorf("write the keys to %s: %w", dir, err)
	}
	return r.steps, nil
}

func (r *initRun) run(o InitOptions) error {
	for name, sources := range o.Producers {
		if !producerName.MatchString(name) {
			return fmt.Errorf("producer %.64q: want letters, digits, - and _", name)
		}
		if len(sources) == 0 {
			return fmt.Errorf("producer %s: name the sources that it may capture", name)
		}
	}
	for _, h := range o.Hosts {
		if h == "" || strings.ContainsAny(h, " /:@") && net.ParseIP(h) == nil {
			return fmt.Errorf("host %.100q: want a host name or an IP address, without a port", h)
		}
	}
	for _, f := range []string{"", brokerFolder, string(Control), string(Consumer)} {
		if err := os.MkdirAll(filepath.Join(r.dir, f), 0o700); err != nil {
			return err
		}
	}
	ca, key, err := r.authority()
	if err != nil {
		return err
	}
	if err := r.serverCertificate(ca, key, o.Hosts); err != nil {
		return err
	}
	roles, err := r.roles(o.Producers)
	if err != nil {
		return err
	}
	keyring, err := r.keyring(roles)
	if err != nil {
		return err
	}
	var users []user
	for _, x := range roles {
		if err := os.MkdirAll(filepath.Join(r.dir, x.folder), 0o700); err != nil {
			return err
		}
		public, err := r.nkey(filepath.Join(x.folder, SeedFile))
		if err == nil {
			err = r.put(filepath.Join(x.folder, CAFile), pemOf("CERTIFICATE", ca.Raw))
		}
		if err == nil {
			err = r.put(filepath.Join(x.folder, keyringFile), keyring)
		}
		if err != nil {
			return err
		}
		users = append(users, user{x.folder, public, x.role, RightsOf(x.role, public, x.sources)})
	}
	return r.put(filepath.Join(brokerFolder, usersFile), usersConf(users))
}

// authority opens the certificate authority, and makes one where there is none. The
// key is nil where it was taken away, which is a good thing to do.
func (r *initRun) authority() (*x509.Certificate, crypto.Signer, error) {
	certPath := filepath.Join(brokerFolder, CAFile)
	raw, err := os.ReadFile(filepath.Join(r.dir, certPath))
	if err == nil {
		cert, err := parseCertificate(raw)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", certPath, err)
		}
		key, err := readKey(filepath.Join(r.dir, caKeyFile))
		if errors.Is(err, fs.ErrNotExist) {
			return cert, nil, nil
		}
		r.step(certPath, "kept", "certificate authority, until "+cert.NotAfter.Format(time.DateOnly))
		return cert, key, err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	if _, err := os.Stat(filepath.Join(r.dir, caKeyFile)); err == nil {
		return nil, nil, fmt.Errorf("%s is there and %s is not: bring it back, or remove the whole folder to begin anew", caKeyFile, certPath)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	t, err := certificate("vcsync certificate authority", caLife)
	if err != nil {
		return nil, nil, err
	}
	t.IsCA, t.MaxPathLenZero, t.BasicConstraintsValid = true, true, true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err == nil {
		err = r.putKey(caKeyFile, key)
	}
	if err == nil {
		err = r.put(certPath, pemOf("CERTIFICATE", der))
	}
	return cert, key, err
}

// serverCertificate makes one where there is none, it lacks a host, or it ends soon.
func (r *initRun) serverCertificate(ca *x509.Certificate, caKey crypto.Signer, hosts []string) error {
	path := filepath.Join(brokerFolder, serverCertFile)
	names := append([]string{"localhost", "127.0.0.1", "::1"}, hosts...)
	raw, err := os.ReadFile(filepath.Join(r.dir, path))
	_, kerr := os.Stat(filepath.Join(r.dir, brokerFolder, serverKeyFile))
	switch {
	case err == nil:
		old, err := parseCertificate(raw)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		have := namesOf(old)
		lacks := slices.ContainsFunc(names, func(n string) bool { return !slices.Contains(have, n) })
		if kerr == nil && !lacks && time.Until(old.NotAfter) > serverRenew {
			r.step(path, "kept", "for "+strings.Join(have, ", ")+", until "+old.NotAfter.Format(time.DateOnly))
			return nil
		}
		names = append(have, names...)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if caKey == nil {
		return fmt.Errorf("%s has to be made, and the key of the certificate authority, %s, is not there: bring it back for this run", path, caKeyFile)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	t, err := certificate("vcsync broker", min(serverLife, time.Until(ca.NotAfter)))
	if err != nil {
		return err
	}
	t.KeyUsage = x509.KeyUsageDigitalSignature
	// Brokers of a cluster are each other's clients.
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	slices.Sort(names)
	for _, n := range slices.Compact(names) {
		if ip := net.ParseIP(n); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, ca, key.Public(), caKey)
	if err != nil {
		return err
	}
	// The old certificate goes before its key does: a run that breaks off in between
	// leaves no pair that does not fit.
	if err := os.Remove(filepath.Join(r.dir, path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := r.putKey(filepath.Join(brokerFolder, serverKeyFile), key); err != nil {
		return err
	}
	return r.put(path, pemOf("CERTIFICATE", der))
}

// roleFolder is a key of a role and where it lies.
type roleFolder struct {
	folder  string
	role    Role
	sources []schemas.Slug
}

// roles returns all keys that there are to be, those of earlier runs too.
func (r *initRun) roles(producers map[string][]schemas.Slug) ([]roleFolder, error) {
	rec := rolesRecord{Version: 1}
	raw, err := os.ReadFile(filepath.Join(r.dir, rolesFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	default:
		if err := json.Unmarshal(raw, &rec); err != nil || rec.Version != 1 {
			return nil, fmt.Errorf("%w: %s", ErrRecord, rolesFile)
		}
	}
	if rec.Producers == nil {
		rec.Producers = map[string][]schemas.Slug{}
	}
	maps.Copy(rec.Producers, producers)
	if raw, err = json.MarshalIndent(rec, "", "  "); err == nil {
		err = r.put(rolesFile, raw)
	}
	if err != nil {
		return nil, err
	}
	out := []roleFolder{{string(Control), Control, nil}, {string(Consumer), Consumer, nil}}
	_, err = os.Stat(filepath.Join(r.dir, string(Producer)))
	if all := err == nil; all || len(rec.Producers) == 0 {
		out = append(out, roleFolder{string(Producer), Producer, nil})
		if all && len(rec.Producers) > 0 {
			r.step(string(Producer), "kept", "it may capture every source; to take that away, remove this folder and run init again")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(rec.Producers)) {
		out = append(out, roleFolder{string(Producer) + "-" + name, Producer, rec.Producers[name]})
	}
	return out, nil
}

// keyring returns the installation's keyring: the one that a role has, or a fresh
// one. Two different ones are an error.
func (r *initRun) keyring(roles []roleFolder) ([]byte, error) {
	var have []byte
	var from string
	for _, x := range roles {
		path := filepath.Join(x.folder, keyringFile)
		raw, err := os.ReadFile(filepath.Join(r.dir, path))
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, err
		case have == nil:
			if _, err := parseKeyring(filepath.Join(r.dir, path), raw); err != nil {
				return nil, err
			}
			have, from = raw, path
		case !bytes.Equal(have, raw):
			return nil, fmt.Errorf("%w: %s and %s differ: all roles need the one with which the stored passwords were sealed; copy it over the other", ErrKeyring, from, path)
		}
	}
	if have != nil {
		return have, nil
	}
	return freshKeyring()
}

// nkey returns the public part of a key, which it makes where there is none.
func (r *initRun) nkey(path string) (string, error) {
	raw, err := os.ReadFile(filepath.Join(r.dir, path))
	var kp nkeys.KeyPair
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if kp, err = nkeys.CreateUser(); err != nil {
			return "", err
		}
		seed, err := kp.Seed()
		if err == nil {
			err = r.put(path, append(seed, '\n'))
		}
		if err != nil {
			return "", err
		}
	case err != nil:
		return "", err
	default:
		if kp, err = nkeys.ParseDecoratedUserNKey(raw); err != nil {
			return "", fmt.Errorf("%s is damaged: %w", path, err)
		}
		r.step(path, "kept", "")
	}
	defer kp.Wipe()
	return kp.PublicKey()
}

// put writes a file where its content differs.
func (r *initRun) put(path string, data []byte) error {
	full := filepath.Join(r.dir, path)
	old, err := os.ReadFile(full)
	what := "changed"
	switch {
	case errors.Is(err, fs.ErrNotExist):
		what = "made"
	case err != nil:
		return err
	case bytes.Equal(old, data):
		if !slices.Contains([]string{CAFile, keyringFile, rolesFile}, filepath.Base(path)) {
			r.step(path, "kept", "")
		}
		return nil
	case slices.Contains([]string{CAFile, keyringFile}, filepath.Base(path)):
		return fmt.Errorf("%s belongs to another installation: remove the folder %s if no process needs it", path, filepath.Dir(path))
	}
	if err := writeFile(full, data); err != nil {
		return err
	}
	r.step(path, what, "")
	return nil
}

func (r *initRun) putKey(path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(r.dir, path), pemOf("PRIVATE KEY", der)); err != nil {
		return err
	}
	r.step(path, "made", "")
	return nil
}

func (r *initRun) step(path, what, note string) {
	r.steps = append(r.steps, InitStep{filepath.Join(r.dir, path), what, note})
}

func certificate(name string, life time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	now := time.Now().UTC()
	return &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(life)}, nil // an hour, for clocks that are behind
}

func parseCertificate(raw []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(raw)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("it holds no certificate")
	}
	return x509.ParseCertificate(block.Bytes)
}

func readKey(path string) (crypto.Signer, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, fmt.Errorf("%s holds no key", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	s, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s holds no key that signs", path)
	}
	return s, nil
}

func namesOf(c *x509.Certificate) []string {
	out := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		out = append(out, ip.String())
	}
	return out
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
