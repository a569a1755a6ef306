package fabric

// EtcdUser is who etcd takes the holder of a client certificate for: its common name (ADR 9). There are three, however many
// hosts a fabric has, so that a host that joins needs a certificate and no change in etcd.
type EtcdUser string

// The users of etcd. No host and no operator may have one of their names.
const (
	// EtcdRoot may do everything, which only setting etcd up needs. Its certificate stays beside the CA.
	EtcdRoot EtcdUser = "root"
	// EtcdWriter reads and writes everything below EtcdPrefix; a server host is this user.
	EtcdWriter EtcdUser = "weft-writer"
	// EtcdReader reads everything below EtcdPrefix and writes nothing; every other host is this user.
	EtcdReader EtcdUser = "weft-reader"
)

// EtcdPrefix is what every key of the fabric begins with.
const EtcdPrefix = "/weft/"

// EtcdUsers are all of them.
func EtcdUsers() []EtcdUser { return []EtcdUser{EtcdRoot, EtcdWriter, EtcdReader} }
