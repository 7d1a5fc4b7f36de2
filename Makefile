# `make help` lists the targets. PYTHON chooses the interpreter of a new .venv (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
MAKEFLAGS += --no-print-directory

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench lock clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 10

setup: $(STAMP)  ## make .venv and install everything, with checked hashes

$(STAMP): requirements.lock pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 setup" >&2; exit 2; }
	"$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(STAMP)

demo: setup  ## bring everything up, run a minute of changes, compare the shop with every sink (ARGS="--seconds 120 --keep")
	$(BIN)/downriver demo $(ARGS)

test: setup  ## lint, types, import rules, then all tests on the real servers (ARGS="-k cache" for some)
	@$(MAKE) lint
	$(BIN)/python -m pytest $(ARGS)

lint: setup  ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup  ## measure (on a quiet machine)
	$(BIN)/python -m bench $(ARGS)

lock:  ## write requirements.lock anew from pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --quiet -o requirements.lock

clean:  ## stop the local stack, remove .venv, caches and the stack's data
	@if [ -x $(BIN)/downriver ]; then $(BIN)/downriver stack reset --yes || true; fi
	rm -rf $(VENV) .downriver-bench *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
