SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

# The version and the commit come from git: go build records them in the binary.
GOBUILD := CGO_ENABLED=0 go build -buildvcs=auto -trimpath -ldflags '-s -w'

# What the tests drive from outside.
PACKAGES := docker.io docker-registry skopeo podman buildah mmdebstrap busybox-static \
	libarchive-tools erofs-utils e2fsprogs xfsprogs attr libcap2-bin uidmap xz-utils zstd bzip2 \
	tmux python3 git openssh-client gpg gcc libc6-dev ca-certificates \
	chromium runc crun passt slirp4netns nftables iproute2 postgresql

# What npm writes last when it has installed azurite.
AZURITE := bin/azurite/node_modules/.package-lock.json

# Tests whose name says that they are about concurrency.
CONCURRENT := Concurrent|Parallel|Process|Race|Kill|^TestDir$$|^TestMem$$|Conformance
FUZZTIME ?= 30s
TIMEOUT ?= 45m

# The packages with a test file that matches a pattern, as ./internal/...
testing = $(shell grep -rlE --include='*_test.go' '$(1)' internal cmd tools | xargs -r -n1 dirname | sort -u | sed 's,^,./,')

.PHONY: help quickstart build programs runtime packages test test-user test-vm race lint generate fuzz bench bench-hub golden docs check soak conformance clean

help: ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

quickstart: programs ## Build, make a base image, build, run, push, pull and run examples/hello
	@examples/quickstart.sh

build: programs bin/strake-policy ## Build static bin/strake, bin/strake-bake, bin/strake-policy and bin/strake-hub (and bin/runc where no runtime is in PATH)

programs: runtime # A copy starts 15 % faster than the file that the linker wrote, a page of the cache at a time: as an installed program does
	@for name in strake strake-bake strake-hub; do \
		$(GOBUILD) -o bin/$$name ./cmd/$$name; cp bin/$$name bin/$$name.copy; mv bin/$$name.copy bin/$$name; \
	done

