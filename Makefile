# Every target works from a fresh checkout: the first one makes .venv and installs what is needed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One more than the smallest machine has cores: two workers leave a third of two cores idle.
TEST_WORKERS ?= 3
# What make check leaves to make test, and the rooms that it looks at most closely.
CHECKED := "not e2e and not network and not slow and not toolchain"
BELOW := tests/wire tests/cid tests/routing

# What the extension is built from: a change builds it again.
CORE := setup.py $(wildcard qlb/dataplane/core/*.h qlb/dataplane/batch/*.[ch])
FUZZ := build/fuzz
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g -O1
SOAK_S ?= 600

.PHONY: dist help run demo voice-demo moq-demo test check check-style check-below check-above bench voice docs generate vectors bpf soak pictures asan fuzz fuzz-router fuzz-core format clean

run: $(VENV)/run.stamp ## Run the balancer with three demo servers behind it
	@$(BIN)/qlb run configs/quickstart.yaml --demo-backends

# On free ports, so that it works beside make run.
demo: $(VENV)/run.stamp ## Drive 30 QUIC connections through it while their addresses change
	@$(BIN)/qlb demo configs/quickstart.yaml

# A voice agent in the browser, through a NAT that changes addresses: see examples/voice_agent/README.md.
voice-demo: $(VENV)/run.stamp ## Talk to a voice agent in the browser through a NAT that changes addresses
	@$(BIN)/python -m examples.voice_agent

# The same over MoQ, without a browser: one call, and whether anything was missing. See examples/moq/README.md.
moq-demo: $(VENV)/run.stamp ## Make one call over MoQ, without a browser
	@$(BIN)/pip install --quiet --editable ".[moq]"
	@$(BIN)/python -m examples.moq

test: $(VENV)/test.stamp ## Run every test that this machine can run
	$(BIN)/pytest -n $(TEST_WORKERS) --dist worksteal

check: $(VENV)/test.stamp ## Check format, lint and types, and run the fast tests, in about a minute
	@$(MAKE) --no-print-directory --jobs 3 --output-sync check-style check-below check-above

check-style: $(VENV)/test.stamp ## Check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Floors 0 to 2, every line of which their own tests go through. Tests this small only wait for workers.
check-below: $(VENV)/test.stamp ## Run the fast tests of floors 0 to 2, with full coverage
	$(BIN)/pytest -q -m $(CHECKED) tests/test_*.py $(BELOW) --cov --cov-report=
	$(BIN)/coverage report --skip-covered --fail-under=100

check-above: $(VENV)/test.stamp ## Run all other fast tests
	$(BIN)/pytest -q -m $(CHECKED) -n 3 $(BELOW:%=--ignore=%) --ignore=tests/e2e --ignore-glob='tests/test_*.py'

# nginx (Debian: nginx-light, libnginx-mod-stream) and socat are measured where they are installed.
bench: $(VENV)/test.stamp ## Measure qlb beside nginx, Envoy and socat
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.plot results/forward.json results/forwarding.svg

# 100 calls through a NAT that rebinds, behind qlb and two other designs: some five minutes, see docs/voice.md. nginx and
# Redis are measured where they are installed (Debian: nginx-light, libnginx-mod-stream, redis-server).
voice: $(VENV)/test.stamp ## Measure voice calls through qlb and two other designs
	$(BIN)/python -m benchmarks.voice $(VOICE)

# Strictly: a broken link is an error. See lab/site/.
docs: $(VENV)/docs.stamp ## Build the site with the references into build/site
	@$(BIN)/python -m lab.site

generate: $(VENV)/test.stamp ## Write the C files and manual pages that are generated from Python, which are committed
	$(BIN)/python -m lab.constants
	$(BIN)/python -m lab.site.manual

vectors: $(VENV)/test.stamp ## Write the published test vectors, which are committed
	@$(BIN)/python -m lab.cid_vectors

# The BPF objects, which are committed: needs clang, llvm-strip and libbpf's headers (Debian: clang, llvm, libbpf-dev).
bpf: $(VENV)/test.stamp ## Build the BPF objects, which are committed
	$(BIN)/python -m lab.xdp.objects

fuzz: fuzz-router fuzz-core ## Run both fuzzers for a minute each

fuzz-router: $(VENV)/test.stamp ## Fuzz the router in Python for a minute
	$(BIN)/pip install --quiet atheris
	$(BIN)/python lab/fuzz/fuzz_router.py -max_total_time=60

# Needs clang and its runtimes (Debian: clang, libclang-rt-dev).
fuzz-core: $(VENV)/test.stamp ## Fuzz the C core for a minute
	mkdir -p $(FUZZ)
	$(BIN)/python -m lab.fuzz.core_seeds $(FUZZ)
	clang -std=c11 -Iqlb/dataplane -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all \
		lab/fuzz/fuzz_core.c -o $(FUZZ)/fuzz_core
	QLB_FUZZ_TABLE=$(FUZZ)/table $(FUZZ)/fuzz_core -max_total_time=60 -max_len=512 $(FUZZ)/corpus

# Everything at once: address changes, reloads, kills of workers, garbage.
soak: $(VENV)/test.stamp ## Run address changes, reloads, kills and garbage for SOAK_S seconds
	$(BIN)/python -m lab.soak $(SOAK_S)

# The pictures in docs/ of the status page and of the voice agent: needs Chromium (Debian: chromium, chromium-driver).
pictures: $(VENV)/test.stamp ## Make the pictures in docs/ again
	$(BIN)/python -m lab.pictures docs
	$(BIN)/python -m lab.voice.picture docs

# A copy whose extension checks every access, under the tests of the plane and a short soak. Python's own
# allocations at exit are no leaks of ours.
asan: $(VENV)/test.stamp ## Run the tests of the planes under ASan and UBSan
	rm -rf build/asan && mkdir -p build/asan
	cp -r qlb lab tests pyproject.toml setup.py README.md LICENSE build/asan/
	CFLAGS="$(SANITIZE)" $(BIN)/pip install --quiet --no-deps --target build/asan/built build/asan
	cp build/asan/built/qlb/dataplane/*.so build/asan/qlb/dataplane/
	cd build/asan && LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libubsan.so)" \
		ASAN_OPTIONS=detect_leaks=0 ../../$(BIN)/python -m pytest -q -s -p no:cacheprovider \
		tests/dataplane tests/e2e/test_soak.py -m "not toolchain and (e2e or not slow)"

# Wheel, source distribution and bill of materials of this commit, checked as a package index would. Linux wheels for
# every libc and architecture come from cibuildwheel in containers: see .github/workflows/release.yml.
dist: $(VENV)/run.stamp ## Build the packages in dist/, check them, and list what they install
	@$(BIN)/pip install --quiet --editable ".[dist]"
	$(BIN)/python -m lab.dist

format: $(VENV)/test.stamp ## Format the code and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

clean: ## Remove .venv and everything that was built
	rm -rf $(VENV) build dist .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage *.egg-info qlb/dataplane/*.so

$(VENV)/bin/python:
	@echo "Creating $(VENV)."
	@$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: pyproject.toml $(CORE) | $(VENV)/bin/python
	@echo "Installing qlb and its libraries into $(VENV): about a minute, once."
	@$(BIN)/pip install --quiet --editable ".[aioquic]"
	@touch $@

$(VENV)/docs.stamp: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --editable ".[aioquic,docs]"
	@touch $@

# The last one is Helm, for the tests of its chart: it asks for a newer Python than it needs, and is not for every system.
$(VENV)/test.stamp: pyproject.toml $(CORE) | $(VENV)/bin/python
	@echo "Installing qlb and what its tests need into $(VENV): some minutes, once."
	@$(BIN)/pip install --quiet --editable ".[bench,dev,dist,e2e]"
	-$(BIN)/pip install --quiet --ignore-requires-python --no-deps helm-sdkpy
	@touch $@ $(VENV)/run.stamp
