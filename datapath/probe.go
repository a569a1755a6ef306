package datapath

// probes are the probe labels in force and the device probes are sent from.
type probes struct{}

func newProbes() probes { return probes{} }

func (p probes) close() {}