bin/strake-policy: $(wildcard cmd/strake-policy/*) $(wildcard internal/sourcepolicy/*.go) # A module of its own, of a hundred others
	@cd cmd/strake-policy && $(GOBUILD) -o ../../$@ .
	@touch $@

runtime: # An OCI runtime: the system's, or one that is built from the pinned version
	@command -v runc >/dev/null || command -v crun >/dev/null || [ -x bin/runc ] || tools/runc/build bin/runc

packages: # What the tests need of Debian
	@tools/install-packages $(PACKAGES)

test: packages build bin/versitygw $(AZURITE) ## Run every test; the last line counts them, an unexcused skip fails
	@go vet ./...
	@go build -o bin/testsum ./tools/testsum
	@go test -json -timeout $(TIMEOUT) ./... | bin/testsum tools/testsum/excuses.txt

# The packages that userns is a part of: what they do depends on how many ids a user has.
knowing_ids = $(shell go list -f '{{.ImportPath}} {{join .Deps " "}}' ./... | grep -w strake/internal/userns | cut -d ' ' -f 1)
AS_USER := nice go test -p 1 -count=1 -json -timeout $(TIMEOUT) -exec $(CURDIR)/tools/as-user

test-user: packages build bin/versitygw $(AZURITE) ## Run every test as an ordinary user with subordinate ids, and with none what ids matter to
	@go build -o bin/testsum ./tools/testsum
	@{ IDS=many $(AS_USER) ./... || true; IDS=one $(AS_USER) $(knowing_ids) || true; } | bin/testsum tools/testsum/user.txt

test-vm: ## Run the scripts of containers in a virtual machine with cgroups of version 2 alone (SCRIPTS=..., VM_ACCEL=tcg)
	@tools/vm/test $(SCRIPTS)

race: packages bin/versitygw $(AZURITE) ## Run the concurrency tests with the race detector
	@CGO_ENABLED=1 go test -race -timeout $(TIMEOUT) -run '$(CONCURRENT)' ./...

soak: packages build bin/versitygw $(AZURITE) ## Run the concurrency and crash tests for long (STRAKE_SOAK=1)
	@STRAKE_SOAK=1 go test -count=1 -timeout 3h -run '$(CONCURRENT)|PowerLoss|Damaged|Crowd' ./...

conformance: packages bin/buildkitd bin/buildx bin/versitygw $(AZURITE) bin/clients/helm ## Run the suites that every implementation must pass, and BuildKit against its recorded results
	@STRAKE_BUILDKIT=$(CURDIR)/bin go test -count=1 -timeout 2h -v -run '^TestRealWorld$$' ./internal/conformance
	@STRAKE_BUILDKIT=$(CURDIR)/bin go test -count=1 -timeout 2h $(call testing,"strake/internal/conformance")
	@STRAKE_CLIENTS=$(CURDIR)/bin/clients go test -count=1 -run '^TestBuiltClients$$' -v ./cmd/strake-hub
	@STRAKE_BUILDX=$(CURDIR)/bin/buildx go test -count=1 -run '^TestBuildxPrints$$' -v ./cmd/strake-bake
	@cd cmd/strake-policy && go test -count=1 -v ./...

lint: bin/golangci-lint ## Check style with the pinned golangci-lint
	@bin/golangci-lint run ./...
	@cd cmd/strake-policy && ../../bin/golangci-lint run ./...

bin/golangci-lint: tools/lint/go.mod
	@cd tools/lint && go build -trimpath -ldflags '-s -w' -o ../../$@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	@touch $@

bin/buildkitd: tools/buildkit/go.mod
	@cd tools/buildkit && CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o ../../bin/ \
		github.com/moby/buildkit/cmd/buildkitd github.com/moby/buildkit/cmd/buildctl
	@touch $@

bin/buildx: tools/buildx/go.mod # What bake files are, by Docker's own program
	@cd tools/buildx && CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o ../../$@ github.com/docker/buildx/cmd/buildx
	@touch $@

bin/versitygw: tools/versitygw/go.mod # An S3 server, for tests
	@cd tools/versitygw && CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o ../../$@ github.com/versity/versitygw/cmd/versitygw
	@touch $@

$(AZURITE): tools/azurite/package-lock.json # A server of Azure's blob storage, for tests, where there is npm
	@if command -v npm >/dev/null; then \
		mkdir -p bin/azurite && cp tools/azurite/package.json tools/azurite/package-lock.json bin/azurite && \
		cd bin/azurite && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null && touch ../../$@; \
	fi

generate: bin/templ ## Write the Go of the Hub's pages (internal/web/*.templ) again
	@bin/templ generate -log-level error -path internal/web

bin/templ: tools/templ/go.mod
	@cd tools/templ && go build -trimpath -ldflags '-s -w' -o ../../$@ github.com/a-h/templ/cmd/templ
	@touch $@

bin/clients/helm: tools/clients/go.mod tools/helm/go.mod # Clients of registries: crane, oras, regctl, helm
	@cd tools/clients && CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o ../../bin/clients/ \
		github.com/google/go-containerregistry/cmd/crane github.com/regclient/regclient/cmd/regctl oras.land/oras/cmd/oras
	@cd tools/helm && CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o ../../$@ helm.sh/helm/v3/cmd/helm
	@touch $@

fuzz: ## Fuzz each target for FUZZTIME (30s)
	@grep -rHoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' internal | while IFS=: read -r file func; do \
		go test -run '^$$' -fuzz "^$${func#func }$$" -fuzztime $(FUZZTIME) "./$$(dirname "$$file")" </dev/null; \
	done

bench: packages build bin/buildkitd ## Measure against the peers and write docs/benchmarks.md
	@go run ./bench

bench-hub: packages build ## Measure strake-hub against other registries and write docs/benchmarks-hub.md
	@go run ./bench/hub

golden: ## Write the golden files again
	@for dir in $(call testing,flag.Bool."update"); do go test "$$dir" -update; done

docs: build ## Write docs/cli and docs/man from what --help says
	@go run ./tools/gendocs docs bin/strake bin/strake-hub

check: generate lint test race docs ## All that a change must pass before review
	@git diff --exit-code -- docs/cli docs/man internal/web

clean: ## Remove what was built
	@rm -rf bin build
