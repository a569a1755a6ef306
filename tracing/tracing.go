// Package tracing says where a packet went and why: it names the stages of a packet's way and the reasons for a drop,
// labels frames so that several hosts recognise the same one, and assembles what the hosts saw into one path.
package tracing

//go:generate go run ../internal/gen/stages -in stages.yaml -go stages_gen.go -c ../datapath/bpf/stages.h -doc ../docs/reference/reasons.md
