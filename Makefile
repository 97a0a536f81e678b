# Everything runs in .venv, which the first target that needs it makes. Needs python3, pip, make and, for the native kernels, g++.
#   make demo     train the paper's first network in a few minutes and show what the kernels gain
#   make test     the tests, without those marked slow (make test-all: with them)
#   make sanitize the CUDA kernels, emulated, and all kernels of ten rules under the sanitizers of g++: no data race, no
#                 index out of range
#   make test-cuda-build  from Python to the launch under CUDA builds of torch, with a stand-in for the card (11 GB)
#   make gpu-check  everything that a card can tell in ten minutes, into runs/gpu-check (docs/gpu-check.md)
#   make check-wheel  builds sdist and wheel, installs them in clean environments with two releases of torch (5 GB)
#   make check-triton  compiles and interprets the Triton kernels under every release of Triton that a PyTorch brings (1 GB)
#   make lint     what must be clean before a commit (make format: lets the formatters do their part)
#   make docs     the documentation site, into build/site, warnings as errors
PYTHON ?= python3
TORCH ?= torch==2.13.0
OTHER_TORCH ?= torch==2.14.1
CUDA_TORCHES ?= 2.11.0 2.14.1
CUDA_CHAIN := tests/test_cuda_chain.py tests/rules/test_on_cuda.py tests/rules/test_launches.py
TRITONS ?= 3.6.0 3.7.0 3.7.1 3.8.0 3.9.0

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
NATIVE := $(sort $(shell find csrc build_backend -type f -not -name '*.pyc' 2>/dev/null)) setup.py pyproject.toml
CXX_FILES = $(shell find csrc tests -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' | grep -v generated/)

# pip builds CUDA kernels for all architectures, which takes minutes; here they are built for the cards of this machine,
# or for one where there is none: with PTX, from which a driver makes code for newer ones.
CARDS := $(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | sort -u)
export TORCH_CUDA_ARCH_LIST ?= $(or $(CARDS),9.0+PTX)

.PHONY: demo test test-all test-cuda-build sanitize lint format docs wheel check-wheel check-triton gpu-check clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	$(BIN)/python -m experiments patterns --preset quick --compare-reference --overwrite

# A process a core; by hand, `python -m pytest` runs in one.
test: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not slow" --numprocesses logical --maxprocesses 8

test-all: $(VENV)/.dev
	$(BIN)/python -m pytest

test-cuda-build: $(VENV)/.dev $(CUDA_TORCHES:%=$(VENV)-torch-%/.made)
	@for version in $(CUDA_TORCHES); do \
	    $(BIN)/python -m tests.cuda_stand_in $(VENV)-torch-$$version/bin/python $(CUDA_CHAIN) || exit 1; \
	done

$(VENV)-torch-%/.made: $(VENV)/.created
	$(BIN)/python -m venv --clear --without-pip $(@D)
	$(PIP) --python $(@D)/bin/python install --quiet torch==$* numpy pytest hypothesis
	@touch $@

sanitize: $(VENV)/.dev
	@$(MAKE) --no-print-directory --keep-going --output-sync -j$(shell nproc) -f tests/cuda_emulator/sanitize.mk
	$(BIN)/python -m tests.rules.sanitized thread
	$(BIN)/python -m tests.rules.sanitized address

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

docs: $(VENV)/.dev
	$(BIN)/python -m sphinx --fresh-env --quiet --fail-on-warning --keep-going -d build/doctrees docs build/site
	@echo "docs: build/site/index.html"

wheel: $(VENV)/.dev
	$(BIN)/python -m build --wheel --no-isolation

check-wheel: $(VENV)/.dev
	PLASTIKERN_TORCHES="$(TORCH) $(OTHER_TORCH)" $(BIN)/python -m pytest tests/test_install.py

check-triton: $(VENV)/.dev
	PLASTIKERN_TRITONS="$(TRITONS)" $(BIN)/python -m pytest tests/test_triton_releases.py

gpu-check: $(VENV)/.dev
	-$(BIN)/python -m build_backend.programs  # beforehand, so that the compiler takes nothing of the time on the card
	$(BIN)/python plastikern/gpu_check --out runs/gpu-check

clean:
	rm -rf build dist *.egg-info plastikern/*.so .mypy_cache .pytest_cache .ruff_cache .hypothesis $(VENV)/.demo $(VENV)/.dev
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# Each stamp stands for one finished step, so that a later make does only what has changed.
# Debian ships python3 without ensurepip: there the pip of the system fills the environment.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "plastikern needs Python 3.10 or newer: name one by make PYTHON=..." >&2; exit 1; }
	@if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then \
	    $(PYTHON) -m venv --clear $(VENV); \
	elif $(PYTHON) -c 'import pip, venv' 2>/dev/null; then \
	    $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip install --quiet pip \
	        --target "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"; \
	else \
	    echo "python3 has neither venv with ensurepip nor pip: install python3-venv (Debian, Ubuntu) or python3-pip" >&2; exit 1; \
	fi
	@touch $@

$(VENV)/.torch: $(VENV)/.created
	$(PIP) install --quiet "setuptools>=77" numpy $(TORCH)
	@touch $@

$(VENV)/.demo: $(VENV)/.torch $(NATIVE)
	@echo "installing plastikern; compiling its kernels takes some minutes the first time"
	$(PIP) install --quiet --no-build-isolation --editable ".[experiments]"
	@$(BIN)/python -m plastikern
	@touch $@

$(VENV)/.dev: $(VENV)/.torch $(NATIVE)
	@echo "installing plastikern; compiling its kernels takes some minutes the first time"
	$(PIP) install --quiet --no-build-isolation --editable ".[dev]"
	@$(BIN)/python -m plastikern
	@touch $@ $(VENV)/.demo
