package datapath

//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -cflags "-O2 -g -mcpu=v3 -Wall -Werror -I/usr/include/x86_64-linux-gnu" -type hop -type flow -type flow_key -type logged -type bucket -type clause -type record -type session -type pick -type session_stats core bpf/weft.c
