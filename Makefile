# Everything runs in .venv, made with plain venv and pip by whichever Python is named.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --quiet --disable-pip-version-check
WORKERS ?= auto
JAX ?= jax
FLOOR = $(shell sed -n 's/.*"jax>=\([0-9.]*\)".*/jax==\1/p' pyproject.toml)

.PHONY: help demo test test-slow test-slow-tenth sanitize sweep package kernels test-all test-floor test-peers bench bench-gpu notebooks docs lint types format clean

help: ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# The environment is made anew when what it holds is declared anew.
$(VENV)/.ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "jaxlstm needs Python 3.11 or newer: make PYTHON=...")'
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) install --upgrade 'pip>=25.1'
	$(PIP) install --editable '.[demo]' '$(JAX)' --group test --group lint
	touch $@

demo: $(VENV)/.ready ## train three networks over growing distances and on text: pictures, a sample
	$(BIN)/python -m jaxlstm

# Most of the time goes into compiling small programs: the laws, which are many, take the compiler
# at its fastest.  What is about the compiler itself, or measures, takes it as users have it.
FASTEST = --xla_backend_optimization_level=0 $(call known,--xla_cpu_use_fusion_emitters=false) \
	$(call known,--xla_cpu_parallel_codegen_split_count=1)
# JAX stops at a flag that it does not know, and newer ones do not know all of these.
known = $(shell XLA_FLAGS=$(1) $(BIN)/python -c 'import jax; jax.devices()' >/dev/null 2>&1 && echo $(1))
AS_USED = test_benchmarks test_goldens_torch test_xla
IGNORED = $(AS_USED:%=--ignore=tests/%.py)

# A worker takes a run of tests that stand together, which share compiled programs, and when it has
# done them, some of another's.
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --cpu
LAWS = XLA_FLAGS='$(FASTEST)' $(PYTEST) $(IGNORED)
OTHERS = XLA_FLAGS='$(call known,--xla_cpu_parallel_codegen_split_count=1)' $(PYTEST) $(AS_USED:%=tests/%.py)

test: $(VENV)/.ready ## the fast tests
	$(LAWS)
	$(OTHERS)

MINUTES ?= 3
test-slow: $(VENV)/.ready ## all that `test` leaves out: every cell, more cases of each law, and a sweep
	$(LAWS) -m slow --minutes $(MINUTES)
	$(OTHERS) -m slow

# The notebooks have a target of their own.
TENTH ?= today
test-slow-tenth: $(VENV)/.ready ## a tenth of them, another each day: TENTH=0 to 9
	$(LAWS) -m slow --tenth $(TENTH) --ignore=tests/test_notebooks.py
	$(OTHERS) -m slow --tenth $(TENTH)

sanitize: $(VENV)/.ready ## the kernel for the CPU under ThreadSanitizer and AddressSanitizer
	$(BIN)/python -m pytest -m slow tests/test_native_compiler.py -k sanitizers

sweep: $(VENV)/.ready ## random networks beside the oracle, others each day: MINUTES=60
	XLA_FLAGS='$(FASTEST)' $(PYTEST) -m slow tests/test_random_networks.py -k sweep --minutes $(MINUTES)

# By name, or where pyenv keeps them: its commands are there for versions that it does not run.
PYENV = $(or $(PYENV_ROOT),$(HOME)/.pyenv)
makes_venv = $(shell $(1) -c 'import ensurepip' >/dev/null 2>&1 && echo $(1))
found = $(firstword $(foreach p,python$(1) $(wildcard $(PYENV)/versions/$(1).*/bin/python3),$(call makes_venv,$(p))))
PYTHONS = $(foreach v,3.11 3.12 3.13,$(call found,$(v)))

