# Needs make and Python 3.11 or newer; the rest goes into .venv by itself.

VENV := .venv
PYTHON := $(VENV)/bin/python
# What was installed, and for this place: an editable install does not survive a move of the tree.
STAMP := $(VENV)/.installed-$(shell pwd | cksum | cut -d' ' -f1)
IS_NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))

.DEFAULT_GOAL := help
.PHONY: help demo up test lint simulate bench bench-quick bench-peers clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1	\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: $(STAMP) ## a balancer and three nodes do a few hundred commands, in a few seconds
	@$(PYTHON) -m evenly.demo

up: $(STAMP) ## such a cluster in the foreground until Ctrl-C; NODES=5 SLOTS=2 change it
	@$(PYTHON) -m evenly.up

test: lint ## everything: lint, then all tests
	@$(PYTHON) -m pytest -n 2 --dist loadgroup

lint: $(STAMP) ## ruff and mypy
	@$(PYTHON) -m ruff check
	@$(PYTHON) -m ruff format --check
	@$(PYTHON) -m mypy

simulate: $(STAMP) ## the cluster in a simulator: RUNS=1000 for many seeds, SEED=17 to replay one
	@PYTHONHASHSEED=0 $(PYTHON) tests/simulation/simulate.py $(if $(SEED),--seed $(SEED)) $(if $(RUNS),--runs $(RUNS)) $(if $(FIRST),--first $(FIRST))

bench: $(STAMP) ## all benchmarks as a table, in some ten minutes; as JSON and a plot in .bench
	@$(PYTHON) -m benchmarks --peers --json .bench/figures.json

bench-quick: $(STAMP) ## the same with fewer jobs, in under a minute; warns of what became slower
	@$(PYTHON) -m benchmarks --quick

bench-peers: $(STAMP) ## installs the other systems that make bench measures too, into .bench-peers
	@$(PYTHON) -m benchmarks.peers

clean: ## removes .venv, caches and builds; evenly-data, where tickets are kept, stays
	rm -rf $(VENV) .bench .bench-peers build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
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
