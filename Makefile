# `make` alone prints what there is. Everything runs from .venv, which is made once from the lock file.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

BIN := .venv/bin
READY := .venv/.ready
# The first Python of at least 3.11 that really starts (a pyenv shim may exist without its version).
PYTHON ?= $(shell for name in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$name && break; done)

# The image's lock is a part of the other: same versions, same hashes, but neither tools nor embedded servers.
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --no-emit-index-url pyproject.toml

.PHONY: help
help: ## Print this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(READY) ## Start the stack and send real records through it, with links into the Web UI
	$(BIN)/starter demo

.PHONY: test
test: $(READY) ## Run every test that is needed to trust a change
	$(BIN)/pytest -n 2 --dist loadfile

.PHONY: check
check: $(READY) ## Lint, check the format, the types, the import rules and the compose file
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

.PHONY: bench
bench: $(READY) ## Measure against raw COPY and a bare workflow; prints ratios
	$(BIN)/python -m bench

.PHONY: chaos
chaos: $(READY) ## Run the long, repeated crash tests
	$(BIN)/pytest -m chaos

.PHONY: lock
lock: ## Resolve the dependencies of pyproject.toml anew (needs uv)
	@command -v uv >/dev/null || { echo "make lock needs uv: https://docs.astral.sh/uv/" >&2; exit 1; }
	$(COMPILE) --upgrade --extra dev --output-file requirements.lock.txt
	$(COMPILE) --extra build --constraints requirements.lock.txt --output-file requirements.image.lock.txt

.PHONY: clean
clean: ## Stop the stack, then remove it with its data, the environment and caches
	@if [ -d .stack ] && [ -x $(BIN)/starter ]; then $(BIN)/starter down || true; fi
	rm -rf .stack .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The project itself is built by the locked setuptools (--no-build-isolation), so nothing outside the lock is fetched.
$(READY): requirements.lock.txt pyproject.toml
	@if command -v uv >/dev/null; then \
		set -x; \
		uv venv --quiet --allow-existing --python '>=3.11' .venv; \
		uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock.txt; \
		uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .; \
	elif [ -n "$(PYTHON)" ]; then \
		set -x; \
		$(PYTHON) -m venv .venv; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock.txt; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .; \
	else \
		echo "Python 3.11 or newer is needed; none was found. Name one with make PYTHON=/path/to/python3" >&2; \
		exit 1; \
	fi
	@touch $@
