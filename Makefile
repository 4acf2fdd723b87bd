# Entry points of the project. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEVELOPED := $(VENV)/.installed-dev

# The interpreter that makes the virtual environment: make run PYTHON=/path/to/python3.13
IS_KNOWN := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))
PYTHON ?= $(or $(wildcard $(BIN)/python),$(shell for name in python3.11 python3.12 python3.13 python3; do \
  "$$name" -c '$(IS_KNOWN)' 2>/dev/null && command -v "$$name" && break; done || command -v python3))
# The build of torch: make run TORCH=cpu takes the one without CUDA from TORCH_INDEX (infra/install.py has its default).
TORCH ?=
TORCH_INDEX ?=
# What installs: pip, uv, or auto: uv where it is there and pip has no settings that uv does not read.
INSTALLER ?= auto
INSTALL := infra/install.py --environment $(VENV) --installer $(INSTALLER) --torch "$(TORCH)" \
  $(if $(TORCH_INDEX),--torch-index "$(TORCH_INDEX)")

# Tests of one file stay in one process: they share what is slow to make. One process: make test PARALLEL=
PARALLEL := --numprocesses logical --maxprocesses 4 --dist loadfile

# The code of this folder, also if the virtual environment was copied from another one with the project.
export PYTHONPATH := $(CURDIR)/src$(if $(PYTHONPATH),:$(PYTHONPATH))

# Command-line variables reach the recipes through the environment, so that names with spaces stay whole.
export DATA PROFILE

.PHONY: FORCE help install install-dev run serve-local test test-slow test-long bench lint audit format clean distclean

help:  ## list these commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */  make \1|/' | column -t -s '|'
	@echo
	@echo '  make run DATA=folder    use a folder with interactions and items (Parquet or CSV)'
	@echo '  make run PROFILE=name   use a profile: sample (default), small, paper; see infra/profiles'
	@echo '  make run TORCH=cpu      on a machine without an NVIDIA GPU: fetch torch without CUDA'
	@echo '  make run PYTHON=path    the interpreter of the environment: Python 3.11, 3.12 or 3.13'

install: $(INSTALLED)  ## make or refresh the virtual environment from requirements.lock
	@cat $(INSTALLED)

install-dev: $(DEVELOPED)  ## also install what tests, checks and benchmarks need, from requirements-dev.lock

$(INSTALLED): requirements.lock pyproject.toml
	@if [ -z "$(PYTHON)" ]; then echo 'error: no Python found; install Python 3.11, 3.12 or 3.13, or name one: make run PYTHON=/path' >&2; exit 2; fi
	@"$(PYTHON)" -c '$(IS_KNOWN)' || { \
	  echo "error: $(PYTHON) is $$("$(PYTHON)" --version 2>&1), and only 3.11, 3.12 and 3.13 are tried (on 3.14: docs/packages.md); name one:" \
	  'make run PYTHON=/path/to/python3.11' >&2; exit 2; }
	@"$(PYTHON)" $(INSTALL) --stamp $@ requirements.lock

$(DEVELOPED): requirements-dev.lock $(INSTALLED)
	@$(BIN)/python $(INSTALL) --stamp $@ requirements-dev.lock

# A choice on the command line is looked at even if the environment is there.
ifneq ($(findstring command,$(origin PYTHON) $(origin TORCH) $(origin INSTALLER)),)
$(INSTALLED): FORCE
endif
FORCE:

run: $(INSTALLED)  ## run everything, from data to a registered model, and print a summary; every figure: make run ARGS=--verbose
	@cat $(INSTALLED)
	@# Outside a git repository (an unpacked archive), DVC needs core.no_scm; in one, it would disable `dvc metrics diff`.
	@if [ -e .git ] && command -v git >/dev/null; then \
	  ! grep -qs no_scm .dvc/config.local || $(BIN)/python -m dvc config --local --unset core.no_scm; \
	elif ! git rev-parse --git-dir >/dev/null 2>&1; then \
	  $(BIN)/python -m dvc config --local core.no_scm true; \
	fi
	@options=(); \
	[ -z "$${PROFILE:-}" ] || options+=(--profile "$$PROFILE"); \
	[ -z "$${DATA:-}" ] || options+=(--data "$$DATA"); \
	[ $${#options[@]} -eq 0 ] || $(BIN)/unigrec configure "$${options[@]}"
	@# Own names of files and columns, if they have one reading alone.
	@[ -z "$${DATA:-}" ] || [ "$$DATA" = sample ] || $(BIN)/unigrec look "$$DATA" --write
	@$(BIN)/python -m flows.retrain $(ARGS)

serve-local: $(INSTALLED)  ## run Prefect with its schedules, a worker and MLflow on 127.0.0.1 until Ctrl-C; see docs/operations.md
	@exec $(BIN)/python -m flows.services --open --worker $(ARGS)

test: $(DEVELOPED)  ## run the unit tests (some minutes); a subset: make test ARGS="-k gates"
	@$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

test-slow: $(DEVELOPED)  ## run the slow tests: whole pipelines, killed processes
	@$(BIN)/python -m pytest $(PARALLEL) -m 'slow and not gpu' $(ARGS)

test-long: $(DEVELOPED)  ## run the long tests (about an hour): dozens of kills, scheduled runs, servers that die, quick runs of benchmarks
	@$(BIN)/python -m pytest -m long $(ARGS)

bench: $(DEVELOPED)  ## measure time and memory; some parts only: make bench ARGS="data start"
	@$(BIN)/python -m benchmarks.speed $(ARGS)

lint: $(DEVELOPED)  ## run ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

audit:  ## report known vulnerabilities in the lock files, if their database can be reached
	@.ci/audit "$(PYTHON)"

format: $(DEVELOPED)  ## format the code with ruff
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:  ## remove stage outputs and tool caches; keep models, environment and the DVC cache
	@rm -rf artifacts dvc_plots build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find src flows benchmarks tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## back to a fresh clone: also remove environment, registered models and the DVC cache
	@rm -rf $(VENV) state mlflow.db* mlruns mlartifacts .dvc/cache .dvc/tmp .dvc/config.local src/*.egg-info
