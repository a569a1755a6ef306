package server

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/identity"
)

// etcdIdentity is the certificate of a user of etcd.
func etcdIdentity(tb testing.TB, ca *identity.CA, user fabric.EtcdUser) *identity.Identity {
	tb.Helper()
	cert, err := ca.IssueEtcd(user, time.Now(), 0)
	if err != nil {
		tb.Fatal(err)
	}
	files := identity.EtcdFilesIn(tb.TempDir())
	if err := cert.SaveAs(files); err != nil {
		tb.Fatal(err)
	}
	id, err := identity.Load(files, time.Now())
	if err != nil {
		tb.Fatal(err)
	}
	return id
}

// run starts members and waits until they serve.
func run(tb testing.TB, options ...Options) []*Server {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 30*time.Second)
	defer cancel()
	var members []*Server
	for _, o := range options {
		s, err := Start(o)
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(s.Close)
		members = append(members, s)
	}
	for _, s := range members {
		if err := s.Wait(ctx); err != nil {
			tb.Fatal(err)
		}
	}
	return members
}

// attempts are requests to etcd, by what they are.
var attempts = map[string]func(context.Context, *clientv3.Client) error{
	"read a record": func(ctx context.Context, c *clientv3.Client) error { return only(c.Get(ctx, "/weft/v1/port/blue/a")) },
	"read everything below the prefix": func(ctx context.Context, c *clientv3.Client) error {
		return only(c.Get(ctx, "/weft/", clientv3.WithPrefix()))
	},
	"watch the wanted state": func(ctx context.Context, c *clientv3.Client) error { return watch(ctx, c, "/weft/v1/") },
	"list the members":       func(ctx context.Context, c *clientv3.Client) error { return only(c.MemberList(ctx)) },
	"ask a member's status":  func(ctx context.Context, c *clientv3.Client) error { return only(c.Status(ctx, c.Endpoints()[0])) },
	"write a record": func(ctx context.Context, c *clientv3.Client) error {
		return only(c.Put(ctx, "/weft/v1/port/blue/a", "x"))
	},
	"delete a record": func(ctx context.Context, c *clientv3.Client) error {
		return only(c.Delete(ctx, "/weft/v1/port/blue/a"))
	},
	"delete everything": func(ctx context.Context, c *clientv3.Client) error {
		return only(c.Delete(ctx, "/weft/", clientv3.WithPrefix()))
	},
	"write its own status": func(ctx context.Context, c *clientv3.Client) error {
		return only(c.Put(ctx, "/weft/status/v1/h4", "x"))
	},
	"write in a transaction whose condition fails": func(ctx context.Context, c *clientv3.Client) error {
		return only(c.Txn(ctx).If(clientv3.Compare(clientv3.Version("/weft/v1/x"), ">", 9)).Then(clientv3.OpPut("/weft/v1/x", "x")).Commit())
	},
	"make a lease": func(ctx context.Context, c *clientv3.Client) error { return only(c.Grant(ctx, 60)) },
	"read outside": func(ctx context.Context, c *clientv3.Client) error { return only(c.Get(ctx, "/other")) },
	"read all of etcd": func(ctx context.Context, c *clientv3.Client) error {
		return only(c.Get(ctx, "", clientv3.WithFromKey()))
	},
	"watch outside":   func(ctx context.Context, c *clientv3.Client) error { return watch(ctx, c, "/") },
	"write outside":   func(ctx context.Context, c *clientv3.Client) error { return only(c.Put(ctx, "/other", "x")) },
	"compact history": func(ctx context.Context, c *clientv3.Client) error { return only(c.Compact(ctx, 1)) },
	"move the leader": func(ctx context.Context, c *clientv3.Client) error { return only(c.MoveLeader(ctx, 1)) },
	"add a member": func(ctx context.Context, c *clientv3.Client) error {
		return only(c.MemberAdd(ctx, []string{"https://192.0.2.1:1"}))
	},
	"add a user": func(ctx context.Context, c *clientv3.Client) error { return only(c.UserAdd(ctx, "mallory", "")) },
	"take another role": func(ctx context.Context, c *clientv3.Client) error {
		return only(c.UserGrantRole(ctx, "weft-reader", "root"))
	},
	"widen its role":         func(ctx context.Context, c *clientv3.Client) error { return widen(ctx, c) },
	"turn authorization off": func(ctx context.Context, c *clientv3.Client) error { return only(c.AuthDisable(ctx)) },
	"take all data away": func(ctx context.Context, c *clientv3.Client) error {
		r, err := c.Snapshot(ctx)
		if err != nil {
			return err
		}
		defer r.Close()
		return only(r.Read(make([]byte, 1)))
	},
}

func only[T any](_ T, err error) error { return err }

func widen(ctx context.Context, c *clientv3.Client) error {
	return only(c.RoleGrantPermission(ctx, "weft-reader", "/weft/", "/weft0", clientv3.PermissionType(clientv3.PermReadWrite)))
}

