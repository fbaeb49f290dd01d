package standin

import (
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

const (
	identityFile = "server.json"
	objectSuffix = ".json"
	tempSuffix   = ".tmp"
	// maxFileName keeps a name below the 255 bytes that file systems take.
	maxFileName = 200
)

// store keeps one file per object: dir/objects/<type>/<token>.json. A file comes
// into being under a temporary name and is renamed when it is whole.
type store struct {
	dir  string
	sync bool
}

type identity struct {
	ID string `json:"id"`
	// Note tells a person who looks into the folder what it is.
	Note string `json:"note"`
}

func storeError(doing, path string, err error) error {
	// An fs.PathError names the path again; the cause alone is enough.
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err
	}
	return fmt.Errorf("%w: %s %s: %w", ErrStore, doing, path, err)
}

// open makes the folders and returns the id kept there, or "".
func (st *store) open() (id string, err error) {
	for _, t := range schemas.Types() {
		if err := os.MkdirAll(st.typeDir(t), 0o700); err != nil {
			return "", storeError("make", st.typeDir(t), err)
		}
	}
	path := filepath.Join(st.dir, identityFile)
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", storeError("read", path, err)
	}
	var v identity
	if err := json.Unmarshal(b, &v); err != nil || v.ID == "" {
		return "", fmt.Errorf("%w: %s holds no server id; restore it, or remove the folder to start anew", ErrStore, path)
	}
	return v.ID, nil
}

func (st *store) saveID(id string) error {
	b, err := json.Marshal(identity{ID: id, Note: "data of a vcsync stand-in, not of VisualCron"}, jsontext.WithIndent("  "))
	if err != nil {
		return err
	}
	return st.write(st.dir, identityFile, append(b, '\n'))
}

// load yields every object on disk.
func (st *store) load(yield func(schemas.Type, schemas.ID, []byte)) error {
	for _, t := range schemas.Types() {
		dir := st.typeDir(t)
		entries, err := os.ReadDir(dir)
		if err != nil {
			return storeError("read", dir, err)
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if strings.HasSuffix(e.Name(), tempSuffix) {
				if err := os.Remove(path); err != nil {
					return storeError("remove the leftover", path, err)
				}
				continue
			}
			body, err := os.ReadFile(path)
			if err != nil {
				return storeError("read", path, err)
			}
			if !jsontext.Value(body).IsValid() || jsontext.Value(body).Kind() != '{' {
				return fmt.Errorf("%w: %s is not one JSON object; restore or remove it", ErrStore, path)
			}
			id, err := visualcron.BodyID(t, body)
			if err != nil {
				return fmt.Errorf("%w: %s holds no %s: %w; restore or remove it", ErrStore, path, t, err)
			}
			if want := fileName(id); e.Name() != want {
				return fmt.Errorf("%w: %s holds the object whose file is %s; restore or remove it", ErrStore, path, want)
			}
			yield(t, id, body)
		}
	}
	return nil
}

// save returns when the object survives a kill, and with sync a power cut.
func (st *store) save(t schemas.Type, id schemas.ID, body []byte) error {
	return st.write(st.typeDir(t), fileName(id), body)
}

// remove returns when the object stays removed.
func (st *store) remove(t schemas.Type, id schemas.ID) error {
	path := filepath.Join(st.typeDir(t), fileName(id))
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return storeError("remove", path, err)
	}
	return st.syncDir(st.typeDir(t))
}

func (st *store) typeDir(t schemas.Type) string {
	return filepath.Join(st.dir, "objects", string(t))
}

// write replaces a file as a whole. One name is written by one caller at a time.
func (st *store) write(dir, name string, b []byte) error {
	path := filepath.Join(dir, name)
	temp := path + tempSuffix
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return storeError("write", temp, err)
	}
	_, err = f.Write(b)
	if err == nil && st.sync {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return storeError("write", path, errors.Join(err, os.Remove(temp)))
	}
	return st.syncDir(dir)
}

// syncDir makes a rename or a removal in dir last.
func (st *store) syncDir(dir string) error {
	if !st.sync {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return storeError("sync", dir, err)
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	// Windows cannot sync a folder and needs no such call.
	if err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, fs.ErrPermission) {
		return storeError("sync", dir, err)
	}
	return nil
}

// fileName is the object's token; one too long for a file system becomes a hash,
// in the form that tokens of long ids have.
func fileName(id schemas.ID) string {
	tok := string(id.Token())
	if len(tok) > maxFileName {
		sum := sha256.Sum256([]byte(id))
		tok = "=H" + base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:])
	}
	return tok + objectSuffix
}

// has tells whether a file of that name lies in the folder itself.
func (st *store) has(name string) bool {
	_, err := os.Stat(filepath.Join(st.dir, name))
	return err == nil
}

// drop takes a file out of the folder itself, for good.
func (st *store) drop(name string) error {
	path := filepath.Join(st.dir, name)
	if err := os.Remove(path); err != nil {
		return storeError("remove", path, err)
	}
	return nil
}
