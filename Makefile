# Needs make and Python >= 3.11; everything else goes into .venv. `make help` lists the verbs.

BIN := .venv/bin

# The one list of dependencies is pyproject.toml; an extra brings the backend. gpu where the driver
# of a Linux machine lists a GPU, else cpu; `make run EXTRA=jax` chooses by hand.
ifndef EXTRA
EXTRA := $(shell [ "$$(uname)" = Linux ] && nvidia-smi -L 2>/dev/null | grep -q '^GPU' \
	&& echo gpu || echo cpu)
endif
ifeq ($(EXTRA),jax)
export KERAS_BACKEND ?= jax
endif

# The exact versions that the tests passed with, so that everybody gets a set known to work.
# `make setup CONSTRAINTS=` takes the newest that pyproject.toml's own, wide bounds allow.
CONSTRAINTS ?= constraints.txt
PIP_INSTALL = $(BIN)/python -m pip install -qq $(addprefix --constraint ,$(CONSTRAINTS))

# Environments beside .venv are made often, and uv makes one in seconds.
UV_INSTALL = $(BIN)/uv pip install -q --system-certs --python $(@D)/bin/python --editable

# A stamp says that its install succeeded; an interrupted one leaves none.
RUNTIME := .venv/.installed-$(EXTRA)
TOOLS := $(RUNTIME)-test
OTHERS := $(filter-out $(RUNTIME) $(TOOLS),$(wildcard .venv/.installed-*))

NBVAL := --nbval-lax --nbval-current-env
# In the order in which they are found: the whole course, the longest, is among the first.
SIDE_BY_SIDE := -n 2 --dist loadscope --no-loadscope-reorder

# What other environments run: the versions they have, a few tests, a notebook that trains.
SHOW_VERSIONS := from cifar_utils import runtime; print(runtime.versions())
FEW_TESTS := $(addprefix tests/unit/test_,evaluation.py models.py training.py)
MORE_TESTS := $(addprefix tests/unit/test_,folded.py plots.py runs.py transfer.py \
	export.py::test_other_formats_give_the_same_answers)
ONE_NOTEBOOK := $(NBVAL) notebooks/02_baseline_cnn.ipynb

.DEFAULT_GOAL := help
.PHONY: run setup test lint mutations matrix oldest jax colab format notebooks badges constraints \
	clean help

run: $(RUNTIME) ## run the course and print its results; ARGS="--profile cpu 01 02" are cifar run's
	$(BIN)/cifar run $(ARGS)

setup: $(RUNTIME) ## only install, into .venv

test: lint ## lint, unit and structure tests, every notebook, the pipeline
	$(BIN)/pytest $(SIDE_BY_SIDE)
	$(BIN)/pytest $(NBVAL) $(SIDE_BY_SIDE) notebooks

lint: $(TOOLS) ## style, types, layers and the notebooks' conventions
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.notebooks check

mutations: $(TOOLS) ## break the library in small ways and see that a test notices each
	$(BIN)/python -m tools.mutations

matrix: oldest jax ## a few tests and a notebook on other versions: the oldest we allow, and JAX

oldest: build/oldest/.installed
	build/oldest/bin/python -c "$(SHOW_VERSIONS)"
	build/oldest/bin/pytest --disable-warnings $(SIDE_BY_SIDE) $(FEW_TESTS) $(MORE_TESTS)
	build/oldest/bin/pytest $(ONE_NOTEBOOK)

jax: export KERAS_BACKEND := jax
jax: build/jax/.installed
	build/jax/bin/python -c "$(SHOW_VERSIONS); import keras; assert keras.backend.backend() == 'jax'"
	! build/jax/bin/python -c "import tensorflow" 2>/dev/null
	build/jax/bin/pytest --disable-warnings $(SIDE_BY_SIDE) $(FEW_TESTS)
	build/jax/bin/pytest $(ONE_NOTEBOOK)

colab: $(TOOLS) ## every notebook as in a fresh Colab: its packages, and what the setup cell installs
	$(BIN)/python -m tools.colab

format: $(TOOLS) ## put code and notebooks in the one style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

notebooks: $(TOOLS) ## run the notebooks (smoke, synthetic) and keep their outputs; ONLY="02 03" picks
	$(BIN)/python -m tools.notebooks execute $(ONLY)

badges: $(TOOLS) ## rewrite Colab badges and setup cells from pyproject.toml's URL and version
	$(BIN)/python -m tools.notebooks badges

constraints: ## pin anew what CI runs on: the newest of everything, on the oldest Python we support
	rm -rf build/pins
	PYTHON=$${PYTHON:-python3.11} tools/venv.sh build/pins
	build/pins/bin/python -m pip install -qq ".[cpu,audit,serve,export,tune,test]"
	build/pins/bin/python -m pip freeze --exclude cifar-utils > build/pins/freeze.txt
	sed -n '/^[^#]/!p' constraints.txt > build/pins/constraints.txt
	since=$$(build/pins/bin/python -c 'import platform; print(platform.python_version())') && \
	sed -e "s/$$/; python_full_version >= '$$since' and python_version < '3.14'/" \
		-e p -e 's/^tensorflow[-_]cpu==/tensorflow==/' build/pins/freeze.txt \
		| LC_ALL=C sort -fu >> build/pins/constraints.txt
	mv build/pins/constraints.txt constraints.txt
	rm -rf build/pins

clean: ## remove .venv and every cache; data/ and artifacts/ stay
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache \
		.hypothesis
	find cifar_utils tests tools notebooks -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' Makefile

# tensorflow and tensorflow-cpu install into the same folder, so a change of extra starts afresh.
$(RUNTIME): pyproject.toml $(CONSTRAINTS)
	$(if $(OTHERS),rm -rf .venv)
	@tools/venv.sh .venv
	@echo "Installing the packages of extra '$(EXTRA)': a few minutes, once"
	@$(BIN)/python -m pip install -qq --upgrade pip
	@$(PIP_INSTALL) --editable ".[$(EXTRA),audit,serve,export,tune]"
	@touch $@

$(TOOLS): $(RUNTIME)
	@echo "Installing the test tools"
	@$(PIP_INSTALL) --editable ".[$(EXTRA),audit,serve,export,tune,test]"
	@touch $@

build/oldest/.installed: pyproject.toml | $(TOOLS)
	rm -rf $(@D)
	@PYTHON=$${PYTHON:-python3.11} tools/venv.sh $(@D)
	@$(UV_INSTALL) ".[cpu,audit,serve,export,tune,test]" --resolution lowest-direct
	@touch $@

build/jax/.installed: pyproject.toml $(CONSTRAINTS) | $(TOOLS)
	rm -rf $(@D)
	@tools/venv.sh $(@D)
	@$(UV_INSTALL) ".[jax,audit,serve,tune,test]" $(addprefix --constraint ,$(CONSTRAINTS))
	@touch $@
