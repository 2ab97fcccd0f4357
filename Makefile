# make demo    set up, then the main job on the tiny model and the bundled sample
# make test    set up, then all tests (slow ones too); make quick leaves the slow ones out
# make check   lint and types;  make fix repairs what can be repaired
# make bench   the short form of the benchmarks in benchmarks/
#
# Variables:
#   VENV      the virtual environment to make and use               (default .venv)
#   PYTHON    the Python that makes it, 3.11 or newer               (default python3)
#   PIP_ARGS  extra arguments for pip. On Linux, PyPI's torch brings several GB of CUDA libraries;
#             a machine without a GPU wants
#               make demo PIP_ARGS="--extra-index-url URL"
#             with the URL of the CPU wheels from PyTorch's "Get started" page.
#   PYTEST_ARGS  extra arguments for pytest, e.g. PYTEST_ARGS="-k sandbox"

VENV ?= .venv
PYTHON ?= python3
PIP_ARGS ?=
PYTEST_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS)
# One process a core, each with one thread: twice as fast as one process with a thread a core.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal
SOURCES := mistral_eval tests benchmarks tools

.PHONY: demo test quick check fix bench clean

demo: $(VENV)/.installed
	$(BIN)/mistral-eval run --tasks mmlu,gsm8k --model tiny --data sample

test: $(VENV)/.installed-dev
	$(PYTEST) $(PYTEST_ARGS)

quick: $(VENV)/.installed-dev
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

fix: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/overhead.py --short
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/vs_lm_eval.py --short

$(VENV)/.pip:
	$(PYTHON) -m venv $(VENV)
	$(PIP) "pip>=25.1"
	touch $@

$(VENV)/.installed: $(VENV)/.pip pyproject.toml constraints.txt
	$(PIP) --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --constraint constraints.txt --group dev
	touch $@

clean:
	rm -rf $(VENV) build dist
