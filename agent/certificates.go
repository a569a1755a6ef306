package agent

import (
	"context"
	"time"
)

// watchCertificates says in time that a certificate of this host runs out. They are read when the agent starts.
func (a *Agent) watchCertificates(ctx context.Context) error {
	return every(ctx, time.Hour, func() {
		a.trouble("certificate", a.identity.Waning(time.Now()))
		a.trouble("certificate for etcd", a.etcdUser.Waning(time.Now()))
	})
}
