# Two commands do everything: `make demo` and `make test`. python3, python3-venv and make are enough.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
# Bytecode is compiled at install: an uncompiled `import mlflow` takes twice as long, in every process of every flow.
INSTALL := env -u PYTHONDONTWRITEBYTECODE UV_COMPILE_BYTECODE=1 VIRTUAL_ENV=$(CURDIR)/$(VENV) $(UV) pip
LOCK := $(UV) pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --quiet \
	--custom-compile-command "make lock"
# What the images of the compose stack hold beyond requirements/run.txt
ADDED := infra/compose infra/compose/stand-ins/s3
LOCK_ADDED := $(UV) pip compile --no-deps --universal --python-version 3.11 --generate-hashes --no-annotate --quiet \
	-c requirements/dev.txt --custom-compile-command "make lock"
EXTRAS := $(addprefix --extra ,demo xgboost lightgbm postgresql s3 signing prefect-docker)

.PHONY: help demo test test-long lint style types bench base-image up down lock lock-check clean

help:  ## Lists the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

demo: $(VENV)/.run  ## Four real model versions, each to its verdict, on this machine
	@$(BIN)/shipway demo $(if $(KEEP),--keep) $(if $(TARGET),--target $(TARGET))

test: $(VENV)/.dev  ## Every test but the long ones, on real parts
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-long: $(VENV)/.dev  ## The tests of minutes each, group after group, or one of them: GROUP=kill (tests/groups.toml)
	@trap 'exit 130' INT; failed=; for group in $(or $(GROUP),$$($(BIN)/python .ci/groups.py)); do echo "→ $$group"; \
	$(BIN)/python -m pytest --group $$group $(ARGS) || failed+=" $$group"; done; \
	[ -z "$$failed" ] || { echo "failed:$$failed"; exit 1; }

lint: $(VENV)/.dev  ## ruff, mypy strict, import-linter, and whether the lock is fresh
	@$(MAKE) --no-print-directory -j2 -k -O types lock-check style

style: $(VENV)/.dev
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/lint-imports

types: $(VENV)/.dev
	@$(BIN)/mypy

bench: $(VENV)/.dev  ## Measures this machine; results under .shipway/bench
	@$(BIN)/python -m benchmarks $(ARGS)

base-image:  ## A base image for model images where none can be pulled: Debian by debootstrap; needs root
	@infra/images/base.sh

up: $(VENV)/.run  ## Starts the embedded stack
	@$(BIN)/shipway up

down: $(VENV)/.run  ## Stops it
	@$(BIN)/shipway down

$(UV): requirements/bootstrap.txt
	@echo "→ making $(VENV) with uv"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
	@touch $(UV)

$(VENV)/.run: $(UV) requirements/run.txt pyproject.toml
	@if [ -e $(VENV)/.dev ]; then touch $@; else \
	echo "→ installing what the demo needs from the lock"; \
	$(INSTALL) install --require-hashes -r requirements/run.txt; \
	$(INSTALL) install --quiet --no-deps --no-build-isolation -e .; touch $@; fi

$(VENV)/.dev: $(UV) requirements/dev.txt pyproject.toml
	@echo "→ installing what the tests need from the lock"
	@$(INSTALL) install --require-hashes -r requirements/dev.txt
	@$(INSTALL) install --quiet --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.run

lock: $(UV)  ## Renews the lock from pyproject.toml
	@$(LOCK) $(EXTRAS) --group dev --upgrade -o requirements/dev.txt
	@$(LOCK) --extra demo --group build -c requirements/dev.txt -o requirements/run.txt
	@for folder in $(ADDED); do $(LOCK_ADDED) -o $$folder/requirements.txt $$folder/extras.in; done
	@printf 'packaging\npyyaml\nuv\n' | $(UV) pip compile - --universal --python-version 3.11 --generate-hashes --quiet \
	  -c requirements/dev.txt --custom-compile-command "make lock" -o infra/images/start.txt
	@printf 'uv\n' | $(UV) pip compile - --universal --generate-hashes --quiet -c requirements/dev.txt \
	  --custom-compile-command "make lock" -o requirements/bootstrap.txt

lock-check: $(UV)
	@mkdir -p $(VENV)/lock && cp requirements/*.txt $(VENV)/lock/
	@$(LOCK) $(EXTRAS) --group dev -o $(VENV)/lock/dev.txt
	@$(LOCK) --extra demo --group build -c requirements/dev.txt -o $(VENV)/lock/run.txt
	@for folder in $(ADDED); do name=$(VENV)/lock/$${folder//\//-}.txt; cp $$folder/requirements.txt $$name; \
	  $(LOCK_ADDED) -o $$name $$folder/extras.in; \
	  diff -q <(grep -v '^ *#' $$folder/requirements.txt) <(grep -v '^ *#' $$name) >/dev/null || \
	  { echo "$$folder/requirements.txt is stale: run 'make lock' and commit it."; exit 1; }; done
	@for f in dev run; do diff -q <(grep -v '^ *#' requirements/$$f.txt) <(grep -v '^ *#' $(VENV)/lock/$$f.txt) >/dev/null || \
	  { echo "requirements/$$f.txt is stale: pyproject.toml asks for something else. Run 'make lock' and commit it."; exit 1; }; done

clean:  ## Removes the environment and all state
	@if [ -x $(BIN)/shipway ]; then $(BIN)/shipway down || true; fi
	@rm -rf $(VENV) .shipway .shipway.*
