package consumer

// Reconnect ends the connection on which the first settings are read, which is opened
// anew at once.
func (m *Manager) Reconnect() error {
	js, back, err := m.pool.Take()
	if err != nil {
		return err
	}
	defer back()
	return js.Conn().ForceReconnect()
}
