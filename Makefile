# Two commands do everything: `make quickstart` and `make test`.
PYTHON ?= python3
WORKDIR ?= runs/quickstart
ENGINE ?= embedded
LESS_sglang := --config.prepare.corpus.problems=400 --config.eval.limit=100
BIN := .venv/bin
export JAX_PLATFORMS ?= cpu
export TOKENIZERS_PARALLELISM ?= false

# What must also hold with the newest libraries, beside tests/latest.
BOTH := tests/models tests/algorithms/test_identities.py tests/data/test_packing.py \
  tests/train/test_step.py tests/train/test_optimizer.py

# How commands start, explain themselves and refuse; of tests/parity that they are
# left out.
COMMANDS := tests/test_commands.py tests/test_config.py tests/test_stopping.py \
  tests/launch/test_help.py tests/launch/test_preflight.py tests/parity

.PHONY: setup setup-dev quickstart quickstart-grpo gpu-suite test test-latest \
  test-commands test-commands-3.12 test-commands-3.13 test-slow test-servers \
  test-browser test-clusters test-sky test-kill test-lowest audit check format \
  docs reference clean

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
	PYTHONWARNINGS=ignore \
	  $(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

.venv/.dev: requirements-dev.txt requirements-test.txt .venv/.runtime
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@

# The newest jax, flax and libtpu, which need Python 3.12: found as for the servers.
.venv-latest/bin/python: | .venv/.runtime
	@python=$$($(BIN)/python -m sophia_jax.servers.environments 3.12 "make test-latest") && \
	  $$python -m venv .venv-latest

.venv-latest/.complete: requirements-latest.txt requirements-dev.txt \
  requirements.txt | .venv-latest/bin/python
	.venv-latest/bin/python -m pip install --quiet --upgrade pip
	.venv-latest/bin/python -m pip install --quiet -r requirements-dev.txt
	.venv-latest/bin/python -m pip install --quiet --upgrade \
	  -r requirements-latest.txt
	touch $@

# ENGINE=sglang: both roles are served by SGLang, which has its own environment.
# On a CPU it decodes far fewer tokens a second, so there is less to sample.
quickstart: .venv/.runtime
	$(BIN)/python -m launch.run --config=configs/quickstart.py --workdir=$(WORKDIR) \
	  --config.policy.engine=$(ENGINE) --config.reasoners.easy.engine=$(ENGINE) \
	  $(LESS_$(ENGINE)) $(ARGS)

# GRPO from the quickstart's result on, which is made first if it is not there.
quickstart-grpo: .venv/.runtime
	@test -e $(WORKDIR)/report.json || $(MAKE) quickstart
	$(BIN)/python -m launch.run --config=configs/digits/grpo.py \
	  --config.base=$(WORKDIR) --workdir=$(WORKDIR)-grpo $(ARGS)

# What needs nothing but this environment.
OURS := -m "not slow and not servers and not latest and not browser and not clusters"

# Most tests wait for one core: start-up, tracing, one program to compile. The
# files with processes come first (conftest.py). ARGS=-n0: all in one process.
test: .venv/.dev
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile \
	  --no-loadscope-reorder $(OURS) $(ARGS)

# libtpu compiles for a TPU that is not there; its lock is for one that is.
test-latest: export ALLOW_MULTIPLE_LIBTPU_LOAD = 1
test-latest: export TPU_SKIP_MDS_QUERY = 1
test-latest: .venv-latest/.complete
	.venv-latest/bin/python -m pytest -n logical --maxprocesses 2 --dist loadfile \
	  -m "not slow and not servers" tests/latest $(BOTH) $(ARGS)

# The command line as a user has it: no torch, on each Python after the first.
test-commands: test-commands-3.12 test-commands-3.13

test-commands-3.12 test-commands-3.13: test-commands-3.%: .venv-3.%/.complete
	@test ! -e $< || .venv-3.$*/bin/python -m pytest -n logical --maxprocesses 2 \
	  --dist loadfile $(COMMANDS) $(ARGS)

# A Python that is not installed is named and left out.
.venv-3.%/.complete: requirements-test.txt requirements.txt | .venv/.runtime
	@python=$$($(BIN)/python -m sophia_jax.servers.environments 3.$* \
	  "make test-commands-3.$*" 2>&1) || \
	  case "$$python" in \
	    error:*) echo "left out: $${python#error: }"; exit 0;; \
	    *) echo "$$python"; exit 1;; \
	  esac; \
	$$python -m venv .venv-3.$* && \
	.venv-3.$*/bin/python -m pip install --quiet --upgrade pip && \
	.venv-3.$*/bin/python -m pip install --quiet -r requirements-test.txt && \
	touch $@

