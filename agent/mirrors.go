package agent

import (
	"fmt"
	"maps"
	"time"

	"github.com/weftnet/weft/fabric"
)

// endMirrors finds out whose time is over. The kernel has ended their copies already. The caller holds mu.
func (k *keeper) endMirrors(now time.Time) {
	if k.snap == nil {
		return
	}
	var ended map[string]bool
	for name, m := range k.snap.Mirrors {
		if m.Ended(now) {
			if ended == nil {
				ended = map[string]bool{}
			}
			ended[name] = true
		}
	}
	if !maps.Equal(ended, k.ended) {
		k.ended, k.want = ended, nil
	}
}

// tellMirrors tells of mirrors that have begun to copy here, or no longer do. The caller holds mu.
func (k *keeper) tellMirrors() {
	if len(k.have.Mirrors) == 0 && len(k.copying) == 0 && k.copying != nil {
		return
	}
	now := make(map[fabric.VNI]string, len(k.have.Mirrors))
	for name, m := range k.snap.Mirrors {
		if _, copies := k.have.Mirrors[m.Spec.VNI]; copies {
			now[m.Spec.VNI] = name
		}
	}
	for vni, name := range now {
		if _, before := k.copying[vni]; !before && k.copying != nil {
			k.tell("mirror.began", "mirror/"+name, fmt.Sprintf("Mirror %s copies at ports of host %s.", name, k.host))
		}
	}
	for vni, name := range k.copying {
		if _, still := now[vni]; !still {
			k.tell("mirror.ended", "mirror/"+name, fmt.Sprintf("Mirror %s copies nothing any more on host %s: %s.", name, k.host, k.whyEnded(name)))
		}
	}
	k.copying = now
}

// whyEnded says why a mirror copies nothing here.
func (k *keeper) whyEnded(name string) string {
	m := k.snap.Mirrors[name]
	switch {
	case m == nil:
		return "it was deleted"
	case k.ended[name]:
		return fmt.Sprintf("its time of %s is over", m.Spec.For)
	case k.snap.SinkHost(m) == "":
		return "its sink is gone"
	}
	return "none of its ports is here, or its sink cannot be reached"
}
