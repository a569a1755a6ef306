package main

import "context"

// group is measures that are taken together and have a table of their own in the document. -only takes it by its name, or its members,
// whose names begin with it and a hyphen.
type group struct {
	name    string
	members []string
	asked   []asked
	take    func(context.Context, options, func(progress string)) (groupReport, error)
}

// groupNames are the names of all groups.
var groupNames = []string{policyName, portsName, servicesName}

// groups in the order they are taken.
func groups() []group { return []group{policyGroup, portsGroup, servicesGroup} }

// measureNames are the names of measures.
func measureNames(measures []measure) []string {
	names := make([]string, len(measures))
	for i, m := range measures {
		names[i] = m.Name
	}
	return names
}