test-all: ## the fast tests on every Python found, each with its newest JAX, and with the oldest
	set -e; pythons='$(PYTHONS)'; echo "Python: $${pythons:-no 3.11 to 3.13 found}"; for p in $$pythons; do \
	  venv=.venv-$$($$p -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	  $(MAKE) $$venv/.ready PYTHON=$$p VENV=$$venv; \
	  $$venv/bin/python -m pip --quiet --disable-pip-version-check install --upgrade jax; \
	  $(MAKE) test PYTHON=$$p VENV=$$venv; done
	$(MAKE) test VENV=.venv-floor JAX='$(FLOOR)'

# Short enough for every commit: gradients, the arguments, the README, with the oldest JAX.
test-floor: ## derivatives and the README's snippets with the oldest JAX
	$(MAKE) .venv-floor/.ready VENV=.venv-floor JAX='$(FLOOR)'
	.venv-floor/bin/python -m pytest -n $(WORKERS) $(FLOOR_TESTS:%=tests/test_%.py)
FLOOR_TESTS = derivatives arguments pages own_cells_and_nodes

# PyTorch comes first, at its pinned version, so that nothing else draws another build of it.
PEERS = .venv-peers/bin
.venv-peers/.ready: pyproject.toml
	$(PYTHON) -m venv --clear .venv-peers
	$(PEERS)/python -m pip --quiet install --upgrade 'pip>=25.1'
	$(PEERS)/python -m pip --quiet install torch==2.13.0
	$(PEERS)/python -m pip --quiet install --editable . --group test --group peers
	touch $@

test-peers: .venv-peers/.ready ## beside PyTorch, Keras, Flax, Haiku, Equinox, ONNX Runtime, silero-vad
	$(PEERS)/python -m pytest -m peers

# What is measured, as options of the script: make bench BENCH='--cells lstm --sizes 16,113,128,128'
bench: .venv-peers/.ready ## speed beside the peers on CPU, of every cell, and latency of streaming
	$(PEERS)/python benchmarks/cpu.py $(BENCH)
	$(PEERS)/python benchmarks/cells.py
	$(PEERS)/python benchmarks/streaming.py

# PyTorch is measured where it is installed already; its CUDA must be that of JAX.
.venv-gpu/.ready: pyproject.toml
	$(PYTHON) -m venv --clear .venv-gpu
	.venv-gpu/bin/python -m pip --quiet install --upgrade 'pip>=25.1'
	.venv-gpu/bin/python -m pip --quiet install --editable . 'jax[cuda12]' flax equinox
	touch $@

bench-gpu: .venv-gpu/.ready ## speed beside JAX's peers and PyTorch on an NVIDIA GPU
	.venv-gpu/bin/python benchmarks/gpu.py $(BENCH)

# The wheel is built from the source distribution, and the tests of that are run on this wheel.
FROM_SDIST = test_release test_api_page test_pages test_arguments test_notebooks
package: ## build both distributions, check them, and run tests of one on the other
	rm -rf dist
	$(PYTHON) -m venv --clear .venv-package
	.venv-package/bin/python -m pip --quiet --disable-pip-version-check install build twine
	.venv-package/bin/python -m build --outdir dist
	.venv-package/bin/python -m twine check --strict dist/*
	$(PYTHON) -m venv --clear .venv-package
	.venv-package/bin/python -m pip --quiet --disable-pip-version-check install dist/*.whl
	cd dist && ../.venv-package/bin/python -W error -c 'import jaxlstm'
	cd dist && tar -xzf *.tar.gz
	cd dist/jaxlstm-*/ && $(abspath .venv-package)/bin/python -m pip --quiet install --upgrade 'pip>=25.1'
	cd dist/jaxlstm-*/ && $(abspath .venv-package)/bin/python -m pip --quiet install --group test matplotlib
	cd dist/jaxlstm-*/ && $(abspath .venv-package)/bin/python -m pytest -q --collect-only tests >/dev/null
	cd dist/jaxlstm-*/ && $(abspath .venv-package)/bin/python -m pytest -q $(FROM_SDIST:%=tests/%.py)

# The oldest JAX compiles them: newer jaxlibs take what was made for its FFI.  Each version of JAX may
# trace the equations otherwise, so the newest is asked for its sources too.
kernels: $(VENV)/.ready ## the wheel of CPU kernels for machines without a C++ compiler
	$(MAKE) .venv-floor/.ready VENV=.venv-floor JAX='$(FLOOR)'
	$(PYTHON) -m venv --clear .venv-newest
	.venv-newest/bin/python -m pip --quiet --disable-pip-version-check install --upgrade . jax
	JAX_PLATFORMS=cpu nice .venv-floor/bin/python kernels/build.py .venv-newest/bin/python $(BIN)/python

notebooks: .venv-docs/.ready ## run all of them; a changed result fails
	.venv-docs/bin/python -m pytest -s -m 'slow or not slow' tests/test_notebooks.py

.venv-docs/.ready: pyproject.toml
	$(PYTHON) -m venv --clear .venv-docs
	.venv-docs/bin/python -m pip --quiet install --upgrade 'pip>=25.1'
	.venv-docs/bin/python -m pip --quiet install --editable '.[demo,plot]' --group test --group docs
	touch $@

docs: .venv-docs/.ready ## the documentation site, into docs/_build, and a look at it
	.venv-docs/bin/python -m sphinx -W --keep-going -b html docs docs/_build
	JAXLSTM_SITE=docs/_build .venv-docs/bin/python -m pytest -q -rs tests/test_site.py

lint: $(VENV)/.ready ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.ready ## pyright, over the code of the pages and notebooks too
	$(BIN)/pyright
	$(BIN)/python -m pytest -m slow tests/test_pages.py::test_types

format: $(VENV)/.ready ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove what make made
	rm -rf .venv .venv-* dist demo-output docs/_build docs/notebooks docs/jupyter_execute docs/.jupyter_cache docs/[A-Z]*.md docs/benchmarks
