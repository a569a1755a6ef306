package fabric

import (
	"bytes"
	"errors"
	"reflect"
	"runtime"
	"strings"
	"testing"
)

const story = `# the demo
apiVersion: weft/v1
kind: Switch
metadata: {name: blue, labels: {tier: web}}
spec:
  type: private
  subnets: [10.10.0.0/24, "fd00:10::/64"]
  mtu: 1400
---
apiVersion: weft/v1
kind: Port
metadata:
  name: web-1
spec: {switch: blue, mac: 52:54:00:12:34:56, addresses: [], guards: {mac: false}}
--- # nothing more
`

func TestDecodeReadsDocumentsInOrder(t *testing.T) {
	objects, err := Decode("demo.yaml", []byte(story))
	if err != nil {
		t.Fatal(err)
	}
	if len(objects) != 2 {
		t.Fatalf("%d objects, want 2", len(objects))
	}
	sw, port := objects[0].(*Switch), objects[1].(*Port)
	if sw.Spec.MTU != 1400 || len(sw.Spec.Subnets) != 2 || sw.Metadata.Labels["tier"] != "web" {
		t.Errorf("switch %+v", sw)
	}
	if port.Spec.Addresses == nil || len(port.Spec.Addresses) != 0 {
		t.Errorf("an empty list became %#v: empty and absent differ", port.Spec.Addresses)
	}
	if port.Spec.VM != "web-1" || port.Spec.MAC.String() != "52:54:00:12:34:56" || port.Spec.Guards.MAC == nil || *port.Spec.Guards.MAC {
		t.Errorf("port %+v", port.Spec)
	}
}

func TestDecodeReadsJSONAndLists(t *testing.T) {
	for name, text := range map[string]string{
		"one object in JSON": `{"apiVersion":"weft/v1","kind":"Profile","metadata":{"name":"gold"},"spec":{}}`,
		"what get prints":    `{"items":[{"apiVersion":"weft/v1","kind":"Profile","metadata":{"name":"gold","revision":12},"spec":{}}],"revision":12}`,
		"a list in YAML":     "items:\n- apiVersion: weft/v1\n  kind: Profile\n  metadata: {name: gold}\n  spec: {}\n",
		"Windows line ends":  "---\r\napiVersion: weft/v1\r\nkind: Profile\r\nmetadata: {name: gold}\r\n---\r\n",
	} {
		objects, err := Decode("x", []byte(text))
		if err != nil || len(objects) != 1 || objects[0].Meta().Name != "gold" {
			t.Errorf("%s: %v (%v)", name, objects, err)
		}
	}
}

// doc is a port with one line of its own in spec.
func doc(line string) string {
	return "apiVersion: weft/v1\nkind: Port\nmetadata: {name: web-1}\nspec:\n  switch: blue\n  " + line + "\n"
}

