package policy

import (
	"bytes"
	"fmt"
	"slices"
	"unsafe"
)

// ruleSet is a set of rules by their number in a side.
type ruleSet []uint64

func (b ruleSet) add(n int)    { b[n/64] |= 1 << (n % 64) }
func (b ruleSet) remove(n int) { b[n/64] &^= 1 << (n % 64) }

// join adds the rules of another set.
func (b ruleSet) join(other ruleSet) {
	for i, w := range other {
		b[i] |= w
	}
}

// bytes are the set's memory.
func (b ruleSet) bytes() []byte { return unsafe.Slice((*byte)(unsafe.Pointer(&b[0])), 8*len(b)) }

// classes are the classes of one dimension: the sets of rules that differ. While they are collected their numbers are those
// of arrival; final gives each the number that depends on the sets alone.
type classes struct {
	known map[string]int
	sets  []ruleSet
}

// newClasses begins with the class of what no rule names: rest are the rules that do not ask for this dimension.
func newClasses(rest ruleSet) *classes {
	c := &classes{known: map[string]int{}}
	c.of(rest)
	return c
}

// of is the class of a set, which is copied.
func (c *classes) of(set ruleSet) int {
	if n, there := c.known[string(set.bytes())]; there {
		return n
	}
	own := slices.Clone(set)
	c.sets = append(c.sets, own)
	c.known[string(own.bytes())] = len(c.sets) - 1
	return len(c.sets) - 1
}

// final are the final numbers by those of arrival: class 0 stays, the others follow in the order of their sets.
func (c *classes) final() ([]uint16, error) {
	if len(c.sets) > MaxClasses {
		return nil, fmt.Errorf("%d classes of packets in one dimension, the most are %d: use fewer different prefixes or ports", len(c.sets), MaxClasses)
	}
	order := make([]int, 0, len(c.sets))
	for i := 1; i < len(c.sets); i++ {
		order = append(order, i)
	}
	slices.SortFunc(order, func(a, b int) int { return bytes.Compare(c.sets[a].bytes(), c.sets[b].bytes()) })
	numbers := make([]uint16, len(c.sets))
	for n, i := range order {
		numbers[i] = uint16(n + 1)
	}
	return numbers, nil
}

// vectors appends the vectors of all classes in the order of their numbers. The words from meters on are of block MaxBlocks.
func (c *classes) vectors(to []Vector, dim Dim, numbers []uint16, meters int) []Vector {
	const words = BlockBits / 64
	arrival := make([]int, len(numbers))
	for i, n := range numbers {
		arrival[n] = i
	}
	for class, i := range arrival {
		set := c.sets[i]
		for block := range MaxBlocks {
			from := block * words
			if from >= meters {
				break
			}
			to = appendVector(to, Vector{Dim: dim, Block: uint8(block), Class: uint16(class)}, set[from:min(from+words, meters)])
		}
		if meters < len(set) {
			to = appendVector(to, Vector{Dim: dim, Block: MaxBlocks, Class: uint16(class)}, set[meters:])
		}
	}
	return to
}

// appendVector appends a vector with these words, unless they are all 0.
func appendVector(to []Vector, v Vector, words ruleSet) []Vector {
	for i, w := range words {
		if w != 0 {
			v.Words[i] = w
			v.Summary |= 1 << i
		}
	}
	if v.Summary == 0 {
		return to
	}
	return append(to, v)
}
