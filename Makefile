# The commands of this project. `make demo` and `make test` need only Python 3.11 to 3.13 and make.
# uv installs if it is on the PATH, else pip. With uv, TORCH=cpu leaves out the CUDA libraries.
PYTHON ?= python3
BIN := .venv/bin
UV := $(shell command -v uv 2>/dev/null)

# Some containers set this variable. Every command would then compile again all that it imports.
export PYTHONDONTWRITEBYTECODE :=

ifdef UV
VENV := $(UV) venv --quiet --seed --python $(PYTHON) .venv
INSTALL := $(UV) pip install --quiet --python $(BIN)/python
else
VENV := $(PYTHON) -m venv .venv
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
endif

.PHONY: demo figures test test-slow test-slurm lint install lock benchmark gpu readme notebook docs clean

demo: install           ## the papers' claim in two minutes: train six networks on digits, then the report
	$(BIN)/python train.py -m depth=20,56,110 arch=plain,resnet_v2 data=digits
	$(BIN)/python report.py

figures: install        ## every figure and every claim of the papers on digits: under ten minutes with bf16 instructions
	$(BIN)/python train.py -m depth=20,56,110 arch=plain,resnet_v1,resnet_v2 data=digits
	$(BIN)/python train.py experiment=constructed_solution data=digits
	$(BIN)/python train.py -m depth=20 arch.mix=half_shortcut,half_both,exclusive_gate,shortcut_gate data=digits
	$(BIN)/python train.py -m depth=20 arch.shortcut=B,C,dropout data=digits
	$(BIN)/python train.py -m depth=20 arch.order=bn_after_add,relu_before_add,relu_only_preact data=digits
	$(BIN)/python report.py

test: install           ## the default tests, two files at a time
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: install      ## the long tests, two files at a time
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n 2 --dist loadfile

test-slurm: install     ## the tests on a real SLURM: installs and starts one, as root on Debian or Ubuntu
	$(BIN)/python -m pytest -m slurm

lint: install           ## style, types, and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

CIFAR ?= data
benchmark: install      ## everything about speed, in 20 minutes: CIFAR=FOLDER (else downloaded) PHOTOS=FOLDER (else left out)
	$(BIN)/python benchmarks/speed.py --cifar "$(CIFAR)" $(if $(PHOTOS),--photos "$(PHOTOS)")
	$(BIN)/python -m docs.readme

gpu: install            ## everything there is to measure on a GPU, in 25 minutes, into benchmarks/gpu/
	$(BIN)/python benchmarks/gpu_hour.py --minutes 25 --cifar "$(CIFAR)"

readme: install         ## renew what is generated: tables of README and docs/, RESULTS.md, the picture of the rooms
	$(BIN)/python -m docs.readme
	$(BIN)/python docs/picture.py

notebook: install       ## run docs/degradation.ipynb again and save its outputs: a few minutes on two cores
	$(BIN)/python docs/notebook.py

docs: install           ## the pages of docs/ as a site: docs/_build/html/index.html
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs docs/_build/html

install: .venv/installed

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else \
	  "Python %d.%d is not supported: 3.11 to 3.13 are; try  make PYTHON=python3.12 ..." % v)'
	@echo "Installing into .venv (once; PyTorch is large)"
	@test -x $(BIN)/python || $(VENV)
ifeq ($(TORCH),cpu)
	@test -n "$(UV)" || { echo "TORCH=cpu needs uv: install it, or leave TORCH out"; exit 1; }
	grep -vE '^(cuda|nvidia|triton)' requirements.lock | $(INSTALL) --torch-backend cpu -r -
else
	$(INSTALL) -r requirements.lock
endif
	$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

lock: install           ## pin the newest versions that pyproject.toml allows
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --upgrade --quiet \
	  --no-header --no-annotate --no-emit-index-url --no-emit-find-links --output-file requirements.lock

clean:                  ## remove what was installed; outputs/ stays
	rm -rf .venv docs/_build .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