func TestMistakesAreNamedWithTheirPlace(t *testing.T) {
	sw := "apiVersion: weft/v1\nkind: Switch\nmetadata: {name: blue}\nspec:\n  type: private\n  "
	for name, c := range map[string]struct{ text, want string }{
		"an unknown field":              {doc("alow: x"), `f.yaml:6:3: spec.alow: unknown field`},
		"a misspelt field":              {doc("adresses: []"), `f.yaml:6:3: spec.adresses: unknown field; did you mean "addresses"?`},
		"a field of another case":       {doc("MAC: 52:54:00:12:34:56"), `spec.MAC: unknown field; did you mean "mac"?`},
		"a repeated field":              {doc("switch: red"), `f.yaml:6:3: spec.switch: is given twice, first in line 5`},
		"a number for text":             {doc("vm: 7"), `f.yaml:6:7: spec.vm: is the number "7", not text: write it in quotes`},
		"a list for text":               {doc("vm: [a]"), `f.yaml:6:7: spec.vm: is a list, not text`},
		"text for a list":               {doc("addresses: 10.10.0.5"), `f.yaml:6:14: spec.addresses: is the text "10.10.0.5", not a list`},
		"no value":                      {doc("addresses:"), `spec.addresses: has no value`},
		"an explicit null":              {doc("addresses: null"), `spec.addresses: has no value`},
		"a bad address":                 {doc("addresses: [10.10.0.5, 10.10.0]"), `f.yaml:6:26: spec.addresses[1]: "10.10.0" is not an address`},
		"a mapped address":              {doc(`addresses: ["::ffff:10.0.0.1"]`), `spec.addresses[0]: ::ffff:10.0.0.1 is an IPv4 address in IPv6 clothes: write 10.0.0.1`},
		"an address with a zone":        {doc(`addresses: ["fe80::1%eth0"]`), `carries a zone`},
		"a group MAC":                   {doc("mac: 01:00:5e:00:00:01"), `f.yaml:6:8: spec.mac: 01:00:5e:00:00:01 is a group address`},
		"no MAC":                        {doc("mac: banana"), `"banana" is not a MAC address`},
		"a truth value in words":        {doc("guards: {mac: yes}"), `spec.guards.mac: "yes" is neither true nor false`},
		"an alias":                      {"apiVersion: weft/v1\nkind: Port\nmetadata: {name: &n web-1, annotations: {a: *n}}\nspec: {switch: blue}", `f.yaml:3:18: metadata.name: anchors and aliases are not read`},
		"a merge":                       {doc("<<: {vm: x}"), `cannot be the name of a field`},
		"a tag":                         {doc("vm: !!binary aGk="), `the tag "!!binary" is not read`},
		"another schema":                {"apiVersion: weft/v2\nkind: Port\n", `f.yaml:1:13: apiVersion: "weft/v2" is not known: this release reads "weft/v1"`},
		"no schema":                     {"kind: Port\n", `f.yaml:1:1: apiVersion: is missing`},
		"a misspelt kind":               {"apiVersion: weft/v1\nkind: Prot\n", `f.yaml:2:7: kind: unknown kind "Prot"; did you mean "Port"?`},
		"no kind":                       {"apiVersion: weft/v1\n", `kind: is missing`},
		"no name":                       {"apiVersion: weft/v1\nkind: Profile\nmetadata: {}\n", `f.yaml:3:11: metadata.name: is missing`},
		"a name of 300 characters":      {"apiVersion: weft/v1\nkind: Profile\nmetadata: {name: " + strings.Repeat("a", 300) + "}\n", `is 300 characters long, the most is 63`},
		"a name with capitals":          {"apiVersion: weft/v1\nkind: Profile\nmetadata: {name: Gold}\n", `"Gold" must match [a-z0-9]`},
		"a scalar document":             {"hello", `f.yaml:1:1: is the text "hello", not an object`},
		"a syntax error":                {"apiVersion: weft/v1\nkind: [\n", `f.yaml:`},
		"an error in the second":        {story + doc("alow: x"), `f.yaml:21:3: spec.alow`},
		"host bits":                     {sw + "subnets: [10.10.0.7/24]", `f.yaml:6:13: spec.subnets[0]: 10.10.0.7/24 has host bits set: write 10.10.0.0/24`},
		"two subnets of a family":       {sw + "subnets: [10.10.0.0/24, 10.11.0.0/24]", `spec.subnets[1]: 10.11.0.0/24 is a second IPv4 subnet`},
		"a subnet without room":         {sw + "subnets: [10.10.0.0/31]", `its length is /8 to /30`},
		"a multicast subnet":            {sw + "subnets: [224.0.0.0/24]", `not a block of unicast addresses`},
		"an MTU that cannot be":         {sw + "mtu: 100", `spec.mtu: 100 cannot be: an MTU is 576 to 65535`},
		"a negative MTU":                {sw + "mtu: -1", `spec.mtu: -1 cannot be`},
		"an MTU too small for IPv6":     {sw + "mtu: 1000\n  subnets: [\"fd00::/64\"]", `IPv6 needs at least 1280`},
		"an MTU in words":               {sw + "mtu: big", `spec.mtu: "big" is not a whole number`},
		"a VNI too large":               {sw + "vni: 16777216", `spec.vni: 16777216 does not fit`},
		"a VNI far too large":           {sw + "vni: 99999999999", `"99999999999" is not a whole number from 0 to 4294967295`},
		"an unknown type":               {"apiVersion: weft/v1\nkind: Switch\nmetadata: {name: b}\nspec: {type: privat}", `f.yaml:4:14: spec.type: unknown type "privat"; did you mean "private"?`},
		"a label's bad value":           {"apiVersion: weft/v1\nkind: Profile\nmetadata: {name: b, labels: {a.b/c: 'x y'}}", `f.yaml:3:37: metadata.labels["a.b/c"]: value "x y"`},
		"a host without address":        {"apiVersion: weft/v1\nkind: Host\nmetadata: {name: h1}\nspec: {underlayMTU: 1500}", `spec.vtep: is missing`},
		"a host with a small underlay":  {"apiVersion: weft/v1\nkind: Host\nmetadata: {name: h1}\nspec: {vtep: 10.0.0.1, underlayMTU: 600}", `spec.underlayMTU: 600 cannot carry the fabric: it is 626`},
		"a host on the loopback":        {"apiVersion: weft/v1\nkind: Host\nmetadata: {name: h1}\nspec: {vtep: 127.0.0.1}", `127.0.0.1 cannot be a station's address`},
		"a control character":           {"apiVersion: weft/v1\nkind: Profile\nmetadata: {name: a, annotations: {x: \"\\x07\"}}", `holds control characters`},
		"a raw control character":       {"apiVersion: weft/v1\nkind: \x07Profile\n", `holds a control character`},
		"bytes that are not UTF-8":      {"apiVersion: weft/v1\nkind: \xff\n", `f.yaml:2:7: is not UTF-8`},
		"nesting without an end":        {doc("vm: " + strings.Repeat("[", 20000)), `f.yaml:`},
		"a move to where the VM is":     {"apiVersion: weft/v1\nkind: Move\nmetadata: {name: m}\nspec: {vm: a, ports: [a], from: h1, to: h1}", `spec.to: "h1" is where the VM already is`},
		"the same address twice":        {doc("addresses: [10.0.0.5, 10.0.0.5]"), `spec.addresses[1]: 10.0.0.5 is given twice`},
		"an object that is no document": {"items:\n- 7\n", `f.yaml:2:3: is the number "7", not an object`},
	} {
		t.Run(name, func(t *testing.T) {
			objects, err := Decode("f.yaml", []byte(c.text))
			if err == nil {
				t.Fatalf("it was read as %+v", objects)
			}
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error\n  %v\ndoes not say\n  %s", err, c.want)
			}
			if len(err.Error()) > 4000 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
		})
	}
}

