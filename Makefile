# make          what CI does: check and test
# make run      the whole chain on this machine, ending in a report
# Every target makes its own environment in .venv first; that is skipped while pyproject.toml and requirements.lock
# stay as they are.

VENV ?= .venv
WORKERS ?= 2
READY := $(VENV)/.ready
BIN := $(VENV)/bin
CODE := medsmith mediflow experts merge_recipes align eval

# One thread in each test process: two processes with a thread per core each crawl on two cores.
ONE_THREAD := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
PYTEST := $(ONE_THREAD) $(BIN)/python -m pytest

.DEFAULT_GOAL := all
.PHONY: all run test slow gpu vllm-env check format nano tables lock clean help

all: check test ## what CI does: check and test (the default)

$(READY): pyproject.toml requirements.lock .ci/setup
	@.ci/setup $(VENV)
	@touch $@

run: $(READY) ## the whole chain, embedded: documents and a teacher in, a scored model and a report out
	$(BIN)/medsmith run pipelines/embedded.yml

test: $(READY) ## every quick test, offline, on two processes
	$(PYTEST) -n $(WORKERS) --dist worksteal -m "not slow and not gpu and not network"

slow: $(READY) ## the tests that take more than ten seconds each
	$(PYTEST) -m "slow and not gpu and not network" || test $$? = 5 # 5: there are none

vllm-env: ## an environment with vLLM for CPUs (2.5 GB), for the slow tests that meet a real one
	.ci/vllm-env

gpu: $(READY) ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

check: $(READY) ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY) ## format and sort imports in place
	$(BIN)/ruff check --fix --select I .
	$(BIN)/ruff format .

nano: $(READY) ## make the embedded base model experts/nano again (15 minutes on one core)
	$(BIN)/medsmith run pipelines/nano.yml
	cp out/nano/base/*.json out/nano/base/*.jinja out/nano/base/*.safetensors experts/nano/
	sed -i 's#$(CURDIR)/##g' experts/nano/run.json # paths of this machine are nobody else's

tables: $(READY) ## write the generated tables of README.md and docs/ again
	$(BIN)/python tests/test_documents.py
	PYTHONPATH=. $(BIN)/python tests/test_eval_protocols.py
	PYTHONPATH=. $(BIN)/python tests/test_eval_published_defects.py

lock: $(READY) ## write the versions of this environment into requirements.lock
	@{ sed -n '/^#/p' requirements.lock; \
	   $(BIN)/pip freeze --exclude-editable | sed -E 's/^(torch==[0-9.]+)\+.*/\1/' | LC_ALL=C sort -f; } > requirements.lock.new
	@mv requirements.lock.new requirements.lock

clean: ## remove the environment and caches; out/ stays, it may hold paid work
	rm -rf $(VENV) .venv-ci .cache .pytest_cache .mypy_cache .ruff_cache dist build

help: ## this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 10
