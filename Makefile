# Needs make and Python 3.11 or newer; the rest goes into .venv by itself.

VENV := .venv
PYTHON := $(VENV)/bin/python
# What was installed, and for this place: an editable install does not survive a move of the tree.
STAMP := $(VENV)/.installed-$(shell pwd | cksum | cut -d' ' -f1)
IS_NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))

.DEFAULT_GOAL := help
.PHONY: help demo up test lint simulate bench clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1	\2/p' $(MAKEFILE_LIST) | expand -t 14

demo: $(STAMP) ## a balancer and three nodes do a few hundred commands, in a few seconds
	@$(PYTHON) -m evenly.demo

up: $(STAMP) ## such a cluster in the foreground until Ctrl-C; NODES=5 SLOTS=2 change it
	@$(PYTHON) -m evenly.up

test: lint ## everything: lint, then all tests
	@$(PYTHON) -m pytest

lint: $(STAMP) ## ruff and mypy
	@$(PYTHON) -m ruff check
	@$(PYTHON) -m ruff format --check
	@$(PYTHON) -m mypy

simulate: $(STAMP) ## the cluster in a simulator: RUNS=1000 for many seeds, SEED=17 to replay one
	@PYTHONHASHSEED=0 $(PYTHON) tests/simulation/simulate.py $(if $(SEED),--seed $(SEED)) $(if $(RUNS),--runs $(RUNS)) $(if $(FIRST),--first $(FIRST))

bench: $(STAMP) ## the benchmarks, as a table
	@$(PYTHON) -m benchmarks

clean: ## removes .venv, caches and builds; evenly-data, where tickets are kept, stays
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml
	@set -e; \
	if ! $(PYTHON) -c '$(IS_NEW_ENOUGH)' 2>/dev/null; then \
		for python in python3.11 python3 none; do \
			if $$python -c '$(IS_NEW_ENOUGH)' 2>/dev/null; then break; fi; \
		done; \
		if [ $$python = none ]; then \
			echo "make: Python 3.11 or newer is needed, as python3.11 or python3, and is not here" >&2; exit 1; \
		fi; \
		if ! $$python -c 'import ensurepip, venv' 2>/dev/null; then \
			echo "make: $$python has no venv module (on Debian: apt install python3-venv)" >&2; exit 1; \
		fi; \
		echo "Making $(VENV) with $$($$python --version)"; \
		$$python -m venv --clear $(VENV); \
	fi; \
	echo "Installing what pyproject.toml asks for into $(VENV)"; \
	$(PYTHON) -m pip install -qq --disable-pip-version-check --editable '.[dev]'; \
	rm -f $(VENV)/.installed-*; \
	touch $@
