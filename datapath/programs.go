package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// The programs of the core; the names are those of bpf/weft.c.
const (
	vpIn        = "vp_in"
	vpOut       = "vp_out"
	ulIn        = "ul_in"
	vxIn        = "vx_in"
	sentinelIn  = "sentinel_in"
	sentinelOut = "sentinel_out"
	probeIn     = "probe_in"
	extIn       = "ext_in"
	extOut      = "ext_out"
	sinkIn      = "sink_in"
	shIn        = "sh_in"

	mirrorOutProgram = "mirror_out"
)

// programs are the programs in force, by name.
type programs map[string]*ebpf.Program

// Close lets go of the programs.
func (ps programs) Close() error {
	var errs []error
	for _, p := range ps {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}

// openPrograms loads this release's programs. If the pinned ones are the same they stay; if not, every link is moved to
// the new ones, each with one atomic step, and only then the names are.
func (p pins) openPrograms(maps *coreMaps, attached links) (ps programs, err error) {
	fresh, err := loadPrograms(maps)
	if err != nil {
		return nil, err
	}
	pinned, err := p.pinnedPrograms(fresh)
	if err != nil {
		fresh.Close()
		return nil, err
	}
	if same(fresh, pinned, maps.byName()) && attached.run(pinned) {
		return pinned, fresh.Close()
	}
	defer pinned.Close()
	defer func() {
		if err != nil {
			fresh.Close()
		}
	}()
	for key, l := range attached {
		if err := update(l, fresh[key.program]); err != nil {
			return nil, fmt.Errorf("replace %s on device %d: %w", key.program, key.ifindex, err)
		}
	}
	for name, program := range fresh {
		if err := p.pin(program, "progs", name); err != nil {
			return nil, err
		}
	}
	return fresh, nil
}

// run reports whether each attachment runs the program of its name.
func (ls links) run(ps programs) bool {
	for key, l := range ls {
		program := ps[key.program]
		if program == nil {
			return false
		}
		info, err := program.Info()
		if err != nil {
			return false
		}
		id, _ := info.ID()
		if now, err := l.Info(); err != nil || now.Program != id {
			return false
		}
	}
	return true
}

// update moves a link to a program. A link whose device is gone has nothing to move.
func update(l link.Link, program *ebpf.Program) error {
	if program == nil {
		return errors.New("this release has no such program")
	}
	err := l.Update(program)
	if err != nil && !isAttached(l) {
		return nil
	}
	return err
}

// isAttached reports whether a link's device is still there.
func isAttached(l link.Link) bool {
	info, err := l.Info()
	return err == nil && info.TCX() != nil && info.TCX().Ifindex != 0
}

// loadPrograms loads this release's programs into the kernel, on the given maps.
func loadPrograms(maps *coreMaps) (programs, error) {
	spec, err := coreSpec()
	if err != nil {
		return nil, err
	}
	shared := maps.byName()
	for name := range spec.Maps {
		if versioned.MatchString(name) && shared[name] == nil {
			return nil, fmt.Errorf("load the core: map %s is not among those that programs share: put it into byName", name)
		}
	}
	collection, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: shared})
	var refused *ebpf.VerifierError
	if errors.As(err, &refused) {
		return nil, fmt.Errorf("the kernel's verifier refuses the core: %w (see `weft doctor`)", refused)
	}
	if err != nil {
		return nil, fmt.Errorf("load the core: %w (see `weft doctor`)", err)
	}
	defer collection.Close()
	ps := programs{}
	for name := range spec.Programs {
		ps[name] = collection.DetachProgram(name)
	}
	return ps, nil
}

// byName is what new programs use in place of maps of their own: all but this load's scratch.
func (m *coreMaps) byName() map[string]*ebpf.Map {
	return map[string]*ebpf.Map{
		"config_v1": m.ConfigV1, "ports_v1": m.PortsV1, "slots_v1": m.SlotsV1, "limits_v3": m.LimitsV3, "macs_v1": m.MacsV1, "peers_v1": m.PeersV1, "vteps_v1": m.VtepsV1,
		"networks_v2": m.NetworksV2, "fdb_v1": m.FdbV1, "neighbors_v1": m.NeighborsV1, "stats_v1": m.StatsV1,
		"drops_v1": m.DropsV1, "probe_labels_v1": m.ProbeLabelsV1, "events_v1": m.EventsV1,
		"tables_v2": m.TablesV2, "places_v1": m.PlacesV1, "services_v1": m.ServicesV1, "exacts_v1": m.ExactsV1,
		"vectors_v1": m.VectorsV1, "rules_v1": m.RulesV1, "combos_v2": m.CombosV2, "hits_v1": m.HitsV1, "tallies_v1": m.TalliesV1,
		"flows_v2": m.FlowsV2, "fragments_v2": m.FragmentsV2,
		"uplinks_v2": m.UplinksV2, "shares_v1": m.SharesV1, "wires_v1": m.WiresV1, "tags_v1": m.TagsV1, "heard_v1": m.HeardV1,
		"trunks_v1": m.TrunksV1, "segments_v1": m.SegmentsV1,
		"mirrored_v1": m.MirroredV1, "mirrors_v1": m.MirrorsV1, "sinks_v1": m.SinksV1, "mirror_stats_v1": m.MirrorStatsV1,
		"sessions_v1": m.SessionsV1, "session_stats_v1": m.SessionStatsV1, "records_v1": m.RecordsV1,
	}
}

