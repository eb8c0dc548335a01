# From a bare clone: Python >= 3.11 and make are enough. `make quickstart` and `make test` set up what they need.
# Another Python: make PY=python3.12. A CPU build of torch: make setup TORCH_ARGS="--index-url ..." with the index that
# pytorch.org's "Get started" page shows for CPU.
PY ?= python3
TORCH_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
QUIET := -q --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-slow test-gpu test-newest test-oldest test-flower compatibility lock lint format \
	docs site clean fuzz

help:
	@echo "make quickstart     install, fetch a small model and data, fine-tune on the CPU"
	@echo "make test           unit, conformance, golden and command-line tests"
	@echo "make test-slow      tests with a real model or minutes of CPU"
	@echo "make test-gpu       tests that need a CUDA device"
	@echo "make test-newest    the suite in an environment of its own with the newest versions of everything"
	@echo "make test-oldest    the same with the oldest versions that pyproject.toml allows"
	@echo "make test-flower    the same with the versions that Flower pins"
	@echo "make fuzz           15 minutes of new fuzz cases, by the date's seed"
	@echo "make compatibility  the suite in .venv, recorded in results/compatibility.json as the three above are"
	@echo "make lock           constraints/*.txt anew, from the newest versions there are"
	@echo "make lint           ruff, pyright, import-linter"
	@echo "make format         ruff, in place"
	@echo "make docs           the figures of docs/ and the pages there that are read from the code"
	@echo "make site           the documentation as a site, in site/"
	@echo "make clean          the environments, caches and build outputs; downloads and out/ stay"

# $(call check-python): a Python that is too old is said before anything is made
check-python = $(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "zofo needs Python >= 3.11, and $(PY) is not: make PY=python3.11" >&2; exit 1; }

# $(call install,ENVIRONMENT,CONSTRAINTS,MORE): torch first and alone, so that TORCH_ARGS can name an index that has not
# what torch needs in the versions pinned here; then what builds zofo, in the environment itself, so that its versions
# are pinned, too; then zofo with all that it and torch need.
define install
$(1)/bin/python -m pip install $(QUIET) $(2) --no-deps $(TORCH_ARGS) torch
$(1)/bin/python -m pip install $(QUIET) $(2) hatchling editables
$(1)/bin/python -m pip install $(QUIET) $(2) --no-build-isolation -e ".[dev]" $(3)
endef

$(BIN)/python:
	@$(check-python)
	$(PY) -m venv $(VENV)

$(STAMP): pyproject.toml constraints/tested.txt | $(BIN)/python
	$(call install,$(VENV),-c constraints/tested.txt,trl)
	$(BIN)/python -m zofo.zo.kernels.ahead
	@touch $@

setup: $(STAMP)

quickstart: $(STAMP)
	$(BIN)/zofo quickstart

# A process a core, four at most: each holds torch and its own tiny models. A stretch of files is one process's, so that
# what a file's tests share is made once; who is done takes half of what another has left
test: $(STAMP)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

test-gpu: $(STAMP)
	$(BIN)/python -m pytest -m gpu

FUZZ_SEED ?= $(shell date +%Y%m%d)

fuzz: $(STAMP)
	@echo "seed $(FUZZ_SEED)"
	$(BIN)/python -m tests.fuzz --minutes 15 --seed $(FUZZ_SEED) --new

compatibility: $(STAMP)
	$(BIN)/python -m tests.compatibility tested

# Environments of their own, made anew each time: newest has no constraints at all
test-newest test-oldest test-flower: test-%:
	@$(check-python)
	rm -rf .venv-$*
	$(PY) -m venv .venv-$*
	$(call install,.venv-$*,$(if $(filter newest,$*),,-c constraints/$*.txt),$(if $(filter flower,$*),-r constraints/flower.in)$(if $(filter newest,$*),trl))
	.venv-$*/bin/python -m tests.compatibility $*

LOCK := .venv-lock/bin/uv pip compile pyproject.toml -q --no-annotate --no-header --upgrade --python-version 3.11
EXTRAS := $(foreach extra,dev docs lm-eval math quant quickstart site study tensorboard trackio trl wandb,--extra $(extra))

lock:
	@$(check-python)
	test -x .venv-lock/bin/uv || { $(PY) -m venv .venv-lock && .venv-lock/bin/python -m pip install $(QUIET) uv; }
	$(LOCK) --universal $(EXTRAS) -c constraints/pins.txt -o constraints/tested.txt
	$(LOCK) --universal --extra dev constraints/flower.in -c constraints/pins.txt -o constraints/flower.txt
	$(LOCK) --python-platform linux --extra dev --resolution lowest-direct -o constraints/oldest.txt

lint: $(STAMP)
	$(BIN)/ruff check src tests benchmarks experiments reliability docs
	$(BIN)/ruff format --check src tests benchmarks experiments reliability docs
	$(BIN)/pyright
	$(BIN)/lint-imports --no-cache

format: $(STAMP)
	$(BIN)/ruff check --fix src tests benchmarks experiments reliability docs
	$(BIN)/ruff format src tests benchmarks experiments reliability docs

docs: $(STAMP)
	$(BIN)/python -m docs.generate
	@for script in $(wildcard docs/figures/*.py); do echo "$$script"; $(BIN)/python "$$script" || exit 1; done

# The extra `site` alone, without zofo: the pages are read from the code in $(VENV), and built here
SITE := .venv-site
SITE_NEEDS = $(shell $(PY) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["site"])')

$(SITE)/.installed: pyproject.toml constraints/tested.txt
	@$(check-python)
	$(PY) -m venv $(SITE)
	$(SITE)/bin/python -m pip install $(QUIET) -c constraints/tested.txt $(foreach need,$(SITE_NEEDS),"$(need)")
	@touch $@

# A link to a page or heading that is not there ends it. The folder is made anew, so that no page of before stays
site: $(STAMP) $(SITE)/.installed
	$(BIN)/python -m docs.generate build/pages
	$(SITE)/bin/python docs/generate/maths.py build/pages
	rm -rf site
	$(SITE)/bin/zensical build --clean --strict

clean:
	rm -rf $(VENV) .venv-* .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist site
	find . -name __pycache__ -type d -not -path "./$(VENV)/*" -prune -exec rm -rf {} +
