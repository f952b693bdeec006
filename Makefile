# make demo   installs, then runs the main job with no server and no key
# make test   installs, then runs the tests; needs no server
# make test-all   the same, on Redis and RabbitMQ too: TOKENFERRY_TEST_REDIS_URL and TOKENFERRY_TEST_AMQP_URL name them
# make test-brokers  conformance, crashes and demo on RabbitMQ 4.0, Redis 8.0 and Valkey 8.1; needs root and debootstrap
# make campaigns  the long tests: small fault campaigns and repetitions; the large ones are `make faults` and `make faults-mutations`
# make check  format, lint, types (also of examples and of each Python block in the pages), import fences, docstrings
# make fields  what the pinned SDK's types know and we do not: after an update of stripe; WRITE=1 renews the emulator's tables
# make bench  what a token costs beside other stacks, half an hour: ONLY=pipeline,latency ROUNDS=5 REQUESTS=500 JSON=FILE;
#             ONLY=protections: what each protection costs, a minute;
#             with BASE=COMMIT beside that version of this project instead (docs/performance.md)
# make bench-smoke  a minute of it, which fails where something cannot be measured
# make faults the fault campaign: REQUESTS=20000 SEED=1 BROKER=all, `--only` and more in ARGS; takes minutes
# make faults-mutations  proves that the campaign's checker notices broken workers: SEED=1 BROKER=all, some alone in ONLY
# make outages the endpoint is away for a minute: ROWS=2000 SECONDS=60 SEED=1 BROKER=all, some kinds alone in ONLY; takes minutes
# make bench-onboarding  200 whole accounts at the endpoint's own latencies; two minutes
# make upgrade  the version before and this one together under load, and the way back: BASE=COMMIT; on RabbitMQ too where
#             TOKENFERRY_TEST_AMQP_URL names it
# make clean  removes what the above made

PYTHON ?= python3
# Many tests wait for brokers, leases and rates: more of them at once than there are cores.
TESTERS ?= $(shell $(PYTHON) -c 'import os; print(max(6, os.cpu_count() or 1))')
# Which tests, by their marks (pyproject.toml).
TESTS ?= not foreign and not campaign
# Compiled once, not in each of the many processes of a test run.
export PYTHONDONTWRITEBYTECODE :=
VENV := .venv
BIN := $(VENV)/bin
BENCH := .venv-bench
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-brokers campaigns check fields bench bench-smoke bench-onboarding faults faults-mutations outages upgrade clean

help:
	@sed -n 's/^# //p' Makefile

demo: $(VENV)/installed
	@$(BIN)/python examples/demo.py

test: $(VENV)/installed
	@$(BIN)/python tests/cpu.py $(BIN)/python -m pytest -n $(TESTERS) --dist worksteal -m '$(TESTS)'

test-all:
	@$(MAKE) --no-print-directory test TESTS='not campaign'

test-brokers: $(VENV)/installed
	@tools/newer_brokers

campaigns:
	@$(MAKE) --no-print-directory test TESTS='campaign'

check: $(VENV)/installed
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/python tools/typed.py
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python -m pytest --doctest-modules producers worker emulator

fields: $(VENV)/installed
	@$(BIN)/python tools/fields.py $(if $(WRITE),--write)

ifeq ($(ONLY),protections)
bench: $(VENV)/installed
	@$(BIN)/python -m bench.protections
else
bench: $(VENV)/installed $(BENCH)/installed
	@$(BIN)/python -m bench $(if $(ONLY),--only $(ONLY)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
	  $(if $(REQUESTS),--requests $(REQUESTS)) $(if $(BASE),--base $(BASE)) $(if $(JSON),--json $(JSON))
endif

bench-smoke: $(VENV)/installed $(BENCH)/installed
	@$(BIN)/python -m bench --only pipeline --rounds 1 --requests 50

bench-onboarding: $(VENV)/installed
	@$(BIN)/python -m bench.onboarding

faults: $(VENV)/installed
	@PYTHONPATH=tests $(BIN)/python -m faults.campaign --requests $(or $(REQUESTS),20000) --seed $(or $(SEED),1) \
	  --broker $(or $(BROKER),all) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SIZE),--size $(SIZE)) $(if $(ONLY),--only $(ONLY)) $(ARGS)

faults-mutations: $(VENV)/installed
	@PYTHONPATH=tests $(BIN)/python -m faults.campaign --seed $(or $(SEED),1) --broker $(or $(BROKER),all) $(ARGS) --mutations $(ONLY)

outages: $(VENV)/installed
	@PYTHONPATH=tests $(BIN)/python -m faults.campaign --seed $(or $(SEED),1) --broker $(or $(BROKER),all) --rows $(or $(ROWS),2000) \
	  --seconds $(or $(SECONDS),60) $(ARGS) --outages $(ONLY)

upgrade: $(VENV)/installed
	@BASE=$(BASE) $(BIN)/python -m pytest -q tests/e2e/test_e2e_upgrade.py

clean:
	rm -rf $(VENV) $(BENCH) .tokenferry .faults .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with: make PYTHON=python3.11")'
	@echo "installing into $(VENV) (once; a minute)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install -c constraints.txt hatchling editables
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@

$(BENCH)/installed: bench/requirements.txt constraints.txt
	@echo "installing into $(BENCH) (once; a minute)"
	@$(PYTHON) -m venv $(BENCH)
	@$(BENCH)/bin/python -m pip --disable-pip-version-check --quiet install -c constraints.txt -r bench/requirements.txt
	@touch $@
