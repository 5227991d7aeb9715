# What a developer runs. `make` alone lists it. Everything happens in .venv, which `make .venv` makes.
BIN := .venv/bin
QUICK := $(addprefix tests/,gmm functional swap utils analysis fid layers/test_m*.py layers/test_queue.py \
	callbacks/test_gmm_refit.py callbacks/test_norm_swap.py callbacks/test_queue_reset.py models/test_classifier.py \
	data/test_sampler.py test_checkpoints.py test_package.py)

.PHONY: help quick test check docs gpu
help:
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

.venv: pyproject.toml
	python3 -m venv .venv
	$(BIN)/pip install --quiet -e '.[test,docs]'
	touch .venv

quick: .venv ## the core's quick tests, some 2,500: under 90 seconds on two cores
	$(BIN)/pytest -n 2 --dist=load -q -m "not slow and not processes" $(QUICK)

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
