# Outflow. "make help" lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# devstack is a module of its own; a workspace file would mix their requirements.
export GOWORK := off

BIN := bin
# As the Dockerfile builds them, so that what is tested is what is shipped.
STATIC := CGO_ENABLED=0 go build -trimpath
# Pinned: a lint result must not change by itself.
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.7.0
WORKFLOWCHECK := go.temporal.io/sdk/contrib/tools/workflowcheck@v0.6.0

help: ## list the targets
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

build: ## build every program into bin/ (the first time takes some minutes: Temporal's server is among them)
	@mkdir -p $(BIN)
	@test -e $(BIN)/devstack || echo "The first build takes some minutes: Temporal's server is compiled into $(BIN)/devstack."
	$(STATIC) -o $(BIN)/outflow ./cmd/outflow
	$(STATIC) -o $(BIN)/outflow-starter ./starter
	$(STATIC) -o $(BIN)/outflow-worker ./worker
	$(STATIC) -o $(BIN)/signup ./examples/signup
	$(STATIC) -o $(BIN)/demo ./examples/signup/demo
	cd devstack && go build -o ../$(BIN)/devstack .

dev: build ## start Postgres, Temporal with its Web UI, an SQS endpoint and Outflow, for messages of your own; until Ctrl-C; RABBITMQ=1 starts RabbitMQ too
	$(BIN)/devstack run $(if $(RABBITMQ),--rabbitmq) --data .devstack/data --env-file .devstack/env \
	  --queue user-registered --queue welcome-email -- $(BIN)/demo -own .devstack/env

demo: build ## start everything and deliver real sign-ups; ONCE=1 ends by itself
	$(BIN)/devstack run -- $(BIN)/demo $(if $(ONCE),-once)

test: build ## run every test against the real parts
	$(BIN)/devstack run --rabbitmq=if-installed -- $(MAKE) --no-print-directory test-root
	cd devstack && go test -count=1 -timeout 20m ./...
	cd bench && go test -count=1 ./...
	@$(BIN)/devstack missing

# Run by "make test", inside a devstack.
test-root:
	CI=$${CI:-true} go test -race -shuffle=on -count=1 -timeout 20m ./...
	cd examples/recipes && CI=$${CI:-true} go test -race -count=1 ./...
	cd examples/publisher && CI=$${CI:-true} go test -race -count=1 ./...

lint: ## gofmt, vet, staticcheck, workflowcheck, the module files
	@test -z "$$(gofmt -l . | tee /dev/stderr)" || { echo "gofmt: run gofmt -w on the files above"; exit 1; }
	go vet ./...
	cd devstack && go vet ./...
	cd examples/recipes && go vet ./...
	cd examples/publisher && go vet ./...
	cd bench && go vet ./...
	go run $(STATICCHECK) ./...
	go run $(WORKFLOWCHECK) ./workflows
	go mod tidy -diff
	cd devstack && go mod tidy -diff
	cd examples/recipes && go mod tidy -diff
	cd examples/publisher && go mod tidy -diff
	cd bench && go mod tidy -diff

conformance: ## print which publisher passes which case of the conformance suite
	@mkdir -p $(BIN)
	cd devstack && go build -o ../$(BIN)/devstack .
	@$(BIN)/devstack run --rabbitmq=if-installed -- go test -json -count=1 -run TestConformance ./publish/... | \
	  go run ./publish/publishtest/conformance
	@$(BIN)/devstack missing

bench: ## measure Outflow beside River, DBOS, Watermill and plain workflows (twenty minutes)
	cd bench && go build -o ../$(BIN)/bench .
	$(BIN)/bench

soak: ## pass five million messages through the table; fails if claims get dearer (ten minutes and more)
	cd bench && go build -o ../$(BIN)/soak ./soak
	$(BIN)/soak

VERSION ?= unreleased
HISTORIES := workflows/testdata/$(VERSION)

MINUTES ?= 10
chaos: build ## break everything under load; MINUTES=10, SEED, ONLY=random|isolation|hosts|poison|outage|signup|callback|receivers|order|stream|rabbitmq|one fault, KILLS=30, KEEP=1
	cd devstack && go build -o ../$(BIN)/chaos ./chaos
	$(BIN)/chaos -programs $(BIN) -minutes $(MINUTES) $(if $(SEED),-seed $(SEED)) $(if $(ONLY),-only $(ONLY)) $(if $(KILLS),-kills $(KILLS)) $(if $(KEEP),-keep)

histories: build ## record workflow histories on a real server, for the replay test; VERSION=v1.2.3 at a release
	@test "$(VERSION)" = unreleased || test ! -e $(HISTORIES) || { echo "$(HISTORIES) exists: the histories of a release are never recorded again"; exit 1; }
	@mkdir -p $(HISTORIES)
	OUTFLOW_RECORD_HISTORIES=$(CURDIR)/$(HISTORIES) CI=true $(BIN)/devstack run -- go test -count=1 ./internal/service
	go test -count=1 -run TestReplay ./workflows

screenshots: ## take the pictures in docs/img, and check their text (needs Debian's chromium and prometheus)
	cd devstack && go run ./screenshots -out ../docs/img

clean: ## remove what the other targets made
	rm -rf $(BIN) .devstack

.PHONY: help build dev demo test test-root lint conformance bench soak chaos histories screenshots clean
