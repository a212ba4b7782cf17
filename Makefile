# The commands of this project. `make help` lists them.
#
# demo and test install what is missing (setup/install.sh) and build what changed.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: demo test test-quick bench format clean help setup

PYTHON := .venv/bin/python
# Programs of .venv first: horarun, ruff, clang-format, and the python that jobs start.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Compilations are shared by all builds and checkouts of this user: the compiler has one name, and
# paths count from the checkout.
export CC := cc
export CXX := c++
export CCACHE_BASEDIR := $(CURDIR)
export CCACHE_NOHASHDIR := 1
export CMAKE_C_COMPILER_LAUNCHER := ccache
export CMAKE_CXX_COMPILER_LAUNCHER := ccache

demo: ## train a small network on two ranks, and see what compression saves
	@setup/install.sh --ask
	@$(MAKE) --no-print-directory .venv/hora.stamp
	@$(PYTHON) examples/digits_demo.py

test: setup ## everything that CI checks (under an hour the first time); STAGES="rules cpp" for some
	@python3 tests/stages.py $(STAGES)

test-quick: setup ## what to run before a commit (3 minutes after the first time)
	@python3 tests/stages.py --quick

bench: setup ## measure, beside the peers that are installed
	@$(MAKE) --no-print-directory .venv/hora.stamp
	@echo "bench: building the benchmarks (log: build/logs/bench.log)"
	@(cmake --preset release && cmake --build --preset release) >build/logs/bench.log 2>&1 || \
	  { tail -n 40 build/logs/bench.log; exit 1; }
	@$(PYTHON) benchmarks/run_all.py

format: setup ## lay out all sources as the rules ask
	@git ls-files -co --exclude-standard '*.h' '*.c' '*.cc' '*.inc' | xargs -r clang-format -i
	@ruff check --quiet --fix . ; ruff format --quiet .

clean: ## remove what was built (the packages in .venv stay)
	rm -rf build
	rm -f .venv/hora.stamp

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup:
	@setup/install.sh

# The Python package, by `pip install`. Only when its sources changed; compiled as the tests are, so
# that ccache has most of it.
SOURCES := $(shell find include compressors fusion ops runtime frameworks launcher cmake \
             CMakeLists.txt pyproject.toml README.md -type f -not -name '*.pyc' 2>/dev/null)
AS_TESTED := -C cmake.build-type=RelWithDebInfo -C cmake.define.HORA_WERROR=ON \
             -C cmake.define.HORA_SHARED_FMT=ON -C install.strip=true
.venv/hora.stamp: $(SOURCES)
	@mkdir -p build/logs
	@echo "hora: pip install . (log: build/logs/install.log)"
	@$(PYTHON) -m pip --disable-pip-version-check --no-input install --no-build-isolation --no-deps \
	  --force-reinstall $(AS_TESTED) . >build/logs/install.log 2>&1 </dev/null || \
	  { tail -n 40 build/logs/install.log; exit 1; }
	@touch $@
