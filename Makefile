# One command each; bare `make` lists them. Everything runs from .venv, which the first command makes.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help setup parts parts-optional demo demo-once test test-slow leaks check fuzz bench bench-clean bench-collector bench-delivery bench-gates bench-kill bench-rollback bench-watch soak up docs lock
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
STAMP := .venv/.made
# Two workers: the machine that CI has; PYTEST_ARGS adds to any test command.
WORKERS ?= 2

help:
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s  %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv and install everything into it (the other commands do it by themselves)

$(STAMP): pyproject.toml requirements/ci.txt scripts/setup scripts/make_venv.py
	@scripts/setup
	@touch $(STAMP)

parts: $(STAMP)
	@$(BIN)/python scripts/ensure_parts.py --for demo

parts-optional: $(STAMP)
	@$(BIN)/python scripts/ensure_parts.py --for tests --optional

demo: parts ## bring the whole stack up with traffic and a live status; Ctrl-C leaves nothing behind
	@exec $(BIN)/isomon demo up

demo-once: parts ## the same stack as a scripted story: six faults proven, paged and gated (under 4 minutes)
	@exec $(BIN)/isomon demo once

test: parts-optional ## the tests, real parts included (about half an hour on two cores)
	@$(BIN)/python -m pytest -m "not slow" -n $(WORKERS) $(PYTEST_ARGS)

test-slow: parts-optional ## kill loops, simulations and the whole story (about half an hour)
	@$(BIN)/python -m pytest -m slow -n $(WORKERS) $(PYTEST_ARGS)

fuzz: $(STAMP) ## every decoder under coverage-guided fuzzing, a minute each (FUZZ_ARGS='records --seconds 600')
	@$(BIN)/python -m tests.fuzz $(FUZZ_ARGS)

leaks: parts-optional ## the collection of real bugs and their fixed twins: a scoreboard, and build/leaks.json
	@$(BIN)/python -m tests.leaks.scoreboard --json build/leaks.json $(LEAKS_ARGS)

check: parts-optional ## format, lint, types, import contracts, alert rules, generated files
	@scripts/check

bench: $(STAMP) ## benchmarks: tables, and build/bench/*.json
	@$(BIN)/python -m pip install -q --constraint requirements/ci.txt -e '.[bench]'
	@$(BIN)/python -m bench $(BENCH_ARGS)

bench-clean: $(STAMP) ## a million clean requests and not one false alarm (about half an hour); build/bench/clean.json
	@$(BIN)/python -m pip install -q --constraint requirements/ci.txt -e '.[bench]'
	@$(BIN)/python -m bench.clean $(BENCH_ARGS)

bench-delivery: $(STAMP) ## every event of a thousand sockets accounted for, through cuts and a kill -9; build/bench/delivery.json
	@$(BIN)/python -m pip install -q --constraint requirements/ci.txt -e '.[bench]'
	@$(BIN)/python -m bench.delivery $(BENCH_ARGS)

bench-rollback: $(STAMP) ## from the harm to the flag that is off and to the page, on real parts; build/bench/rollback.json
	@$(BIN)/python -m bench.rollback $(BENCH_ARGS)

bench-collector: $(STAMP) ## durable records a second, how long senders wait, memory at ten times the rate; build/bench/collector.json
	@$(BIN)/python -m bench.collector $(BENCH_ARGS)

bench-kill: $(STAMP) ## collector, PostgreSQL and applications killed 210 times under a million records: nothing acknowledged is lost
	@$(BIN)/python -m bench.kill $(BENCH_ARGS)

bench-gates: $(STAMP) ## how often gates err and how fast they find harm, in thousands of rollouts; build/bench/gates.json
	@$(BIN)/python -m pip install -q --constraint requirements/ci.txt -e '.[bench]'
	@$(BIN)/python -m bench.gates $(BENCH_ARGS)

bench-watch: $(STAMP) ## containers, CI, start-up and clean-up watched, every condition notified; build/bench/watch.json
	@$(BIN)/python -m bench.watch $(BENCH_ARGS)

soak: $(STAMP) ## ten minutes of users, rude users and faults (SOAK_ARGS='--minutes 1440': a day); build/bench/soak.json
	@$(BIN)/python -m pip install -q --constraint requirements/ci.txt -e '.[bench]'
	@$(BIN)/python -m bench.soak $(SOAK_ARGS)

up: ## the stack in containers: makes the missing secrets, then docker compose -f docker-compose.monitoring.yml up
	@python3 deploy/make-secrets.py
	docker compose -f docker-compose.monitoring.yml up --build

docs: $(STAMP)
	@$(BIN)/python scripts/build_docs.py
	@$(BIN)/python scripts/build_kubernetes.py

lock: $(STAMP)
	@$(BIN)/python scripts/lock.py
