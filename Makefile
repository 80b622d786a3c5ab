# Every target works from a fresh checkout: the first one makes .venv and installs what is needed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One more than two cores: end-to-end tests mostly wait for each other's packets.
TEST_WORKERS ?= 3

.PHONY: run demo test check bench fuzz format clean

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
	$(BIN)/pytest -q -n 2 -m "not e2e" --cov --cov-report=
	$(BIN)/coverage report --skip-covered --include="qlb/errors.py,qlb/wire/*,qlb/cid/*,qlb/routing/*" --fail-under=100

bench: $(VENV)/test.stamp
	$(BIN)/python -m benchmarks

fuzz: $(VENV)/test.stamp
	$(BIN)/pip install --quiet atheris
	$(BIN)/python tests/fuzz/fuzz_router.py -max_total_time=60

format: $(VENV)/test.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --editable ".[aioquic]"
	@touch $@

$(VENV)/test.stamp: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --editable ".[dev,e2e]"
	@touch $@ $(VENV)/run.stamp
