# `make help` lists the targets. Both `book` and `test` install what they need into .venv first.
SHELL := /bin/bash
.SHELLFLAGS := -eo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
PROFILE ?= quick
BIN := .venv/bin
# a variable of the command line alone, else a default: some systems export NAME
given = "$(if $(filter command line,$(origin $(1))),$($(1)),$(2))"

# Tests run on phantoms, whatever data sets the user has, with a store of their own; the book build at the end finds there
# what the chapters trained under nbval. One thread for each of two workers, where a profile doesn't say otherwise.
TESTED := build/test
PLACES := TARGET OTHER1 OTHER2
TEST_ENV := env $(foreach each,ACDC T1 RVSC $(PLACES),-u PRR_$(each) -u PRR_$(each)_LABELS) \
	PRR_STORE="$(CURDIR)/$(TESTED)/store" OMP_NUM_THREADS=1

# The targets of smoke are too weak to be judged: chapters say so under nbval, and in the book of these floors they judge.
JUDGED := --set unet_floor=1e-9 --set pspnet_floor=1e-9

# Data sets of a reader's own, as the variables that the program knows.
OWN = $(foreach each,$(PLACES) $(PLACES:%=%_LABELS),$(if $($(each)),PRR_$(each)="$($(each))"))

.PHONY: help book edition test bench lint clean distclean

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 12
	@echo
	@echo 'make book EDITION=name shows what was computed on a GPU and is kept in data/editions, on any machine'
	@echo 'make book PROFILE=smoke|quick|paper  CHAPTERS="03 04"  DRY_RUN=1  DEVICE=auto|cpu|cuda|mps  SET="name=value ..."'
	@echo 'TARGET=/path/to/Dataset004_X runs the study on a data set of your own; OTHER1=... OTHER2=... beside it, and with'
	@echo 'TARGET_LABELS="RV=1 MYO=2 LV=3" (OTHER1_LABELS=...) you name the values in its label files, or choose some'
	@echo 'JOBS=4 makes so many results at a time, SCHEDULER=tcp://host:8786 makes them on a dask cluster'
	@echo 'PYTHON=python3.12 names the interpreter that makes .venv'

book: .venv/.book ## execute the chapters and build the book at build/<profile>/html/index.html
	$(OWN) $(JOBS:%=PRR_JOBS=%) $(SCHEDULER:%=PRR_SCHEDULER=%) $(BIN)/python -m prr book $(if $(EDITION),--edition "$(EDITION)",--profile "$(PROFILE)") \
		$(CHAPTERS:%=--chapters %) $(if $(DEVICE),--device "$(DEVICE)") $(SET:%=--set "%") $(if $(filter-out 0,$(DRY_RUN)),--dry-run)

edition: .venv/.book ## compute the edition NAME on a CUDA device: results that any machine can render, in data/editions
	$(OWN) $(JOBS:%=PRR_JOBS=%) $(SCHEDULER:%=PRR_SCHEDULER=%) $(BIN)/python -m prr edition $(call given,NAME,cuda) \
		--profile $(call given,PROFILE,paper) $(SET:%=--set "%") $(if $(MINUTES),--minutes "$(MINUTES)")

test: .venv/.tests lint ## everything: lint, unit tests, every chapter under nbval, a book build with -W and its numbers
	rm -rf $(TESTED)
	$(TEST_ENV) $(BIN)/python -m pytest -n 2
	$(TEST_ENV) $(BIN)/python -m prr book --profile smoke --prepare $(TESTED)/nbval
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 --dist loadscope --nbval-lax --nbval-current-env $(TESTED)/nbval
	$(TEST_ENV) $(BIN)/python -m prr book --profile smoke $(JUDGED) --out $(TESTED)/book
	$(TEST_ENV) PRR_BOOK="$(CURDIR)/$(TESTED)/book" $(BIN)/python -m pytest tests/book
	$(TEST_ENV) $(BIN)/python -m prr edition stand-in --profile smoke --device cpu --folder "$(CURDIR)/$(TESTED)/editions"
	$(TEST_ENV) $(BIN)/python -m prr data shapes $(TESTED)/shapes --cases 12 --classes 2
	$(TEST_ENV) PRR_TARGET="$(CURDIR)/$(TESTED)/shapes" $(BIN)/python -m prr book --profile smoke --out $(TESTED)/own
	for each in "$(CURDIR)/$(TESTED)"/editions/* "$(CURDIR)"/data/editions/*/; do \
		if [ -f "$$each/edition.json" ]; then \
			$(TEST_ENV) PRR_STORE="$(CURDIR)/$(TESTED)/none" $(BIN)/python -m prr book --edition "$$each" --out $(TESTED)/edition; \
		fi; \
	done

bench: .venv/.tests ## measure sweep and training against simpler loops; the tables go to tests/bench/cpu.txt or cuda.txt
	for each in sweep training; do $(BIN)/python tests/bench/$$each.py $(if $(DEVICE),--device $(DEVICE)); done \
		| tee tests/bench/$(or $(DEVICE),cpu).txt

lint: .venv/.tests ## ruff, over modules and notebooks
	$(BIN)/python -m ruff check .

clean: ## remove the built books; the store keeps its networks (`python -m prr store` cleans that)
	if [ -d build ]; then find build -mindepth 1 -maxdepth 1 ! -name store -exec rm -rf {} +; fi
	rm -rf .pytest_cache .ruff_cache .hypothesis pr_rmse.egg-info
	find prr tests book -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## remove .venv and the store too
	rm -rf build .venv

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "expected Python 3.11 or newer, found: $$($(PYTHON) --version 2>&1); name one with PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv .venv

# A stamp each: what was installed is as new as the two files that say what to install.
.venv/.book .venv/.tests: .venv/.%: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[$*]'
	touch $@ .venv/.book
