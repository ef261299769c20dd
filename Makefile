# Everything a person types. Each target is thin over the `tidemill` command; `make help` lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TIDEMILL := $(BIN)/tidemill
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install up down status logs doctor producers training predict replay kafka fast test check format bench clean

help: ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(STAMP) ## build .venv (quick when nothing changed)

# The locked set of packages, by uv, which is itself installed into the environment from the package index.
$(STAMP): pyproject.toml uv.lock
	@$(PYTHON) -c 'import sys; sys.exit("Tidemill needs Python 3.11 or newer, this is %s; set PYTHON=..." % sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9'
	VIRTUAL_ENV=$(CURDIR)/$(VENV) UV_LINK_MODE=copy $(BIN)/uv sync --frozen --inexact --quiet --python $(BIN)/python
	@echo "compiling what is computed most, once"
	@$(BIN)/python -m domain.compiled
	@touch $(STAMP)

up: install ## start everything and wait for the first prediction: make up MARKET=binance (kraken, ccxt:okx, box, auto)
	$(if $(MARKET),TIDEMILL_MARKET=$(MARKET)) $(TIDEMILL) up

down: ## stop every process that `make up` started
	@test ! -x $(TIDEMILL) || $(TIDEMILL) down

status: install ## the services, refreshed in place on a terminal
	@$(TIDEMILL) status $$(test -t 1 && echo --watch)

logs: install ## the newest log lines of every service
	@$(TIDEMILL) logs

doctor: install ## check everything Tidemill needs
	@$(TIDEMILL) doctor

producers: install ## the feature pipeline in the foreground: market in, features and targets out
	@$(TIDEMILL) run ingest & pid=$$!; trap 'kill $$pid 2>/dev/null' EXIT; $(TIDEMILL) run featurizer

training: install ## the training pipeline in the foreground
	@$(TIDEMILL) run trainer

predict: install ## the inference pipeline in the foreground
	@$(TIDEMILL) run predictor

replay: install ## score the models on a file: make replay DATA=candles.parquet
	@test -n "$(DATA)" || { echo "make replay: name a file: make replay DATA=candles.parquet" >&2; exit 2; }
	$(TIDEMILL) replay --data $(DATA)

kafka: install ## Apache Kafka in the foreground (Java 17, Maven): make kafka PORT=9092
	@exec $(BIN)/python -m deploy.kafka --port $(or $(PORT),9092)

# The folders that may not know Dagster, by the import contracts: importing it takes seconds.
FAST := $(foreach folder,domain markets warehouse streaming,$(folder) tests/$(folder))

fast: install ## run the pure tests, in half a minute: no process, port, broker, database server or Dagster
	$(BIN)/python -m pytest -p tests.fast -m "not (process or kafka or postgres or browser or dagster or slow)" $(FAST)

test: install ## run all tests and doctests, in half an hour
	$(BIN)/python -m pytest -n auto --maxprocesses 2 --dist loadscope --no-loadscope-reorder

check: install ## lint, types, import contracts, links in docs
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python docs/check_links.py

format: install ## let ruff rewrite what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: install ## measure the learners against River, and how soon a killed trainer learns again
	$(BIN)/python benchmarks/learner.py
	$(BIN)/python benchmarks/startup.py

clean: down ## remove data, models and caches; the environment stays
	rm -rf .tidemill .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
