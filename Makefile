# Every command of the repository. `make` lists them; `make reproduce` is the one to start with.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.NOTPARALLEL:
.DEFAULT_GOAL := help
# Without its bytecode a process compiles torch and transformers anew: 12 of the 19 seconds that a
# notebook takes to begin. What is written lies in .venv and in __pycache__ folders git ignores.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help env reproduce test test-browser check-gpu plan serve notebooks lab lint types lock clean

PARAMS ?= params/embedded.yaml
ONLY ?=
PORT ?= 8000
# The series walks through 01 … 09 and shows the whole in 00, so the tests do too.
NOTEBOOKS := $(filter-out notebooks/00_%,$(sort $(wildcard notebooks/[0-9][0-9]_*.ipynb))) \
             $(wildcard notebooks/00_*.ipynb)
PYTHON_FILES := rewrite_utils tests requirements $(wildcard benchmarks) $(wildcard notebooks/*.py)
# With vLLM's CUDA build and its libraries where an NVIDIA driver answers.
LOCK := requirements/lock-$(if $(shell nvidia-smi -L 2>/dev/null),cuda,cpu).txt
TORCH := torch==2.13.0
WORKERS := $(shell getconf _NPROCESSORS_ONLN)
# One more: some tests wait for a process or a retry.
TESTERS := $(shell echo $$(( $(WORKERS) + 1 )))
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --quiet
INSTALL := $(BIN)/python requirements/install.py
# One stamp for one content of lock and pyproject.toml: a second `make env` does nothing.
STAMP := .venv/made-$(shell cat $(LOCK) pyproject.toml | cksum | tr -c '0-9\n' '-')

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20
	echo "  PARAMS=params/x.yaml chooses the parameters (now $(PARAMS)), ONLY=05-07 the notebooks"

env: $(STAMP) ## create .venv with the pinned packages (once)

$(STAMP):
	@fits() { command -v "$$1" >/dev/null && "$$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
	if ! fits $(BIN)/python; then
	  python=
	  for name in python3.11 python3.12 python3.13 python3 python; do
	    if fits $$name; then python=$$name; break; fi
	  done
	  if [ -z "$$python" ]; then
	    echo "env: no Python 3.11 or newer on the PATH (python3 is: $$(python3 --version 2>&1 || true)); install python3.11" >&2; exit 1
	  fi
	  if ! $$python -c 'import ensurepip, venv' 2>/dev/null; then
	    echo "env: $$python has no ensurepip; on Debian or Ubuntu: apt install $$($$python -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')" >&2; exit 1
	  fi
	  echo "env: creating .venv with $$($$python --version)"
	  rm -rf .venv
	  $$python -m venv .venv
	fi
	rm -f .venv/made-*
	echo "env: [1/4] $(TORCH) and what it needs"
	$(INSTALL) --constraint $(LOCK) "$(TORCH)"
	echo "env: [2/4] the $$(wc -l < $(LOCK) | tr -d ' ') packages of $(LOCK)"
	$(INSTALL) --no-deps --requirement $(LOCK)
	echo "env: [3/4] this package, editable"
	$(PIP) install --no-deps --no-build-isolation --editable .
	echo "env: [4/4] checking that all of it is there"
	$(BIN)/python requirements/check.py $(LOCK)
	touch $@

reproduce: env ## run the whole series of notebooks on PARAMS, live, and print its table
	@echo "reproduce: embedded models and text"
	$(BIN)/python -m rewrite_utils.assets
	echo "reproduce: the notebooks, on $(PARAMS)"
	$(BIN)/python -m rewrite_utils.series $(PARAMS) $(if $(ONLY),--only $(ONLY))

test: env ## ruff, pytest, the live smoke series, nbval: what continuous integration runs
	@echo "test: ruff"
	$(BIN)/ruff check $(PYTHON_FILES)
	$(BIN)/ruff format --check $(PYTHON_FILES)
	echo "test: embedded models and text"
	$(BIN)/python -m rewrite_utils.assets
	echo "test: pytest, on $(WORKERS) cores"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TESTERS) --dist loadfile -m "" \
	  --jaxtyping-packages=rewrite_utils,beartype.beartype tests
	echo "test: the series of params/smoke.yaml, live, with real models"
	$(BIN)/python -m rewrite_utils.series params/smoke.yaml
	echo "test: nbval, $(words $(NOTEBOOKS)) notebooks on the published run"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile \
	  --nbval-lax --nbval-current-env --nbval-cell-timeout=1800 $(NOTEBOOKS)
	echo
	echo "All green. Open next: README.md, or make lab (notebooks/00_tour.ipynb)"

test-browser: env ## the explorer in headless Chromium against JupyterLab (apt install chromium)
	@echo "test-browser: embedded models and text"
	$(BIN)/python -m rewrite_utils.assets
	$(BIN)/python -m pytest tests/browser

check-gpu: env ## every computing part on the GPU against the CPU, with speeds (3 minutes)
	@$(BIN)/python benchmarks/check_gpu.py

plan: env ## what a run of PARAMS would cost: tokens, predictions, storage, hours; runs nothing
	@$(BIN)/python -m rewrite_utils.series $(PARAMS) --plan $(if $(GPU),--gpu $(GPU))

serve: env ## a vLLM server on 127.0.0.1:$(PORT) with the simulator of PARAMS (engine: server)
	@$(BIN)/python -m rewrite_utils.assets
	exec $(BIN)/python -m rewrite_utils.llm.serving $(PARAMS) --port $(PORT)

notebooks: env ## execute the committed notebooks again at their own parameters (ONLY=05-07)
	@$(BIN)/python -m rewrite_utils.assets
	$(BIN)/python -m rewrite_utils.runs.refresh $(if $(ONLY),--only $(ONLY))

lab: env ## open the notebooks in JupyterLab
	@$(BIN)/jupyter lab notebooks/00_tour.ipynb

lint: env ## mend what ruff can mend
	@$(BIN)/ruff check --fix $(PYTHON_FILES)
	$(BIN)/ruff format $(PYTHON_FILES)

types: env ## basedpyright on the package (not yet a gate: it is not clean)
	@$(BIN)/basedpyright

# Keeps the pins that are there; torch is installed before a lock and must not be in it. For the CPU
# lock uv needs to see the CPU build of torch: UV_FIND_LINKS=<folder with its wheel>. The CUDA lock has
# the same versions, but for a package that the two builds of vLLM pin differently, and what the
# overrides of pyproject.toml keep from a CPU (--no-config: it reads none of them).
lock: ## compile the locks again after a change of pyproject.toml (needs uv)
	@compile() {
	  uv pip compile pyproject.toml --extra dev --extra ray --python-version 3.11 \
	    --no-emit-package torch --no-emit-index-url --no-emit-find-links --no-annotate --no-header \
	    "$$@" > /dev/null
	}
	compile --extra simulator-cpu --output-file requirements/lock-cpu.txt
	shared=$$(mktemp)
	grep -v '^apache-tvm-ffi=' requirements/lock-cpu.txt > "$$shared"
	compile --no-config --extra simulator --constraint "$$shared" \
	  --python-platform x86_64-manylinux_2_28 --output-file requirements/lock-cuda.txt

clean: ## remove caches and build leftovers; runs/ and .venv stay
	@rm -rf build .pytest_cache .ruff_cache *.egg-info .hypothesis
	find rewrite_utils tests notebooks benchmarks -type d \
	  \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
