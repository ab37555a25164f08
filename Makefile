# mlanet: `make repro` runs the whole study, `make test` the tests, `make lab` opens the notebooks.
# Needs Python 3.11 or 3.12, git and make; everything else goes into .venv (about 6 GB, under a minute).
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

UV_VERSION := 0.13.9
# The first interpreter that really runs and has a version the lock was made for (a name on PATH may be a dead shim).
PYTHON ?= $(shell for p in python3.11 python3.12 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' >/dev/null 2>&1 && echo $$p && break; done)
UV := .uv/bin/uv
BIN := .venv/bin
STAMP := .venv/.mlanet-setup

# dvc runs `python` in its stages: the environment's comes first. Nothing here reports its use to anybody.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export VIRTUAL_ENV := $(CURDIR)/.venv
export DVC_NO_ANALYTICS := 1
# without byte code every notebook's kernel compiles torch and timm again: 15 s instead of 4 s
unexport PYTHONDONTWRITEBYTECODE
# uv trusts the certificates that the machine trusts, as pip does
export UV_SYSTEM_CERTS := 1

# In a downloaded ZIP there is no git, and DVC must be told so (in .dvc/config.local, which git ignores).
NO_GIT = git rev-parse --git-dir >/dev/null 2>&1 || dvc config --quiet --local core.no_scm true

# A killed dvc can leave halves of its own lock files behind, with which it does not go on.
WHOLE_LOCK = { python -c "import json; json.load(open('.dvc/tmp/rwlock'))" 2>/dev/null || rm -f .dvc/tmp/rwlock; }; \
	{ [ ! -e dvc.lock ] || python -c "from ruamel.yaml import YAML; found = YAML(typ='safe').load(open('dvc.lock')); \
		found['schema'], found['stages']" 2>/dev/null || git checkout --quiet -- dvc.lock 2>/dev/null || rm -f dvc.lock; }

.PHONY: help setup repro test fuzz lab lint format lock data weights clean-setup

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /make \1|/p' Makefile | column -t -s '|'

setup: $(STAMP)  ## make .venv from requirements.lock (once; again when the lock changes)

$(UV): Makefile
	@if [ -z "$(PYTHON)" ]; then \
		echo "mlanet needs Python 3.11 or 3.12, and none was found (python3.11, python3.12, python3). Install one, or say make PYTHON=/path/to/python3.11" >&2; exit 2; fi
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v[:2] in ((3, 11), (3, 12)) else f"mlanet needs Python 3.11 or 3.12, and $(PYTHON) is {v.major}.{v.minor}.{v.micro}")'
	@echo "set-up: uv $(UV_VERSION)"
	@rm -rf .uv && $(PYTHON) -m venv .uv
	@.uv/bin/python -m pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)"
	@touch $@

$(STAMP): requirements.lock pyproject.toml $(UV)
	@[ -x $(BIN)/python ] || $(UV) venv --quiet --python .uv/bin/python .venv
	@echo "set-up: packages of requirements.lock into .venv"
	@{ $(UV) pip sync --python $(BIN)/python --require-hashes requirements.lock && \
		$(UV) pip install --python $(BIN)/python --no-deps --no-build-isolation --editable .; } >.uv/setup.log 2>&1 \
		|| { tail -n 30 .uv/setup.log >&2; echo "set-up failed: see .uv/setup.log" >&2; exit 2; }
	@touch $@

repro: setup  ## run the whole pipeline of params.yaml and print the headline table
	@$(WHOLE_LOCK)
	@$(NO_GIT)
	@dvc pull --quiet data.dvc $(wildcard weights.dvc)
	@dvc repro
	@echo && cat outputs/report/headline.txt

.PHONY: test-slow test-all
test: MARKED := -m "not slow"
test-slow: MARKED := -m slow
test: setup lint  ## lint, then the tests that are not marked slow: minutes, on all cores
test-slow: setup  ## the tests that are marked slow
test-all: setup lint  ## lint, then every test
test test-slow test-all:
	@$(NO_GIT)
	@dvc pull --quiet data.dvc $(wildcard weights.dvc)
	@python -m pytest -q -n logical --maxprocesses 4 --durations 15 $(MARKED) $(PYTEST_OPTIONS)

fuzz: setup  ## damaged files for every reader, faults in every write (strace); minutes, not part of make test
	@python tests/fuzz/run.py

lint: setup  ## lint and format (ruff, notebooks too), types (mypy), the order of the packages (import-linter)
	@ruff check --quiet .
	@ruff format --check --quiet .
	@mypy --no-error-summary
	@found=$$(lint-imports --no-cache 2>&1) || { echo "$$found" >&2; exit 1; }

.PHONY: figures
figures: setup  ## fill in the figures of README, MODEL_CARD and docs/ from the metrics files
	@python benchmarks/figures_in_docs.py

format: setup  ## let ruff repair what lint complains of
	@ruff check --quiet --fix .
	@ruff format --quiet .

data: setup  ## make data/ again of LONDON=FOLDER (and ICT=FOLDER or archive, else fetched), and put it into the remote in here
	@$(NO_GIT)
	@dvc pull --quiet data.dvc
	@mlanet face-model build $(if $(ICT),--ict "$(ICT)") $(if $(LONDON),--london "$(LONDON)")
	@cp NOTICE data/face_models/NOTICE.txt
	@python benchmarks/portraits.py "$(LONDON)"
	@dvc add --quiet data && dvc push --quiet data.dvc

weights: setup  ## ship what `dvc repro` trained on photos (profile open), by its face model's name: half precision, into store/
	@if grep -q '^profile: embedded' params.yaml; then \
		echo "make weights: shipped weights have seen photos, and this is the profile embedded: mlanet profile use open" >&2; exit 2; fi
	@$(NO_GIT)
	@dvc pull --quiet weights.dvc
	@shipped=$$(python -c "from mlanet_lib.predictor.weights import ship; print(ship().name)"); echo "weights/$$shipped"; \
		if [ "$$shipped" = ict.safetensors ]; then PYTHONPATH=tests/helpers python tests/predictor/test_encoder_export.py; fi
	@dvc add --quiet weights && dvc push --quiet weights.dvc

lab: setup  ## open JupyterLab on the notebooks (as root too, which a container's user mostly is)
	@$(NO_GIT)
	@dvc pull --quiet data.dvc $(wildcard weights.dvc)
	@jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) --notebook-dir=. notebooks/00_explore.ipynb

lock: $(UV)  ## pin the direct dependencies of pyproject.toml anew (needs the package index)
	@$(UV) pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-emit-index-url --quiet -o requirements.lock

clean-setup:  ## remove .venv and .uv
	@rm -rf .venv .uv
