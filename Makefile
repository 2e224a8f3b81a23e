# Every target sets up .venv by itself, once; `make demo` is the first thing to try.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.installed
# The tests run in two processes of one thread each: two cores, used once.
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest
BENCHMARKS := $(filter-out benchmarks/_%,$(wildcard benchmarks/*.py))

.PHONY: demo test lint soak reproduce bench docs

demo: $(STAMP)  ## tune a pretrained model, see what changed, score which inputs it was made for
	$(BIN)/pairtune demo

test: $(STAMP)  ## everything that must pass on a fresh machine: 2 cores, no network
	$(PYTEST) -n 2

lint: $(STAMP)  ## style, types, and which room may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

soak: $(STAMP)  ## the long versions of the tests: many kills, many mutations, load
	$(PYTEST) -m soak

reproduce: $(STAMP)  ## the papers' claims at small scale, and whether they hold
	$(BIN)/pairtune reproduce --all --docs docs

bench: $(STAMP)  ## speed against peers; each file ends with one JSON line
	@set -e; for file in $(BENCHMARKS); do echo "== $$file"; $(BIN)/python $$file; done

docs: $(STAMP)  ## the method reference and the table of reproductions, from the code
	$(BIN)/python docs/generate.py

$(STAMP): pyproject.toml constraints.txt
	[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,offline,quantized,gguf]'
	touch $@
