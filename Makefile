# `make demo` is the whole main job, `make test` every test; `make help` lists the rest.
# Stamps in .venv keep repeated calls quick; a changed Rust file rebuilds the extension.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
# rustup puts cargo here and tells only login shells about it.
export PATH := $(HOME)/.cargo/bin:$(PATH)
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
export PYO3_PYTHON := $(CURDIR)/$(BIN)/python
export PIP_DISABLE_PIP_VERSION_CHECK := 1

RUST := Cargo.toml Cargo.lock $(shell find rust -name target -prune -o -type f -name '*.rs' -print -o -type f -name '*.c' -print -o -type f -name Cargo.toml -print)

.PHONY: help setup demo test fuzz miri asan arm lint format wheel wheel-test bench clean

help: ## This list.
	@sed -n 's/^\([a-z-]*\):.*## /  make \1|/p' $(MAKEFILE_LIST) | awk -F '|' '{ printf "%-20s %s\n", $$1, $$2 }'

setup: $(VENV)/.extension ## Tools, .venv, dependencies, the extension. Every other target does it first.

demo: setup ## The main job from images to a report. DATA=PATH: on a folder of images or a tar.
	$(BIN)/python -m barlow.demo --run "$(or $(RUN),runs/demo)" $(if $(DATA),--data "$(DATA)")
	@echo "for more of barlow in this shell: . $(BIN)/activate"

test: setup ## All tests, Rust and Python, two at a time.
	cargo test --locked --package barlow-data
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

fuzz: setup ## Each fuzz target for a minute. SECONDS=600; TARGETS="tar index decode recode".
	rust/fuzz/run "$(or $(SECONDS),60)" $(TARGETS)

miri: setup ## Undefined behaviour in the parts without FFI; needs a nightly Rust.
	.ci/miri

asan: setup ## The Rust tests under AddressSanitizer, libjpeg-turbo with them; needs a nightly Rust, and clang.
	.ci/asan

arm: setup ## The Rust tests on emulated 64-bit ARM, NEON among them; says what it needs. CI does not run it.
	.ci/arm

lint: setup ## Formatting, clippy, ruff, types, architecture.
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- --deny warnings
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/python -m pytest -q tests/test_architecture.py

format: setup ## Formats Rust and Python.
	cargo fmt --all
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheel: setup ## One wheel for CPython >= 3.10 in dist/.
	rm -f dist/*.whl
	$(BIN)/maturin build --release --locked --out dist

wheel-test: ## The wheel in an empty environment away from here. FULL=1: its dependencies are downloaded anew.
	ls dist/*.whl > /dev/null 2>&1 || $(MAKE) wheel
	.ci/wheel-test $(if $(FULL),--full)

bench: setup ## The loader and the loss beside the official ones on this machine.
	$(BIN)/python -m pytest benches --benchmark-only

clean: ## Removes what was built; keeps runs/.
	rm -rf $(VENV) target rust/fuzz/target dist .pytest_cache .ruff_cache .benchmarks
	rm -f python/barlow/_native*.so

# basedpyright, maturin and pytest come from the dependency group, torch and the rest with the package.
$(VENV)/.dependencies: pyproject.toml .ci/tools
	tools="$$(.ci/tools)"; test -x $(BIN)/python || "$$tools" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --group dev
	touch $@

$(VENV)/.extension: $(VENV)/.dependencies $(RUST)
	$(BIN)/maturin develop --release --locked
	touch $@
