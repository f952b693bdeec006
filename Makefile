# make demo   installs, then runs the main job with no server and no key
# make test   installs, then runs the tests (Redis and RabbitMQ ones only where those listen on their usual ports)
# make check  format, lint, types, import fences
# make bench  measures the pipeline beside its parts; takes minutes
# make clean  removes what the above made

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help demo test check bench clean

help:
	@sed -n 's/^# //p' Makefile

demo: $(VENV)/installed
	@$(BIN)/python examples/demo.py

test: $(VENV)/installed
	@$(BIN)/python -m pytest -n auto --dist loadgroup

check: $(VENV)/installed
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

bench: $(VENV)/installed
	@$(BIN)/python bench/pacing.py
	@$(BIN)/python bench/pipeline.py

clean:
	rm -rf $(VENV) .tokenferry .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with: make PYTHON=python3.11")'
	@echo "installing into $(VENV) (once; a minute)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install -c constraints.txt hatchling editables
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@
