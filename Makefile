# Everything a contributor runs. Tools are built once into .cache/tools, keyed
# by version; nothing here needs more than Go, and e2e also python3 and npm.

GO       ?= go
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
TOOLS    := $(CURDIR)/.cache/tools
LDFLAGS  := -s -w -X github.com/quarry-db/quarry/cmd.version=$(VERSION)

GOLANGCI := $(TOOLS)/golangci-lint-2.15.0/golangci-lint
BUF      := $(TOOLS)/buf-1.70.0/buf
GENGO    := $(TOOLS)/protoc-gen-go-1.36.12/protoc-gen-go
GENGRPC  := $(TOOLS)/protoc-gen-go-grpc-1.6.2/protoc-gen-go-grpc

.PHONY: build test race e2e soak reliability demo proto lint fuzz-short bench bench-peers clean help

help: ## what there is
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

build: ## the one binary, ./quarry
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "$(LDFLAGS)" -o quarry .

test: ## vet and every unit test, on the fixtures in the tree
	$(GO) vet ./...
	$(GO) test ./...

race: ## the tests under the race detector
	$(GO) test -race ./...

e2e: build ## real binaries, real object stores, real SlateDB processes
	$(GO) test -tags e2e -count=1 -p 1 -timeout 60m ./e2e/...
	cd e2e/benchpeers && $(GO) test -v ./... # says aloud what it skips, and why

soak: build ## the long versions of the tests
	QUARRY_SOAK=1 $(GO) test -tags e2e -count=1 -p 1 -timeout 120m ./e2e/... ./agent/... ./hub/...

reliability: ## the reliability tests T1-T29 with their seeds and numbers
	./scripts/reliability

demo: build ## hub and three regions on local folders
	./quarry demo

proto: $(BUF) $(GENGO) $(GENGRPC) ## generate proto/quarry/v1/*.pb.go
	cd proto && PATH=$(dir $(GENGO)):$(dir $(GENGRPC)):$$PATH $(BUF) lint && PATH=$(dir $(GENGO)):$(dir $(GENGRPC)):$$PATH $(BUF) generate

lint: $(GOLANGCI) ## golangci-lint
	$(GOLANGCI) run ./...

fuzz-short: ## every decoder's fuzz target, five minutes in all
	./scripts/fuzz-short 300

bench: ## the benchmarks; see docs/reading.md
	./scripts/bench

bench-peers: ## the same work on PostgreSQL, Redis and a CRD, in one run
	./scripts/bench-peers $(ARGS)

$(GOLANGCI):
	GOBIN=$(dir $@) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
$(BUF):
	GOBIN=$(dir $@) $(GO) install github.com/bufbuild/buf/cmd/buf@v1.70.0
$(GENGO):
	GOBIN=$(dir $@) $(GO) install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
$(GENGRPC):
	GOBIN=$(dir $@) $(GO) install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2

clean: ## the binary and the demo's data; tools stay
	rm -rf quarry quarry-data
