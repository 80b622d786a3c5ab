# Every target works from a fresh checkout: the first one makes .venv and installs what is needed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# As many as the smallest machine has cores: end-to-end tests wait for each other's packets.
TEST_WORKERS ?= 2

# What the extension is built from: a change builds it again.
CORE := setup.py $(wildcard qlb/dataplane/core/*.h qlb/dataplane/batch/*.[ch])
FUZZ := build/fuzz

.PHONY: run demo test check bench fuzz fuzz-router fuzz-core format clean

run: $(VENV)/run.stamp
	@$(BIN)/qlb run configs/quickstart.yaml --demo-backends

demo: $(VENV)/run.stamp
	@$(BIN)/qlb demo configs/quickstart.yaml

test: $(VENV)/test.stamp
	$(BIN)/pytest -n $(TEST_WORKERS) --dist worksteal

check: $(VENV)/test.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q -n 2 -m "not e2e" --ignore tests/dataplane/core --ignore tests/fuzz/test_core.py --cov --cov-report=
	$(BIN)/coverage report --skip-covered --include="qlb/errors.py,qlb/wire/*,qlb/cid/*,qlb/routing/*" --fail-under=100
	$(BIN)/pytest -q -n 2 -m "not slow and not toolchain" tests/dataplane/core

bench: $(VENV)/test.stamp
	$(BIN)/python -m benchmarks

fuzz: fuzz-router fuzz-core

fuzz-router: $(VENV)/test.stamp
	$(BIN)/pip install --quiet atheris
	$(BIN)/python tests/fuzz/fuzz_router.py -max_total_time=60

# Needs clang and its runtimes (Debian: clang, libclang-rt-14-dev).
fuzz-core: $(VENV)/test.stamp
	mkdir -p $(FUZZ)
	$(BIN)/python -m tests.fuzz.core_seeds $(FUZZ)
	clang -std=c11 -Iqlb/dataplane -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all \
		tests/fuzz/fuzz_core.c -o $(FUZZ)/fuzz_core
	QLB_FUZZ_TABLE=$(FUZZ)/table $(FUZZ)/fuzz_core -max_total_time=60 -max_len=512 $(FUZZ)/corpus

format: $(VENV)/test.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage *.egg-info qlb/dataplane/*.so

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: pyproject.toml $(CORE) | $(VENV)/bin/python
	$(BIN)/pip install --quiet --editable ".[aioquic]"
	@touch $@

$(VENV)/test.stamp: pyproject.toml $(CORE) | $(VENV)/bin/python
	$(BIN)/pip install --quiet --editable ".[dev,e2e]"
	@touch $@ $(VENV)/run.stamp
