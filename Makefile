# Two words: `make run` trains the built-in tiny model, `make check` says whether the tree is good.
.DEFAULT_GOAL := help
.PHONY: help setup setup-dev run quick test lint types check clean

BIN := .venv/bin
# Without bytecode on disk every start of the engine compiles its libraries anew, for 20 seconds.
unexport PYTHONDONTWRITEBYTECODE
CONFIG ?= configs/tiny.toml
PARALLEL := -n auto --maxprocesses 4 --dist loadscope

help: ## Show these lines.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Make .venv with the pinned packages (no-op when it fits).
	@scripts/setup.sh

setup-dev: ## The same, with the tools for checks and tests.
	@scripts/setup.sh dev

run: setup ## Train; CONFIG=configs/tiny.toml unless given.
	@$(BIN)/trustee run --config $(CONFIG)

quick: setup-dev ## Run the tests that start no engine; ARGS="-k batch -n 0 --pdb" goes to pytest.
	@$(BIN)/python -m pytest -m "not slow and not gpu" $(PARALLEL) $(ARGS)

test: setup-dev ## Run the whole test suite, engines too; ARGS as for quick.
	@$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

lint: setup-dev ## Check format and style.
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: setup-dev ## Check types.
	@$(BIN)/mypy

check: setup-dev ## All three; types beside the tests.
	@scripts/check.sh

clean: ## Remove .venv and all caches; runs/ stays.
	rm -rf .venv build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -path ./runs -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +
