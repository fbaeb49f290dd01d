package main

import (
	"cmp"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"

	"github.com/vcsync/vcsync/broker"
)

// brokerConfig returns how a process of that role opens the store. The keys of an
// external broker are taken where the folder of keys has them.
func brokerConfig(cfg config, role broker.Role, acceptLoss bool, log *slog.Logger) broker.Config {
	keys := cmp.Or(cfg.Keys, cfg.Data)
	out := broker.Config{Dir: cfg.Data, Keys: keys, Role: role, Name: instance(cfg), Listen: cfg.NATSListen, URL: cfg.NATSURL, Creds: cfg.NATSCreds,
		Replicas: cfg.Replicas, EventsMaxBytes: int64(cfg.EventsMaxBytes), AcceptLoss: acceptLoss, Log: log}
	if cfg.NATSURL != "" {
		out.CA = present(filepath.Join(keys, broker.CAFile))
		if cfg.NATSCreds == "" {
			out.Seed = present(filepath.Join(keys, broker.SeedFile))
		}
	}
	return out
}

// present returns the path of a file, "" where it is not there.
func present(path string) string {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	return path
}

// instance is the name of this process.
func instance(cfg config) string {
	if cfg.Instance != "" {
		return cfg.Instance
	}
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "process"
	}
	name := []byte(host)
	for i, b := range name {
		if !instanceName.Match([]byte{b}) {
			name[i] = '-'
		}
	}
	pid := "-" + strconv.Itoa(os.Getpid())
	return string(name[:min(len(name), 64-len(pid))]) + pid
}
