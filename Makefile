# Each target installs what it needs: `make demo` or `make test` is all that a fresh machine wants.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
RUN_STAMP := $(VENV)/.installed-to-run
STAMP := $(VENV)/.installed
SOURCES := emsmine encoder mining pipelines
SCRIPTS := docs/make_reference.py
DEMO := out/demo
DEMO_PAIRS := de-en,el-en,en-fr,en-ru,en-zh

.DEFAULT_GOAL := help
.PHONY: help setup demo test check lint types format docs bench train-default clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## create .venv and install emsmine with its development tools

# What a user needs comes first, and visibly: it is some hundred megabytes. Tools of developers only when they are needed.
$(RUN_STAMP): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "emsmine needs Python 3.11 or newer")'
	@echo "Installing emsmine and its libraries into $(VENV); torch is most of it, and this may take some minutes."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) -e .
	@touch $@

$(STAMP): $(RUN_STAMP)
	@echo "Installing the tools for tests and checks into $(VENV)."
	@$(PIP) --quiet -e '.[dev]'
	@touch $@

demo: $(RUN_STAMP)  ## mine the small crawl in examples/ with the shipped model
	@rm -rf $(DEMO)
	@$(BIN)/emsmine -q run examples/crawl/sites.warc.gz examples/crawl/feeds.jsonl.gz --pairs $(DEMO_PAIRS) -o $(DEMO) -j 1
	@for pair in $$(echo $(DEMO_PAIRS) | tr ',' ' '); do \
		$(BIN)/emsmine eval pairs $(DEMO)/export/$$pair.tsv examples/gold/$$pair.tsv | tr -d '\n' | \
		sed -E "s/[{}\" ]//g; s/^task:pairs,/$$pair against the gold pairs:  /; s/,signature:.*//; s/,/  /g"; echo; done
	@echo; echo "The ten best pairs of $(DEMO)/export/de-en.tsv:"; head -n 10 $(DEMO)/export/de-en.tsv
	@echo; echo "Results: $(DEMO)/export/   Funnel again: $(BIN)/emsmine report $(DEMO)   Dropped rows: $(DEMO)/rejects/"

# One thread each: the tests are small, and threads of several libraries would fight over few cores.
test: setup  ## run all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

check: lint types  ## format, lint and types

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: setup  ## format the code and fix what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The folders are mapped by setup.cfg, which mypy cannot see (it would pass after one file): link them, count the files.
types: setup  ## mypy --strict over all packages
	@mkdir -p .types/emsmine
	@for path in emsmine/*.py emsmine/py.typed encoder mining pipelines; do \
		ln -sfn ../../$$path .types/emsmine/$$(basename $$path); done
	$(BIN)/mypy -p emsmine > .types/log 2>&1 || { cat .types/log; exit 1; }
	@tail -n 1 .types/log
	@test "$$(sed -n 's/.*in \([0-9]*\) source files/\1/p' .types/log)" -ge "$$(find $(SOURCES) -name '*.py' | wc -l)" || \
		{ echo "mypy did not check every file of $(SOURCES)"; exit 1; }
	@$(BIN)/mypy --no-error-summary $(SCRIPTS)

docs: setup  ## write docs/reference.md from the code: commands, settings, rules, reasons
	$(BIN)/python docs/make_reference.py

bench: setup  ## measure speed and memory; figures go to docs/benchmarks.md
	$(BIN)/python tests/perf/bench.py

train-default: setup  ## train the shipped model again (put pair files into train-data/ first)
	$(BIN)/emsmine train encoder/recipes/default.toml
	$(BIN)/emsmine train encoder/recipes/default-hard.toml
	$(BIN)/emsmine train-scorer encoder/recipes/scorer.toml

clean:  ## remove everything that was built
	rm -rf $(VENV) .types .mypy_cache .ruff_cache .pytest_cache .hypothesis out build dist *.egg-info
