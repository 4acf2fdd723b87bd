# The front door. `make help` lists what there is.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# The interpreter that makes the virtual environment: make run PYTHON=/path/to/python3.12
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3,$(shell command -v $(name))))

# Command-line variables reach the recipes through the environment, so that names with spaces stay whole.
export DATA PROFILE

.PHONY: help install run serve-local test test-slow test-long bench lint audit format clean distclean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */  make \1|/' | column -t -s '|'
	@echo
	@echo '  make run DATA=folder    the same on a folder with interactions and items (Parquet or CSV)'
	@echo '  make run PROFILE=name   sample (default), small, paper: see infra/profiles'

install: $(INSTALLED)  ## make or refresh the virtual environment from requirements.lock

$(INSTALLED): requirements.lock pyproject.toml
	@if [ -z "$(PYTHON)" ]; then echo 'error: no Python found; install Python 3.11, or name one: make run PYTHON=/path' >&2; exit 2; fi
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || { \
	  echo 'error: $(PYTHON) is not Python 3.11 or 3.12; name one: make run PYTHON=/path/to/python3.11' >&2; exit 2; }
	@[ -x $(BIN)/python ] || "$(PYTHON)" -m venv $(VENV)
	@echo 'Installing the pinned packages into $(VENV) (a few minutes the first time)'
	@# torch first and alone: a looser requirement of another package would pull a different build.
	@$(BIN)/python -m pip install --quiet "$$(grep -E '^torch==' requirements.lock)"
	@$(BIN)/python -m pip install --quiet --requirement requirements.lock
	@$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

run: $(INSTALLED)  ## the whole job: data to registered model, with a closing table
	@# Outside a git repository (an unpacked archive) DVC must be told that there is none.
	@git rev-parse --git-dir >/dev/null 2>&1 || PATH="$(CURDIR)/$(BIN):$$PATH" dvc config --local core.no_scm true
	@options=(); \
	[ -z "$${PROFILE:-}" ] || options+=(--profile "$$PROFILE"); \
	[ -z "$${DATA:-}" ] || options+=(--data "$$DATA"); \
	[ $${#options[@]} -eq 0 ] || $(BIN)/unigrec configure "$${options[@]}"
	@$(BIN)/python -m flows.retrain

serve-local: $(INSTALLED)  ## Prefect with its schedules, a worker and MLflow on 127.0.0.1, until Ctrl-C: docs/operations.md
	@exec $(BIN)/python -m flows.services --open --worker $(ARGS)

test: $(INSTALLED)  ## unit tests (under a minute or two); more: make test ARGS="-k gates"
	@$(BIN)/python -m pytest $(ARGS)

test-slow: $(INSTALLED)  ## whole pipelines, killed processes
	@$(BIN)/python -m pytest -m 'slow and not gpu' $(ARGS)

test-long: $(INSTALLED)  ## dozens of kills, scheduled runs, servers that die: about an hour
	@$(BIN)/python -m pytest -m long $(ARGS)

bench: $(INSTALLED)  ## what the work costs, in time and memory; a part of it: make bench ARGS="data start"
	@$(BIN)/python -m benchmarks.speed $(ARGS)

lint: $(INSTALLED)  ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

audit:  ## known vulnerabilities in requirements.lock, where their database can be reached
	@.ci/audit "$(PYTHON)"

format: $(INSTALLED)  ## rewrite the code in the house format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:  ## remove stage outputs and tool caches; keeps models, environment and the DVC cache
	@rm -rf artifacts dvc_plots build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find src flows benchmarks tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## as on a fresh clone: also removes environment, registered models and the DVC cache
	@rm -rf $(VENV) state mlflow.db* mlruns mlartifacts .dvc/cache .dvc/tmp .dvc/config.local src/*.egg-info
