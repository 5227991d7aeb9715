# What a developer runs. `make` alone lists it. Everything happens in .venv, which `make .venv` makes.
BIN := .venv/bin

.PHONY: help quick test check docs gpu
help:
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

.venv: pyproject.toml
	python3 -m venv .venv
	$(BIN)/pip install --quiet -e '.[test,docs]'
	touch .venv

quick: .venv ## the tests that take less than a second or two: under 90 seconds on two cores
	$(BIN)/pytest -n 2 -m "not slow and not processes" -q

test: .venv ## all tests, in two processes
	$(BIN)/pytest -n 2

check: .venv ## style, types and spelling, as CI checks them
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

docs: .venv ## the documentation's site, at http://127.0.0.1:8000
	$(BIN)/mkdocs serve

gpu: .venv ## the tests that need a GPU, and every benchmark on it: a quarter of an hour
	$(BIN)/python -m benchmarks.gpu --minutes 12 --out benchmarks/out
