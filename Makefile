# Each target installs its requirements once: a virtual environment in .venv and the packages.
# Needs Python >= 3.11 with venv, make and a C compiler. Another interpreter: make PYTHON=python3.12 test
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
JOBS ?= 2
# The newest versions that are tested; .venv holds others.
COMPAT_PYTHON ?= $(shell for p in python3.12 $(wildcard $(HOME)/.pyenv/versions/3.12*/bin/python); do \
  $$p -c 'import sys, venv; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null && echo $$p && break; done)
COMPAT_VERSIONS := jax==0.11.2 flax==0.12.12
COMPAT_TESTS := tests/kernels tests/models tests/objectives tests/parallel tests/test_structure.py

.PHONY: help demo test test-all test-compat parity lint format clean

help:
	@echo "make demo         the whole pipeline in miniature, then runs/demo/report.html"
	@echo "make test         ruff, mypy and the tests, without the ones marked heavy"
	@echo "make test-all     the same with the heavy tests"
	@echo "make test-compat  tests of kernels, models, objectives and meshes with $(COMPAT_VERSIONS) on Python 3.12"
	@echo "make parity       every family against transformers, then docs/parity.md"
	@echo "make lint         ruff and mypy only"
	@echo "make format       let ruff rewrite the layout of the code"
	@echo "make clean        remove .venv and the caches (runs/ stays)"

demo: .venv/.installed
	$(BIN)/pivot-jax demo --workdir runs/demo

test: lint
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0 -m "not heavy"

test-all: lint
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0

# Tests against PyTorch are left out: its wheel of gigabytes is in .venv already, and says nothing of JAX's version.
test-compat: .venv-compat/.installed
	.venv-compat/bin/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0 -m "not heavy" \
	  --ignore-glob='*parity*' $(COMPAT_TESTS)

# Every comparison writes a line; the heavy ones too.
parity: .venv/.installed-test
	@mkdir -p build && rm -f build/parity.jsonl
	PIVOT_PARITY=$(CURDIR)/build/parity.jsonl $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile \
	  $$(grep -lE '^from tests\.parity import' tests/*/*.py)
	$(BIN)/python tests/parity.py build/parity.jsonl docs/parity.md

lint: .venv/.installed-test
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/.installed-test
	$(BIN)/ruff check --fix --quiet . || true
	$(BIN)/ruff format .

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "no Python >= 3.11 found; install one, or say make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "setting up .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
	  echo "$(PYTHON) -m venv failed; on Debian and Ubuntu install python3-venv" >&2; exit 1; }

# The stamps keep a second run from installing again; a change of pyproject.toml installs again.
.venv/.installed: pyproject.toml | .venv/bin/python
	@echo "installing pivot-jax and its dependencies into .venv (minutes, the first time)"
	@$(BIN)/python -m pip install --quiet --editable .
	@touch $@

.venv/.installed-test: pyproject.toml | .venv/bin/python
	@echo "installing pivot-jax and its test dependencies into .venv (minutes, the first time)"
	@$(BIN)/python -m pip install --quiet --editable ".[test]"
	@touch $@ .venv/.installed

.venv-compat/.installed: pyproject.toml Makefile
	@test -n "$(COMPAT_PYTHON)" || { \
	  echo "no Python 3.12 with venv found; install one, or say make COMPAT_PYTHON=/path/to/python test-compat" >&2; exit 1; }
	@echo "setting up .venv-compat with $$($(COMPAT_PYTHON) --version), $(COMPAT_VERSIONS) (minutes, the first time)"
	@$(COMPAT_PYTHON) -m venv .venv-compat
	@.venv-compat/bin/python -m pip install --quiet --editable . $(COMPAT_VERSIONS) pytest pytest-timeout pytest-xdist filelock hypothesis
	@touch $@

clean:
	rm -rf .venv .venv-compat .jax_cache .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
