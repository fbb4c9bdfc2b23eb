# The commands of the README: `make demo` and `make test` need only Python 3.10+, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test bench lint clean

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test,bench]'
	touch $@

demo: $(VENV)/.ready
	$(BIN)/python -m examples.demo

test: $(VENV)/.ready
	$(BIN)/ruff check temper tests benchmarks examples
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist worksteal

bench: $(VENV)/.ready
	$(BIN)/python -m benchmarks.cpu

lint: $(VENV)/.ready
	$(BIN)/ruff check temper tests benchmarks examples
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
