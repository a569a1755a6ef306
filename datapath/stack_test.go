package datapath

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

const (
	// stackLimit is what the verifier gives to a chain of calls, in bytes (MAX_BPF_STACK).
	stackLimit = 512
	// stackStep is what it rounds the part of each function up to: 32 bytes before Linux 6.9, and without a JIT; 16 since then
	// (kernel/bpf/verifier.c, check_max_stack_depth_subprog, round_up_stack_depth).
	stackStep = 32
	// stackSlack is left for what is added next, and for a compiler that needs more. ADR 11.9.
	stackSlack = 96
)

// TestTheStackHasRoom computes the deepest chain of calls of every program from the object, as the kernel with the largest
// steps counts it.
func TestTheStackHasRoom(t *testing.T) {
	spec, err := loadCore()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(spec.Programs)) {
		chain, depth := deepest(functionsOf(spec.Programs[name].Instructions), name)
		t.Logf("%-12s %3d bytes: %s", name, depth, strings.Join(chain, " → "))
		if depth > stackLimit-stackSlack {
			t.Errorf("%s needs %d bytes of stack, and may need %d of %d: let a function of %s hold less, or call the next one after it", name,
				depth, stackLimit-stackSlack, stackLimit, strings.Join(chain, " → "))
		}
	}
}

// TestTheStackIsMeasured keeps the measurement from seeing nothing: functions whose needs are known from their variables.
func TestTheStackIsMeasured(t *testing.T) {
	spec, err := loadCore()
	if err != nil {
		t.Fatal(err)
	}
	functions := functionsOf(spec.Programs[vpIn].Instructions)
	// lower_mss has 44 bytes of options that a helper fills, by their address alone.
	if f := functions["lower_mss"]; f == nil || f.stack < 44 {
		t.Errorf("lower_mss is measured as %+v", f)
	}
	// judge_copy is called from a callback of bpf_loop, which vp_in only names.
	if chain := pathTo(functions, vpIn, "judge_copy"); !slices.Contains(chain, "copy_to_port") {
		t.Errorf("vp_in reaches judge_copy by %v", chain)
	}
}

// function is a function of a program: how many bytes of stack it touches, and the functions it names. The verifier counts a
// callback as called where its address is taken.
type function struct {
	stack int
	calls []string
}

// functionsOf reads a program with all functions it is linked with.
func functionsOf(instructions asm.Instructions) map[string]*function {
	all := map[string]*function{}
	var f *function
	var onStack map[asm.Register]bool // registers that hold the frame pointer
	for _, i := range instructions {
		if named := btf.FuncMetadata(&i); named != nil {
			f, onStack = &function{}, map[asm.Register]bool{}
			all[named.Name] = f
		}
		if i.IsFunctionReference() {
			f.calls = append(f.calls, i.Reference())
		}
		f.stack = max(f.stack, touched(i, onStack))
		if class := i.OpCode.Class(); class.IsALU() || class.IsLoad() {
			onStack[i.Dst] = class.IsALU() && i.OpCode.ALUOp() == asm.Mov && i.OpCode.Source() == asm.RegSource && i.Src == asm.RFP
		}
	}
	return all
}

// touched is how far below the frame pointer an instruction reaches, in bytes.
func touched(i asm.Instruction, onStack map[asm.Register]bool) int {
	class := i.OpCode.Class()
	switch {
	case class.IsLoad() && i.Src == asm.RFP, class.IsStore() && i.Dst == asm.RFP:
		return -int(i.Offset)
	case class == asm.ALU64Class && i.OpCode.ALUOp() == asm.Add && i.OpCode.Source() == asm.ImmSource && onStack[i.Dst]:
		return -int(i.Constant)
	}
	return 0
}

// deepest is the chain of calls from a function that needs the most stack, and how much.
func deepest(functions map[string]*function, from string) (chain []string, depth int) {
	for _, to := range functions[from].calls {
		if c, d := deepest(functions, to); d > depth {
			chain, depth = c, d
		}
	}
	own := (max(functions[from].stack, 1) + stackStep - 1) / stackStep * stackStep
	return append([]string{from}, chain...), own + depth
}

// pathTo is a chain of calls from a function to another; nil if there is none.
func pathTo(functions map[string]*function, from, to string) []string {
	if from == to {
		return []string{to}
	}
	for _, next := range functions[from].calls {
		if rest := pathTo(functions, next, to); rest != nil {
			return append([]string{from}, rest...)
		}
	}
	return nil
}