func TestAllMistakesAreReportedOnceInOrder(t *testing.T) {
	_, err := Decode("f.yaml", []byte("apiVersion: weft/v1\nkind: Switch\nmetadata: {name: B}\nspec:\n  type: 7\n  mtu: 3\n  subnet: 10.0.0.0/8\n"))
	var f Findings
	if !errors.As(err, &f) {
		t.Fatal(err)
	}
	var paths []string
	for _, one := range f {
		paths = append(paths, one.Path)
	}
	want := []string{"spec.type", "spec.subnet", "metadata.name", "spec.mtu"}
	if !reflect.DeepEqual(paths, want) {
		t.Errorf("findings %v, want %v:\n%v", paths, want, err)
	}
}

func TestHugeInputIsRefusedCheaply(t *testing.T) {
	ports := strings.Repeat("---\n"+doc("vm: x"), 8000)
	for name, c := range map[string]struct{ text, want string }{
		"a file of 50 MB":             {strings.Repeat("a: b\n", 10<<20), "the most is 8 MiB"},
		"a document of 5 MB":          {"a: " + strings.Repeat("b", 5<<20), "put --- between objects"},
		"a list of a million entries": {"a: [" + strings.Repeat("b,", 450_000) + "b]", "put --- between objects"},
		"a deep flow":                 {strings.Repeat("{a: ", 200_000), "is not YAML"},
		"a deep block":                {strings.Repeat("- ", 400_000), "is not YAML"},
		"8000 ports of one name each": {ports, ""},
	} {
		t.Run(name, func(t *testing.T) {
			text := []byte(c.text)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := Decode("f.yaml", text)
			runtime.ReadMemStats(&after)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v does not say %q", err, c.want)
			}
			allocated := (after.TotalAlloc - before.TotalAlloc) >> 20
			t.Logf("%d MiB allocated", allocated)
			if allocated > 512 {
				t.Errorf("it took %d MiB", allocated)
			}
		})
	}
}

func TestEncodeIsReadBackAsTheSame(t *testing.T) {
	objects, err := Decode("demo.yaml", []byte(story))
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, objects)
}

func roundTrip(tb testing.TB, objects []Object) {
	tb.Helper()
	var out bytes.Buffer
	if err := Encode(&out, objects...); err != nil {
		tb.Fatal(err)
	}
	again, err := Decode("again.yaml", out.Bytes())
	if err != nil {
		tb.Fatalf("%v\n%s", err, out.String())
	}
	var first, second bytes.Buffer
	if err := errors.Join(Encode(&first, objects...), Encode(&second, again...)); err != nil {
		tb.Fatal(err)
	}
	if first.String() != second.String() {
		tb.Errorf("written and read back:\n%s\nbecame\n%s", first.String(), second.String())
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(story))
	f.Add([]byte(doc("addresses: [10.10.0.5, ::1%x]")))
	f.Add([]byte(`{"items":[{"apiVersion":"weft/v1","kind":"Group","metadata":{"name":"g","annotations":{"a":"\ud83d"}},"spec":{"cidrs":["10.0.0.0/8"],"ports":{"a":"b"}}}]}`))
	f.Add([]byte(policyText(`{name: a, weight: 1, direction: in, action: allow, protocol: tcp, local: {ports: [1-2], macs: []}, stateful: true, idle: 1h}`)))
	f.Add([]byte("apiVersion: weft/v1\nkind: Move\nmetadata: {name: m}\nspec: {vm: a, ports: [a], from: h1, to: h2}\nstatus: {phase: granted, at: {granted: 2026-01-31T12:00:00Z}, result: {guestPauseMs: 1.5}}"))
	f.Add([]byte("apiVersion: weft/v1\nkind: Move\nmetadata: {name: m}\nspec: {vm: a, ports: [a], from: h1, to: h2}\nstatus: {at: {}}"))
	f.Add([]byte("apiVersion: weft/v1\nkind: Host\nmetadata: {name: h1, trace: 00-" + strings.Repeat("a", 32) + "-" + strings.Repeat("b", 16) + "-01}\nspec: {vtep: 10.0.0.1, api: '10.0.0.1:7443'}\nstatus: {ports: [{name: a, drops: {x: 1}}]}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		objects, err := Decode("fuzz", text)
		if err != nil {
			if !errors.Is(err, ErrInvalid) || len(err.Error()) > 64<<10 {
				t.Errorf("error of %d bytes: %.200s", len(err.Error()), err.Error())
			}
			return
		}
		roundTrip(t, objects)
	})
}
