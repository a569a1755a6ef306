package fabric

// Priority says what becomes of the priority of a guest's packets. It is one field: a port that has it takes nothing of its profile's.
type Priority struct {
	// Trusted lets the guest's 802.1p priority count; otherwise it is 0 from the port on.
	Trusted bool `json:"trusted,omitempty"`
	// DSCP copies an IP packet's DSCP to the outer header between hosts, in place of the priority.
	DSCP bool `json:"dscp,omitempty"`
}

// resolvePriority is that of the first layer that speaks about it.
func resolvePriority(layers []Settings) Priority {
	for _, layer := range layers {
		if layer.Priority != nil {
			return *layer.Priority
		}
	}
	return Priority{}
}
