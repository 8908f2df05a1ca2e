# Needs Python 3.11 or newer and a package index; everything else is installed
# into $(VENV) on first use, and again when a pyproject.toml changes.

SHELL := /bin/sh

# The first interpreter that is new enough; or say PYTHON=… yourself.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python; do \
	"$$python" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo "$$python"; break; }; done)
VENV ?= .venv
# Tests that run at the same time: twice as many as there are cores, as many of them wait.
JOBS ?= $(shell echo $$(( 2 * $$(getconf _NPROCESSORS_ONLN) )))
# Further arguments for the program that runs: make test ARGS="-k framer"
ARGS ?=

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PROJECTS := pyproject.toml plugins/tcp/pyproject.toml plugins/udp/pyproject.toml plugins/tls/pyproject.toml plugins/sctp/pyproject.toml framers/pyproject.toml neatpy/pyproject.toml

.PHONY: help install demo test bench lint format clean

help:  ## Show what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED)  ## Make the environment, everything editable

demo: $(INSTALLED)  ## A server, a client, Messages both ways, and why it went that way
	@$(BIN)/python examples/demo.py $(ARGS)

test: $(INSTALLED)  ## Run every test
	$(BIN)/python -m pytest --numprocesses $(JOBS) $(ARGS)

bench: $(INSTALLED)  ## Measure against asyncio by hand; prints ratios, writes JSON
	$(BIN)/python -m benchmarks --json benchmarks/results/bench.json $(ARGS)

lint: $(INSTALLED)  ## Style, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)  ## Bring the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Remove the environment and what was built
	rm -rf $(VENV) build dist *.egg-info plugins/*/build plugins/*/*.egg-info \
		framers/build framers/*.egg-info neatpy/build neatpy/*.egg-info

$(INSTALLED): $(PROJECTS)
	@test -n "$(PYTHON)" || { echo "taps needs Python 3.11 or newer; say where it is: make PYTHON=…" >&2; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --upgrade "pip>=25.1" "setuptools>=77"
	@# What builds is there: pip would install it again for each of the projects.
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-build-isolation --group dev \
		--editable ".[cli,testing]" $(addprefix --editable ./,plugins/tcp plugins/udp plugins/tls plugins/sctp[udp] framers neatpy)
	@touch $@
