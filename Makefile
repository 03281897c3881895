# Words in, the project's commands out. Everything runs in .venv, which is made when it is missing.
PYTHON ?= python3
BIN := .venv/bin
# Threads that wait for each other by spinning take ten times as long where the cores are shared.
export GOMP_SPINCOUNT ?= 1000
.PHONY: demo test test-slow test-long bench ratiobench lint docs clean

demo: .venv/installed
	$(BIN)/ray-synth run sweeps/digits.yaml --out runs/digits

# Two at a time, a thread each: much of a test's time is one process that starts.
test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m 'slow and not long'

test-long: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m long

bench: .venv/installed
	$(BIN)/python tests/benchmarks/demo.py

ratiobench: .venv/installed
	$(BIN)/python -m tests.benchmarks.ratiobench.rules

lint: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# What the code says of itself is written into the pages first; then any builder of mkdocs.yml can build them.
docs: .venv/installed-docs
	$(BIN)/python docs/generate.py site/pages
	$(BIN)/zensical build --clean --strict
	@echo "site/html/index.html"

clean:
	rm -rf .venv site

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, found $$($(PYTHON) --version); type make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

.venv/installed-docs: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $@
