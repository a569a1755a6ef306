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
	arrival := make([]int, len(numbers))
	for i, n := range numbers {
		arrival[n] = i
	}
	n := 0
	for _, set := range c.sets {
		eachBlock(set, meters, func(uint8, ruleSet) { n++ })
	}
	to = slices.Grow(to, n) // at once: vectors are large
	for class, i := range arrival {
		eachBlock(c.sets[i], meters, func(block uint8, words ruleSet) {
			v := Vector{Dim: dim, Block: block, Class: uint16(class)}
			for i, w := range words {
				if w != 0 {
					v.Words[i] = w
					v.Summary |= 1 << i
				}
			}
			to = append(to, v)
		})
	}
	return to
}

// eachBlock tells the blocks of a set in which there is a rule, and their words; those from meters on are of block MaxBlocks.
func eachBlock(set ruleSet, meters int, tell func(block uint8, words ruleSet)) {
	const words = BlockBits / 64
	some := func(words ruleSet) bool { return slices.ContainsFunc(words, func(w uint64) bool { return w != 0 }) }
	for from := 0; from < meters && from < MaxBlocks*words; from += words {
		if part := set[from:min(from+words, meters)]; some(part) {
			tell(uint8(from/words), part)
		}
	}
	if meters < len(set) && some(set[meters:]) {
		tell(MaxBlocks, set[meters:])
	}
}
