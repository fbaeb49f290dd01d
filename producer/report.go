package producer

// Report is what a producer process says of itself.
type Report struct {
	Sources []Status
}

// Report returns what is known of every source, for a broker.Reporter.
func (m *Manager) Report() Report { return Report{m.Status()} }
