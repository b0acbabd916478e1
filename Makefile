# Every target needs only Python 3.11 to 3.14 with `venv`: it makes .venv from constraints.txt first, once, and again
# when setup.cfg, pyproject.toml or constraints.txt changes. pip's own settings (a mirror, a wheel folder, the CPU-only
# build of torch) are read from pip's configuration or PIP_* variables. Another Python: make PYTHON=python3.12 ...

PYTHON ?= python3
VENV ?= .venv
# test processes; each of them computes on one thread
TEST_JOBS ?= 2
TEST_TIMEOUT ?= 300
# iterations that OpenMP threads of the demo busy-wait: few, for machines with other jobs (docs/performance.md)
SPIN ?= 1000

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# The pinned packages exist for these versions of Python; asked before anything is downloaded.
CHECK_PYTHON = $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15) and \
	"Python 3.11 to 3.14 is needed, $(PYTHON) is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12 ...")'
PACKAGE_FILES := setup.cfg pyproject.toml constraints.txt
PYTEST := $(BIN)/python -m pytest -n $(TEST_JOBS) --timeout $(TEST_TIMEOUT)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-full test-min check bench bench-gpu fuzz ablations soak

help:  ## print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

demo: $(VENV)/.installed-demo  ## train on generated stories and search them; DATA=folder takes your own videos
	GOMP_SPINCOUNT=$(SPIN) $(BIN)/python examples/demo/run_demo.py --output outputs/demo $(if $(DATA),--data "$(DATA)")

test: $(VENV)/.installed-test  ## the fast tests, with the core dependencies; ARGS=... goes to pytest
	@echo "Fast tests in $(TEST_JOBS) processes; the slow, browser and extras tests are in make test-full."
	$(PYTEST) $(ARGS)

test-min: $(VENV)-min/.installed  ## the fast tests with the oldest supported transformers
	$(VENV)-min/bin/python -m pytest -n $(TEST_JOBS) --timeout $(TEST_TIMEOUT) $(ARGS)

test-full: $(VENV)/.installed-test-full  ## every test, with every extra: the slow and the browser ones too
	$(PYTEST) -m "" $(ARGS)

check: $(VENV)/.installed-check  ## lint, format and types
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

bench: $(VENV)/.installed-demo  ## time and peak memory of a training step and of the video tower
	$(BIN)/python benchmarks/training_step.py $(ARGS)

bench-gpu: $(VENV)/.installed-demo  ## every benchmark of speed on a CUDA device, into outputs/gpu
	PYTHON=$(abspath $(BIN)/python) benchmarks/run_on_gpu.sh $(ARGS)

ablations: $(VENV)/.installed-demo  ## the paper's ablations in small, resumable: hours; ARGS=--smoke takes a minute
	$(BIN)/python examples/ablations/run_ablations.py $(ARGS)

fuzz: $(VENV)/.installed-test  ## read 10,000 broken video files; none may do harm
	$(BIN)/python tests/fuzz_videos.py $(ARGS)

soak: $(VENV)/.installed-test  ## kill a training run at twenty random moments; it must end as one that never was killed
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/kill_soak.py $(ARGS)

# torch goes in first and alone, so that the packages that need it find it there and do not choose another build.
$(VENV)/.installed-torch: constraints.txt
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet torch --constraint constraints.txt
	@touch $@

$(VENV)/.installed-%: $(VENV)/.installed-torch $(PACKAGE_FILES)
	$(PIP) install --quiet --editable '.[$*]' --constraint constraints.txt
	@touch $@

$(VENV)-min/.installed: setup.cfg pyproject.toml constraints-min.txt
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv $(VENV)-min
	$(VENV)-min/bin/python -m pip --disable-pip-version-check install --quiet torch --constraint constraints-min.txt
	$(VENV)-min/bin/python -m pip --disable-pip-version-check install --quiet --editable '.[test]' --constraint constraints-min.txt
	@touch $@