// watch returns once etcd has taken or refused the watch.
func watch(ctx context.Context, c *clientv3.Client, below string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := <-c.Watch(ctx, below, clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	return r.Err()
}

func TestEachUserOfEtcdMayDoWhatItNeedsAndNoMore(t *testing.T) {
	ca := newCA(t)
	o := cluster(t, ca, 1)[0]
	run(t, o)
	reads := []string{"read a record", "read everything below the prefix", "watch the wanted state", "list the members", "ask a member's status"}
	writes := append(reads, "write a record", "delete a record", "delete everything", "write its own status", "write in a transaction whose condition fails", "make a lease")
	for name, c := range map[string]struct {
		id  *identity.Identity
		may []string
	}{
		"a reader":                       {etcdIdentity(t, ca, fabric.EtcdReader), reads},
		"a writer":                       {etcdIdentity(t, ca, fabric.EtcdWriter), writes},
		"a host that is no member":       {load(t, cluster(t, ca, 2)[1]), nil},
		"the member, by its certificate": {load(t, o), nil},
	} {
		t.Run(name, func(t *testing.T) {
			may := map[string]bool{}
			for _, a := range c.may {
				may[a] = true
			}
			client := clientOf(t, c.id, o.ClientURL)
			for what, attempt := range attempts {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				err := attempt(ctx, client)
				cancel()
				if may[what] && err != nil {
					t.Errorf("%s may not %s: %v", name, what, err)
				}
				if !may[what] && !denied(err) {
					t.Errorf("%s may %s (%v)", name, what, err)
				}
			}
		})
	}
}

// denied reports whether etcd said no, and not that something else went wrong.
func denied(err error) bool {
	if errors.Is(err, rpctypes.ErrPermissionDenied) || errors.Is(err, rpctypes.ErrUserNotFound) || status.Code(err) == codes.PermissionDenied {
		return true
	}
	return err != nil && (strings.Contains(err.Error(), "permission denied") || strings.Contains(err.Error(), "PermissionDenied"))
}

// impatient tries a request again and again until told to stop, each time over a new connection, because an old one waits
// longer after each failure. It returns how often the request was carried out.
func impatient(tb testing.TB, id *identity.Identity, url string, attempt func(context.Context, *clientv3.Client) error) func() int {
	tb.Helper()
	ctx, cancel := context.WithCancel(tb.Context())
	carried := make(chan int, 1)
	go func() {
		done := 0
		for ctx.Err() == nil {
			short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
			c, err := clientv3.New(clientv3.Config{Endpoints: []string{url}, TLS: id.Client(), Logger: zap.NewNop()})
			if err == nil && attempt(short, c) == nil {
				done++
			}
			cancel()
			c.Close()
		}
		carried <- done
	}()
	return func() int {
		cancel()
		return <-carried
	}
}

func TestNobodySlipsInWhileAClusterStartsForTheFirstTime(t *testing.T) {
	ca := newCA(t)
	options := cluster(t, ca, 3)
	host, reader := load(t, cluster(t, ca, 4)[3]), etcdIdentity(t, ca, fabric.EtcdReader)
	var stops []func() int
	for _, o := range options {
		stops = append(stops,
			impatient(t, host, o.ClientURL, attempts["write a record"]),
			impatient(t, host, o.ClientURL, attempts["add a user"]),
			impatient(t, reader, o.ClientURL, attempts["write a record"]),
			impatient(t, reader, o.ClientURL, attempts["widen its role"]))
	}
	run(t, options...)
	for _, stop := range stops {
		if done := stop(); done != 0 {
			t.Errorf("a request that nobody may make was carried out %d times", done)
		}
	}
	root := clientOf(t, etcdIdentity(t, ca, fabric.EtcdRoot), options[2].ClientURL)
	users, err := root.UserList(t.Context())
	if err != nil || len(users.Users) != len(fabric.EtcdUsers()) {
		t.Errorf("users %v (%v), want %v", users, err, fabric.EtcdUsers())
	}
	all, err := root.Get(t.Context(), "", clientv3.WithFromKey())
	if err != nil || all.Count != 0 {
		t.Errorf("etcd holds %v (%v), want nothing", all, err)
	}
}

func TestAuthorizationThatIsTurnedOffClosesEtcd(t *testing.T) {
	ca := newCA(t)
	o := cluster(t, ca, 1)[0]
	member := run(t, o)[0]
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := clientOf(t, etcdIdentity(t, ca, fabric.EtcdRoot), o.ClientURL).AuthDisable(ctx); err != nil {
		t.Fatal(err)
	}
	writer := client(t, o, o.ClientURL)
	if _, err := writer.Put(ctx, "/weft/k", "v"); status.Code(err) != codes.Unavailable {
		t.Errorf("a writer is served without authorization: %v", err)
	}
	member.Close()
	run(t, o)
	if _, err := writer.Put(ctx, "/weft/k", "v"); err != nil {
		t.Errorf("a restart does not turn it on again: %v", err)
	}
	if err := attempts["write a record"](ctx, clientOf(t, load(t, o), o.ClientURL)); !denied(err) {
		t.Errorf("a host may write after that: %v", err)
	}
}
