# Two commands do everything: `make quickstart` and `make test`.
PYTHON ?= python3
WORKDIR ?= runs/quickstart
ENGINE ?= embedded
LESS_sglang := --config.prepare.corpus.problems=400 --config.eval.limit=100
BIN := .venv/bin
export JAX_PLATFORMS ?= cpu
export TOKENIZERS_PARALLELISM ?= false

.PHONY: setup setup-dev quickstart test test-slow test-servers check format clean

setup: .venv/.runtime
setup-dev: .venv/.dev

# A stamp marks an environment that is complete: a half-made one is made again.
.venv/bin/python:
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; \
	  sys.exit(None if (3, 11) <= v <= (3, 13) else \
	  f"Python {v[0]}.{v[1]} found; 3.11 to 3.13 needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv

.venv/.runtime: requirements.txt pyproject.toml Makefile | .venv/bin/python
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

.venv/.dev: requirements-dev.txt .venv/.runtime
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@

# ENGINE=sglang: both roles are served by SGLang, which has its own environment.
# On a CPU it decodes far fewer tokens a second, so there is less to sample.
quickstart: .venv/.runtime
	$(BIN)/python -m launch.run --config=configs/quickstart.py --workdir=$(WORKDIR) \
	  --config.policy.engine=$(ENGINE) --config.reasoners.easy.engine=$(ENGINE) \
	  $(LESS_$(ENGINE)) $(ARGS)

test: .venv/.dev
	$(BIN)/python -m pytest -m "not slow and not servers" $(ARGS)

test-slow: .venv/.dev
	$(BIN)/python -m pytest -m slow $(ARGS)

# Makes the servers' own environments on first use; SGLang-JAX needs Python 3.12.
test-servers: .venv/.dev
	$(BIN)/python -m pytest -m "servers and not slow" $(ARGS)

check: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
