package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// What ships vcsync names its commands and variables. A name that does not exist
// would keep a process from starting, on a machine that no other test sees.
func TestDeployedNamesExist(t *testing.T) {
	root, _ := newRoot(nil, nil, nil)
	var known []string
	for _, o := range options() {
		known = append(known, o.name)
	}
	files := []string{"../../docker-compose.yml", "../../deploy/docker/Dockerfile", "../../deploy/README.md"}
	for _, pattern := range []string{"*.service", "*.env"} {
		found, err := filepath.Glob("../../deploy/systemd/" + pattern)
		if err != nil || found == nil {
			t.Fatalf("%s: %v, %v", pattern, found, err)
		}
		files = append(files, found...)
	}
	variable := regexp.MustCompile(`VCSYNC_[A-Z_]+`)
	command := regexp.MustCompile(`(?m)^ *command: \[([^\]]+)|^ExecStart=/usr/local/bin/vcsync (.+)|test: \[CMD, /vcsync, ([^\]]+)\]`)
	commands := 0
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range variable.FindAllString(string(b), -1) {
			if !slices.Contains(known, v) {
				t.Errorf("%s: %s is no variable of vcsync", file, v)
			}
		}
		for _, m := range command.FindAllStringSubmatch(string(b), -1) {
			commands++
			line := strings.NewReplacer(",", " ", `"`, "").Replace(m[1] + m[2] + m[3])
			cmd, rest, err := root.Find(strings.Fields(line))
			if err != nil || cmd == root {
				t.Errorf("%s: %q is no command of vcsync: %v", file, line, err)
				continue
			}
			if err := cmd.ParseFlags(rest); err != nil {
				t.Errorf("%s: %q: %v", file, line, err)
			}
		}
	}
	if commands < 15 {
		t.Errorf("only %d commands were found in the files", commands)
	}
}

// The services are hardened alike; only the broker may look at the addresses of the
// machine, which it needs to listen on all of them.
func TestServicesAreHardenedAlike(t *testing.T) {
	files, err := filepath.Glob("../../deploy/systemd/*.service")
	if err != nil || len(files) < 5 {
		t.Fatal(files, err)
	}
	var first string
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		_, hardening, ok := strings.Cut(string(b), "# Nothing but its own folder")
		if !ok {
			t.Fatalf("%s has no hardening", file)
		}
		if strings.HasSuffix(file, "vcsync-broker.service") {
			hardening = strings.Replace(hardening, "AF_INET AF_INET6 AF_NETLINK", "AF_INET AF_INET6", 1)
		}
		if first == "" {
			first = hardening
		}
		if hardening != first {
			t.Errorf("%s is hardened in another way than %s", file, files[0])
		}
		for _, want := range []string{"RestartPreventExitStatus=2\n", "StartLimitIntervalSec=0\n", "DynamicUser=yes\n"} {
			if !strings.Contains(string(b), want) {
				t.Errorf("%s lacks %s", file, want)
			}
		}
	}
}
