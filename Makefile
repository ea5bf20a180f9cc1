# luksplug. Every target first installs its missing dependencies (scripts/setup.sh), which is quick if there are none.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := build

# The directory of a Go that was installed from its archive, which need not be in the caller's PATH.
export PATH := /usr/local/go/bin:$(PATH)
# With auto, a Go older than the version in go.mod fetches that version; Debian's default is local. A newer Go ignores it.
export GOTOOLCHAIN ?= auto
# The linker gets the version below, as git may refuse to read a tree that another user owns. All targets build with the
# flags of a release: with different flags Go would build everything again, including its library.
export GOFLAGS := $(strip $(GOFLAGS) -buildvcs=false -trimpath)

CACHE := $(or $(LUKSPLUG_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/luksplug)
GOLANGCI_VERSION := v2.15.0
# govulncheck, whose database is on the network.
GOVULNCHECK_VERSION := v1.9.0
GOLANGCI := $(CACHE)/bin/golangci-lint-$(GOLANGCI_VERSION)
# The guests are emulated, and packages share the processors.
TEST_TIMEOUT ?= 20m
LONG_TIMEOUT ?= 2h
# The time of each fuzz target, and a regular expression of their names.
FUZZ_TIME ?= 30s
FUZZ ?= .

# Goroutines share data in these packages. The race detector needs a separate build and makes the tests slower; for all
# packages that is a third of make test's time, so make test-long covers the others. They include those with the tag pkcs11:
# both need cgo, and a third build of the library would take as long as its tests.
# The first takes longest: the others run meanwhile.
CONCURRENT := ./secrets/pkcs11 ./secrets/keystore/... ./qmp/... ./internal/schemacache ./hotplug/internal/daemon ./hotplug/internal/rundir ./secrets ./secrets/age ./secrets/exec ./secrets/internal/...

# Tests without the race detector are built as the program is, which they share everything with: with cgo, Go would build all
# of it once more.
STATIC := CGO_ENABLED=0

# The packages with the slowest tests come first, so that the others run meanwhile.
SLOWEST := ./hotplug ./secrets/luks ./hotplug/volume ./hotplug/internal/check

# Tests that depend on whether /run is in memory: luksplug's files for a domain's QEMU are in it, or in /dev/shm.
RUN_TMPFS := ^Test(LibvirtContext|LibvirtHandOver|LibvirtdRestartsDuringAttach|Record|QEMUUser|MasterKeyOfLibvirt)$$

.PHONY: help setup build build-pkcs11 demo test test-run-tmpfs test-long torture fuzz bench bench-stall house house-errors house-picture lint vulncheck fmt clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

setup: ## install everything missing for build, demo and tests
	@scripts/setup.sh test

build: ## bin/luksplug
	@scripts/setup.sh build
	@# Not a make variable: those are expanded before the set-up has installed git.
	version=$$(git describe --tags --always --dirty 2>/dev/null || echo unknown); \
	CGO_ENABLED=0 go build -ldflags "-s -w -X main.version=$$version" -o bin/luksplug ./cmd/luksplug

build-pkcs11: ## bin/luksplug with the key store pkcs11:; needs a C compiler
	@scripts/setup.sh build
	@command -v $${CC:-gcc} >/dev/null || { echo "build-pkcs11: cgo needs a C compiler: install gcc and libc6-dev" >&2; exit 1; }
	version=$$(git describe --tags --always --dirty 2>/dev/null || echo unknown); \
	CGO_ENABLED=1 go build -tags pkcs11 -ldflags "-s -w -X main.version=$$version" -o bin/luksplug ./cmd/luksplug

demo: ## plug an encrypted disk into a running VM and unplug it, step by step; KEEP=1 lets the VM run
	@scripts/setup.sh demo
	@CGO_ENABLED=0 go run ./integration/demo $(if $(filter-out 0,$(KEEP)),-keep)

test: ## go vet and all tests; with the race detector where goroutines meet
	@scripts/setup.sh test
	$(STATIC) go vet ./...
	go vet -race -tags pkcs11 ./secrets/pkcs11/... ./secrets/keystore/...
	$(STATIC) go build -o bin/testlog ./scripts/testlog
	@# The integration tests come after the others, so that guests have the processors.
	{ go test -json -vet=off -race -timeout $(TEST_TIMEOUT) -tags pkcs11 $(CONCURRENT) && \
	  $(STATIC) go test -json -vet=off -timeout $(TEST_TIMEOUT) $(SLOWEST) $$(go list ./... | grep -v /integration | grep -vxF "$$(go list $(filter-out ./secrets/pkcs11 ./secrets/keystore/...,$(CONCURRENT)))") && \
	  $(STATIC) go test -json -vet=off -timeout $(TEST_TIMEOUT) ./integration/...; } | bin/testlog

test-run-tmpfs: ## some tests once more where /run is a tmpfs, as on every host with systemd; needs root
	@scripts/setup.sh test
	$(STATIC) scripts/with-tmpfs-run.sh go test -vet=off -count=1 -timeout $(TEST_TIMEOUT) -run '$(RUN_TMPFS)' ./integration

test-long: ## the same with the slow tests, and the race detector for all
	@scripts/setup.sh test
	go build -o bin/testlog ./scripts/testlog
	{ LUKSPLUG_LONG=1 go test -json -race -count=1 -timeout $(LONG_TIMEOUT) ./... && \
	  LUKSPLUG_LONG=1 go test -json -race -count=1 -timeout $(LONG_TIMEOUT) -tags pkcs11 ./secrets/pkcs11/... ./secrets/keystore/...; } | bin/testlog

torture: ## the tests named Torture: repeated faults at random steps
	@scripts/setup.sh test
	LUKSPLUG_TORTURE=1 go test -count=1 -timeout $(LONG_TIMEOUT) -run Torture -v ./...

fuzz: ## every fuzz target for FUZZ_TIME (30s), and their executions in one table; FUZZ=REGEXP selects some
	@scripts/setup.sh test
	@FUZZ_TIME='$(FUZZ_TIME)' FUZZ='$(FUZZ)' scripts/fuzz.sh

bench: ## luksplug's times compared with a bare socket's and virsh's, in one table
	@scripts/setup.sh test
	@CGO_ENABLED=0 go run ./integration/bench

bench-stall: ## how long an attach stalls a guest, into docs/performance.md; needs root
	@scripts/setup.sh test
	@CGO_ENABLED=0 go run ./integration/bench -stall -document docs/performance.md

house: ## figures on the structure of the code, see docs/development.md
	@scripts/setup.sh build
	@go run ./scripts/house

house-errors: ## write the texts of errors, after reading the new ones, see docs/errors.md
	@mkdir -p scripts/house/testdata
	@go run ./scripts/house -errors scripts/house/testdata/errors.txt

house-picture: ## draw the packages into docs/architecture.md
	@scripts/setup.sh build
	@go run ./scripts/house -picture docs/architecture.md

lint: $(GOLANGCI) ## golangci-lint
	$(GOLANGCI) run ./...

$(GOLANGCI):
	@scripts/setup.sh build
	@echo "lint: building golangci-lint $(GOLANGCI_VERSION) once; this takes two minutes"
	@mkdir -p $(@D)/new
	GOBIN=$(abspath $(@D)/new) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	@mv $(@D)/new/golangci-lint $@

vulncheck: ## govulncheck, where its database can be reached
	@scripts/setup.sh build
	@scripts/vulncheck.sh $(GOVULNCHECK_VERSION)

fmt: ## gofmt -w
	@scripts/setup.sh build
	gofmt -l -w $$(git ls-files '*.go')

clean: ## remove the build's output; the cache directory stays
	rm -rf bin
