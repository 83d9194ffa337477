# Maquette: `make demo` and `make test` are all a newcomer needs.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-slow coverage lint bench claims docs clean

demo: $(VENV)/.installed
	$(BIN)/maquette demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto -m 'not slow'

test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto -m slow

coverage: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto --cov --cov-report=term

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/train.py
	$(BIN)/python benchmarks/generate.py

claims: $(VENV)/.installed-dev
	$(BIN)/maquette reproduce
	$(MAKE) docs

docs: $(VENV)/.installed-dev
	$(BIN)/maquette systems --gallery docs/claims.md
	$(BIN)/python docs/build.py

clean:
	rm -rf $(VENV) .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --editable '.[dev]'
	-$(PIP) --no-deps mup==1.0.0 # a reference of the tests; it asks for torchvision and uses none
	touch $@
