# The commands of this project. `make demo` and `make test` set everything up by themselves.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install demo serve check test lint teachers bench clean

help:  ## list these commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install  ## start everything, ask one problem, keep serving (ONCE=1: exit after the answer)
	$(BIN)/cord demo $(if $(ONCE),--once)

serve: install  ## start the proxy with config.yaml
	$(BIN)/cord serve

check: install  ## tell whether every teacher and the scorer work
	$(BIN)/cord check

test: install lint  ## style, types and all tests
	$(BIN)/pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile

teachers: install  ## train the embedded models anew (about half an hour on two cores)
	$(BIN)/python -m miniature.train --out miniature/checkpoints

bench: install  ## the strategies side by side on held-out problems of the embedded task
	$(BIN)/python -m bench.quality

clean:  ## remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis bench/out
