# make run   builds and starts everything on loopback, with lines to paste
# make test  runs every test
# Both install what they need on a fresh machine and say what.
.PHONY: run build test lint bench fuzz setup

# What CI, the tests and people build is one build: other flags compile the world again.
export CGO_ENABLED ?= 0
VERSION := $(shell git describe --always --dirty 2>/dev/null || echo devel)
BUILD := go build -trimpath -buildvcs=false -ldflags "-X github.com/sallyport-dev/sallyport/internal/cli.built=$(VERSION)"

run: build
	bin/sallyport dev

build: setup
	$(BUILD) -o bin/sallyport ./cmd/sallyport

setup:
	@scripts/setup

test: build
	@scripts/test

lint: setup
	@scripts/lint

# Every benchmark beside its floor, as ratios of one run. The long log has ten million
# records and takes some minutes: SALLYPORT_BENCH_RECORDS=100000 for a short one. The
# gateway beside nginx, HAProxy and Caddy is bench/http/run, which installs them.
bench: build
	go test -run '^$$' -bench . -benchtime $${BENCHTIME:-1s} -count $${COUNT:-3} ./verifier ./internal/policy ./internal/guard ./internal/gateway/httpproxy ./internal/audit ./internal/app > bin/bench.txt && \
	SALLYPORT_BENCH_RECORDS=$${SALLYPORT_BENCH_RECORDS:-10000000} go test -run '^$$' -bench LongLog -benchtime 5x -timeout 60m ./internal/store >> bin/bench.txt && \
	SALLYPORT_BENCH_SESSIONS=$${SALLYPORT_BENCH_SESSIONS:-10000} go test -run '^$$' -bench Revocation -benchtime 1x ./cmd/sallyport >> bin/bench.txt; go run ./bench < bin/bench.txt

# Every fuzz target for a few seconds: FUZZTIME=1m make fuzz for longer.
fuzz: setup
	@scripts/fuzz