# On a machine with a GPU, and with jax for CUDA and torch for Python 3.12: they
# stay as they are, all else comes beside them. ARGS=--parts=correctness,attention
GPU_PYTHON ?= python3.12
GPU_WHEELS ?= $(if $(wildcard runs/wheels),--no-index --find-links=runs/wheels)
gpu-suite: export PYTHONPATH := $(CURDIR)/.venv-gpu:$(CURDIR)
gpu-suite: .venv-gpu/.complete
	$(GPU_PYTHON) -m benchmarks.gpu $(ARGS)

.venv-gpu/.complete: benchmarks/gpu/wheels.txt
	$(GPU_PYTHON) -m pip install --quiet --no-deps --upgrade $(GPU_WHEELS) \
	  --target .venv-gpu -r benchmarks/gpu/wheels.txt
	touch $@

test-slow: .venv/.dev
	$(BIN)/python -m pytest -m slow $(ARGS)
	FUZZ_SCALE=50 $(BIN)/python -m pytest tests/fuzz

# Whole runs, and runs of rounds, killed at random times: hours on two cores.
KILLS ?= 200
test-kill: .venv/.dev
	$(BIN)/python -m tests.kill.campaign --kills=$(KILLS)
	$(BIN)/python -m pytest -n0 tests/launch/test_rounds.py -k thirty_kills

# The lowest versions that requirements-test.txt allows; pip cannot ask for them.
.venv-lowest/.complete: requirements-test.txt requirements.txt | .venv/.runtime
	$(BIN)/python -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet uv
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python \
	  --resolution lowest-direct -r requirements-test.txt
	touch $@

test-lowest: .venv-lowest/.complete
	.venv-lowest/bin/python -m pytest -n logical --maxprocesses 4 \
	  --dist loadfile --no-loadscope-reorder $(OURS) $(ARGS)

# Known vulnerabilities of what is installed; needs a network.
audit: .venv/.dev
	$(BIN)/python -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet pip-audit
	.venv-audit/bin/pip-audit --path $$($(BIN)/python -c \
	  "import sysconfig; print(sysconfig.get_path('purelib'))")

# Makes the servers' own environments on first use; SGLang-JAX needs Python 3.12.
test-servers: .venv/.dev
	$(BIN)/python -m pytest -m "servers and not slow" $(ARGS)

# The pages of launch.browse in Chromium, which the system brings: on Debian
# `apt-get install chromium`.
test-browser: .venv/.browser
	$(BIN)/python -m pytest -m browser tests/evals/browser $(ARGS)

.venv/.browser: requirements-browser.txt .venv/.dev
	$(BIN)/python -m pip install --quiet -r requirements-browser.txt
	touch $@

# A real Slurm of two nodes on this machine, started by root; skipped without it:
# apt-get install slurm-wlm munge
test-clusters: .venv/.dev
	$(BIN)/python -m pytest -m "clusters and not slow" tests/clusters $(ARGS)

# SkyPilot's own loader, which has an environment of its own.
test-sky: .venv-sky/.complete
	.venv-sky/bin/python tests/jobs/on_skypilot.py tests/jobs/golden/sky*/group.yaml

.venv-sky/.complete: | .venv/.runtime
	$(BIN)/python -m venv .venv-sky
	.venv-sky/bin/python -m pip install --quiet "skypilot==0.14.1"
	touch $@

check: .venv/.dev docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Strict: a dead link, or a page outside the navigation, fails.
docs: .venv/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --clean

# docs/reference/config.md and cli.md, from the dataclasses and from --help.
reference: .venv/.dev
	$(BIN)/python -m docs.generate

format: .venv/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf runs site .pytest_cache .mypy_cache .ruff_cache .hypothesis
