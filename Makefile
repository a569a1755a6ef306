# weft: every target runs on a fresh Debian machine with Go, gcc, git and make; what else is needed is installed.
SHELL := /bin/bash
.DEFAULT_GOAL := build
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
GO      := go
# Packages whose tests touch the kernel: root only, part of `make test`, not of `make check`.
ROOTED  := /(agent|agent/server|cmd/weft|datapath|datapath/nic|datapath/kerneldrops|datapath/datapathtest|internal/lab|internal/lab/impair|internal/bench)$$

.PHONY: build demo test soak check bench mutants generate deps deps-generate clean

build: ## bin/weft, static
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/weft ./cmd/weft

demo: deps build ## three hosts, real guests, a live migration and a trace, on this machine
	bin/weft lab demo

test: deps build ## everything, as root; nothing is skipped
	$(GO) run ./internal/tally -count=1 -timeout 30m -p 1 ./...

SOAK ?= 10m
SEED ?= $(shell date +%s)
soak: deps ## the core against the reference model and against nftables, each for SOAK=10m, then live traces over a bad wire and live migration in its long form, as root; SEED=n repeats a run; docs/reference/proof.md, docs/migration.md
	WEFT_DIFFER=$(SOAK) WEFT_OPINION=$(SOAK) WEFT_SEED=$(SEED) $(GO) test -count=1 -timeout 0 -v -run '^TestTheCoreDecidesAsTheModel$$|^TestNftables' ./datapath
	WEFT_JOIN=1000000 $(GO) test -count=1 -timeout 0 -v -run '^TestALiveTraceJoinsWhatTheWireLoses$$' ./datapath
	WEFT_MOVES=$(SOAK) $(GO) test -count=1 -timeout 0 -v -run '^Test(Aside|PostCopy)EveryMischiefOnce$$' ./migration
	WEFT_MOVES=$(SOAK) WEFT_SEED=$(SEED) WEFT_MOVES_DOCUMENT=$(CURDIR)/docs/migration.md $(GO) test -count=1 -timeout 0 -v -run '^TestMigration$$' ./internal/lab

check: ## fast, no root: format, vet, the rules of the house, tests that need no kernel
	@unformatted=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); test -z "$$unformatted" || { echo "gofmt these: $$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	$(GO) test -timeout 10m $$($(GO) list ./... | grep -vE '$(ROOTED)')

bench: deps build ## ratios against raw veth, the Linux bridge and nftables, written to docs/benchmarks.md
	$(GO) run ./internal/bench

mutants: deps deps-generate ## faults in the C code that the differential test must notice, as root; docs/reference/mutants.md
	$(GO) run ./internal/mutants

generate: deps-generate ## BPF objects, stages and reasons, OpenAPI; leaves a clean tree clean
	$(GO) generate ./...

deps: ## what the lab and the tests run on
	@deploy/deps.sh lab

deps-generate: ## what the BPF objects are built with
	@deploy/deps.sh generate

clean:
	rm -rf bin