// pinnedPrograms opens the pinned programs of these names; one that is not there is left out.
func (p pins) pinnedPrograms(names programs) (programs, error) {
	found := programs{}
	for name := range names {
		program, err := ebpf.LoadPinnedProgram(filepath.Join(p.dir, "progs", name), nil)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return found, fmt.Errorf("open program %s: %w", name, err)
		}
		found[name] = program
	}
	return found, nil
}

// same reports whether both hold the same programs, which the kernel's tag says as a hash of the instructions, on these
// maps: programs go on with the maps they were loaded on, even when those lost their names and others were made.
func same(fresh, pinned programs, maps map[string]*ebpf.Map) bool {
	for name, program := range fresh {
		one, err := program.Info()
		other, there := pinned[name]
		if err != nil || !there {
			return false
		}
		info, err := other.Info()
		if err != nil || info.Tag == "" || info.Tag != one.Tag || !usesSame(one, info, maps) {
			return false
		}
	}
	return len(fresh) == len(pinned)
}

// usesSame reports whether both programs use the same of these maps.
func usesSame(a, b *ebpf.ProgramInfo, maps map[string]*ebpf.Map) bool {
	one, ok := a.MapIDs()
	two, both := b.MapIDs()
	if !ok || !both {
		return false
	}
	for _, m := range maps {
		info, err := m.Info()
		if err != nil {
			return false
		}
		id, known := info.ID()
		if !known || slices.Contains(one, id) != slices.Contains(two, id) {
			return false
		}
	}
	return true
}

// attachment says that a program belongs on a device.
type attachment struct {
	linkKey
	device string
}

// out reports whether the program is on the side where frames leave by the device.
func (k linkKey) out() bool { return strings.HasSuffix(k.program, "_out") }

// attach puts a program on a device, once. The core goes ahead of everybody, a sentinel behind.
func (d *Datapath) attach(a attachment) error {
	if l, there := d.links[a.linkKey]; there {
		if isAttached(l) {
			return nil
		}
		l.Close()
	}
	options := link.TCXOptions{Interface: a.ifindex, Program: d.programs[a.program], Attach: ebpf.AttachTCXIngress, Anchor: link.Head()}
	if a.out() {
		options.Attach = ebpf.AttachTCXEgress
	}
	if a.program == sentinelIn || a.program == sentinelOut {
		options.Anchor = link.Tail()
	}
	l, err := link.AttachTCX(options)
	if errors.Is(err, ebpf.ErrNotSupported) {
		return fmt.Errorf("attach %s to %s: tcx needs Linux 6.6: %w", a.program, a.device, err)
	}
	if err != nil {
		return fmt.Errorf("attach %s to %s: %w", a.program, a.device, err)
	}
	numbered, err := newAttached(l)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	d.links[a.linkKey] = numbered // even if it cannot be pinned: Verify tries again, and until then the program is there
	return d.pins.pin(l, "links", a.file())
}

// detach takes the programs off a device, the last one first, and forgets their names.
func (d *Datapath) detach(as []attachment) error {
	var errs []error
	for i := len(as) - 1; i >= 0; i-- {
		if l, there := d.links[as[i].linkKey]; there {
			errs = append(errs, l.end())
			delete(d.links, as[i].linkKey)
		}
		delete(d.fights, as[i].linkKey)
		delete(d.lowered, as[i].ifindex)
		errs = append(errs, d.pins.unpin("links", as[i].file()))
	}
	return errors.Join(errs...)
}

// hostAttachments are the programs that belong on the host's own devices. The underlay has no sentinel: the host's other
// traffic must pass, and VXLAN that ul_in misses still ends in vx_in.
func (d *Datapath) hostAttachments() []attachment {
	return []attachment{
		{linkKey{d.tunnel.Index, sentinelIn}, d.tunnel.Name},
		{linkKey{d.tunnel.Index, vxIn}, d.tunnel.Name},
		{linkKey{d.underlay.Index, ulIn}, d.underlay.Name},
	}
}

// portAttachments are the programs that belong on a port's device. The core closes the device from the first moment, because
// what it knows no port for it drops; each attachment waits for a grace period of the kernel's, and the sentinels, which
// matter only when somebody takes the core away, need not keep the first packet waiting.
func portAttachments(device string, ifindex int) []attachment {
	return append(coreAttachments(device, ifindex),
		attachment{linkKey{ifindex, sentinelIn}, device}, attachment{linkKey{ifindex, sentinelOut}, device})
}

// coreAttachments are those without which a port's device must not be raised.
func coreAttachments(device string, ifindex int) []attachment {
	return []attachment{{linkKey{ifindex, vpIn}, device}, {linkKey{ifindex, vpOut}, device}}
}
