package store_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/store"
	"github.com/weftnet/weft/fabric/store/storetest"
)

func TestAReaderSeesEverythingAndChangesNothing(t *testing.T) {
	t.Parallel()
	e := storetest.Start(t)
	writer, reader := e.Open(t), e.OpenAs(t, "weft-reader")
	first := apply(t, writer, newSwitch("blue"), newPort("a", "blue"))
	states := follow(t, reader)
	await(t, states, "port a", has("a"))
	apply(t, writer, newPort("b", "blue"))
	await(t, states, "port b", has("a", "b"))
	if err := writer.ReportStatus(t.Context(), "h4", fabric.HostStatus{Generation: first.Revision, Ready: true}); err != nil {
		t.Fatal(err)
	}
	said, err := reader.Statuses(t.Context())
	if err != nil || !said["h4"].Ready {
		t.Errorf("statuses %+v (%v), want h4 ready", said, err)
	}
	members, err := reader.Members(t.Context())
	if err != nil || len(members) != 1 || !members[0].Healthy {
		t.Errorf("members %+v (%v), want one that is healthy", members, err)
	}
	for what, change := range map[string]func(context.Context) error{
		"apply": func(ctx context.Context) error {
			_, err := reader.Apply(ctx, []fabric.Object{newPort("c", "blue")}, store.ApplyOptions{})
			return err
		},
		"delete": func(ctx context.Context) error { _, err := reader.Delete(ctx, fabric.KindPort, "a"); return err },
		"report": func(ctx context.Context) error { return reader.ReportStatus(ctx, "h4", fabric.HostStatus{}) },
		"take a port": func(ctx context.Context) error {
			return reader.UpdateLocations(ctx, nil, fabric.Location{Port: "a", Switch: "blue", Host: "h4", Epoch: 1})
		},
		"confirm a restore": reader.ConfirmRestore,
	} {
		err := change(t.Context())
		if !errors.Is(err, store.ErrNotAllowed) || !strings.Contains(err.Error(), "writes through a server host") {
			t.Errorf("a reader may %s: %v", what, err)
		}
	}
	if snap, err := writer.Snapshot(t.Context()); err != nil || len(snap.Ports) != 2 || len(snap.Locations) != 0 {
		t.Errorf("snapshot %+v (%v), want ports a and b, held by nobody", snap, err)
	}
}

func TestAHostCertificateAloneOpensNothing(t *testing.T) {
	t.Parallel()
	e := storetest.Start(t)
	apply(t, e.Open(t), newSwitch("blue"))
	for _, name := range []string{"h1", "h9"} {
		s := e.OpenAs(t, name)
		_, err := s.Snapshot(t.Context())
		_, unlisted := s.Members(t.Context())
		_, unread := s.Statuses(t.Context())
		for _, err := range []error{err, unlisted, unread} {
			if !errors.Is(err, store.ErrNotAllowed) {
				t.Errorf("the certificate of host %s opens etcd: %v", name, err)
			}
		}
	}
}
