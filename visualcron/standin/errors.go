package standin

import "errors"

var (
	// ErrConfig says that a Config cannot be used.
	ErrConfig = errors.New("invalid stand-in configuration")
	// ErrStore says that the folder of a stand-in cannot be read or written.
	ErrStore = errors.New("stand-in folder")
	// ErrNotEmpty says that a stand-in to be seeded holds more than its built-ins.
	ErrNotEmpty = errors.New("the stand-in is not empty")
	// ErrBody says that a body cannot be stored: no JSON object, or another id than
	// the one it is stored under.
	ErrBody = errors.New("the stand-in cannot store this body")
	// ErrListen says that no listening socket could be opened.
	ErrListen = errors.New("cannot listen")
	// ErrMode says that there is no such misbehaviour.
	ErrMode = errors.New("unknown misbehaviour")
)
