# One plain command a target. `make demo` shows Rapini at work, `make test` tests it, `make check` is all that must be
# green. Needs make, Python 3.11+ with venv (Debian: make python3-venv), and pip's way to a package index.
#
#   make PYTHON=python3.12 test     another interpreter (after `make clean`)
#   make VENV=/elsewhere test       another place for the environment

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
HOSTILE := tests/unit/secure/test_hostile_streams.py tests/unit/secure/test_envelope.py tests/unit/codec \
	tests/unit/session/test_messages.py tests/unit/session/test_joined.py tests/unit/apps/sensor
LOCKS := requirements.lock requirements-build.lock requirements-dev.lock
# What the type checker and the linter read; a folder that does not exist yet is left out.
SOURCES := src tests $(wildcard tools examples)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check soak simulate format lint types contracts licences deep fuzz bench docs lock venv wheel clean

help: ## This list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 12

demo: $(VENV)/.package ## The story in under a minute: sensors, manager, logger, and two kills
	$(BIN)/rapini demo

test: $(VENV)/.dev ## All tests but the soaks (under 15 minutes on two cores)
	$(BIN)/python -m pytest -q -m "not soak" $(ARGS)

check: lint types contracts licences test ## Everything that must be green

soak: $(VENV)/.dev ## The tests that take minutes or more
	$(BIN)/python -m pytest -q -m soak --timeout=7200 $(ARGS)

# make simulate SEED=4711 VERBOSE=1   one seed with its whole trace; make simulate SEEDS=100000   that many
simulate: $(VENV)/.package ## Seeded failures of a whole cluster in virtual time (SEED=, SEEDS=, FIRST=, VERBOSE=1)
	$(BIN)/python -m rapini.testing.simulation $(if $(SEED),--seed $(SEED)) $(if $(SEEDS),--seeds $(SEEDS)) \
		$(if $(FIRST),--first $(FIRST)) $(if $(VERBOSE),--verbose)

format: $(VENV)/.dev ## Reformat, and mend what can be mended
	$(BIN)/ruff check --fix-only $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

lint: $(VENV)/.dev ## Style: the linter and the formatter's opinion
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

types: $(VENV)/.dev ## mypy --strict
	$(BIN)/mypy $(SOURCES)

contracts: $(VENV)/.dev ## Who may import whom
	$(BIN)/lint-imports --no-logo

licences: $(VENV)/.dev ## The licences of what is installed with Rapini
	$(BIN)/python tools/check_licences.py

deep: $(VENV)/.dev ## The unit tests with 100 times the examples
	RAPINI_HYPOTHESIS=deep $(BIN)/python -m pytest -q tests/unit --timeout=1800 -m "not soak" $(ARGS)

fuzz: $(VENV)/.dev ## Hostile bytes into every decoder, with 100 times the examples
	RAPINI_HYPOTHESIS=deep $(BIN)/python -m pytest -q --timeout=1800 $(HOSTILE) $(ARGS)

bench: $(VENV)/.package ## Rapini beside plain 0MQ and CURVE on this machine
	$(BIN)/rapini bench link $(ARGS)

docs: $(VENV)/.dev ## The tests that keep README, docs and examples true
	$(BIN)/python -m pytest -q tests/docs $(ARGS)

wheel: $(VENV)/.dev ## A wheel in dist/, built without the network
	$(PIP) wheel --quiet --no-build-isolation --no-deps --wheel-dir dist .

venv: $(VENV)/.dev ## The environment alone

clean: ## Forget the environment and all caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist

# The locks name packages, versions and hashes for every platform, and no address: where to fetch is pip's business.
# Each later lock is held to the versions of the earlier one. `make lock ARGS=--upgrade` moves to the newest versions.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --custom-compile-command "make lock" $(ARGS)

lock: $(VENV)/.dev ## Resolve the dependencies anew (needs no change elsewhere)
	$(COMPILE) --extra programs -o requirements.lock pyproject.toml
	$(COMPILE) --group build -o requirements-build.lock
	$(COMPILE) --group dev -c requirements.lock -c requirements-build.lock -o requirements-dev.lock

# Three stamps inside the environment. The first holds the locks' checksums: the environment is made anew when what
# they say changes, so that it holds exactly that. A change of pyproject.toml costs one quick editable install.
$(VENV)/.base: $(LOCKS)
	@set -e; if sha256sum --check --status $@ 2>/dev/null; then touch $@; exit; fi; \
	$(PYTHON) -c 'import sys; sys.exit("Rapini needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'; \
	echo "making $(VENV) from the locks, which takes a minute"; \
	$(PYTHON) -m venv --clear $(VENV); \
	$(PIP) install --quiet --require-hashes --only-binary :all: -r requirements.lock -r requirements-build.lock; \
	sha256sum $(LOCKS) > $@

$(VENV)/.package: $(VENV)/.base pyproject.toml
	$(PIP) install --quiet --no-build-isolation --no-deps --no-index -e .
	touch $@

$(VENV)/.dev: $(VENV)/.package requirements-dev.lock
	$(PIP) install --quiet --require-hashes --only-binary :all: -r requirements-dev.lock
	touch $@
