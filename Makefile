# One verb each. Every verb does its own set-up; CI runs the same ones.

VENV := .venv
PY := $(VENV)/bin/python
OLDEST := .venv-oldest
NATIVE := CMakeLists.txt setup.py $(shell find csrc -type f)
SETUP := pyproject.toml requirements-build.txt tools/venv.py tap_ext/_version.py $(NATIVE)
CLANG_FORMATTED := $(shell find csrc examples -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

.PHONY: demo soak fuzz fuzz-core sanitize mutants test test-core test-python test-aot test-oldest test-upstream lint format docs bench gpu wheel test-wheel clean

demo: $(VENV)/.demo  ## generate pictures with the bundled model and compare
	$(PY) -m tap_ext demo

test: test-core test-python  ## all tests that need no GPU, and those that do where there is one

test-core: $(VENV)/.test  ## C++ tests of the core and the kernels, without torch
	$(VENV)/bin/cmake -S . -B build/core -G Ninja -DTAP_TORCH=OFF \
		-DCMAKE_MAKE_PROGRAM=$(abspath $(VENV))/bin/ninja
	$(VENV)/bin/cmake --build build/core
	$(VENV)/bin/ctest --test-dir build/core --output-on-failure

test-python: $(VENV)/.test
	$(PY) -m pytest tests -n auto --dist loadgroup

test-oldest: $(OLDEST)/.oldest  ## the same with the oldest diffusers that is supported
	$(OLDEST)/bin/python -m pytest tests -n auto

test-aot: $(VENV)/.test  ## a skip step compiled ahead of time and run from C++; minutes
	$(PY) -m pytest examples/aot

test-upstream: $(VENV)/.test  ## diffusers' own tests with its models accelerated; DIFFUSERS=path
	$(PY) tests/upstream/run.py $(if $(DIFFUSERS),--diffusers "$(abspath $(DIFFUSERS))")

lint: $(VENV)/.lint
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/clang-format --dry-run --Werror $(CLANG_FORMATTED)

format: $(VENV)/.lint
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i $(CLANG_FORMATTED)

docs: $(VENV)/.docs  ## the site, into build/docs; a link that leads nowhere is an error
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build

SCALE := 1.0
DEVICE := cpu
EXAMPLES := 5000
SECONDS := 600
CLANG := clang++
# Optimised, the sanitized kernels would compile for many minutes.
SANITIZED = $(VENV)/bin/cmake -S . -G Ninja -DTAP_TORCH=OFF -DTAP_SANITIZE=address,undefined \
	-DCMAKE_BUILD_TYPE=None -DCMAKE_CXX_FLAGS="-O0 -g" \
	-DCMAKE_MAKE_PROGRAM=$(abspath $(VENV))/bin/ninja

soak: $(VENV)/.test  ## aborts, interleaved requests, determinism; SCALE=0.1 is a tenth of it
	$(PY) -m bench.soak --scale $(SCALE) --device $(DEVICE)

fuzz: $(VENV)/.test  ## EXAMPLES random arguments per op and for Config
	HYPOTHESIS_PROFILE=fuzz TAP_EXT_EXAMPLES=$(EXAMPLES) \
		$(PY) -m pytest tests/ops/test_fuzz.py tests/test_config_fuzz.py -n auto

sanitize: $(VENV)/.test  ## the C++ tests and random arguments, by address and undefined behaviour
	$(SANITIZED) -B build/sanitize
	$(VENV)/bin/cmake --build build/sanitize
	$(VENV)/bin/ctest --test-dir build/sanitize --output-on-failure --parallel 4

fuzz-core: $(VENV)/.test  ## libFuzzer over the kernels' arguments, for SECONDS; needs CLANG >= 16
	$(SANITIZED) -B build/fuzz -DTAP_TESTS=OFF -DTAP_FUZZ=ON -DCMAKE_CXX_COMPILER=$(CLANG)
	$(VENV)/bin/cmake --build build/fuzz
	build/fuzz/fuzz_ops -max_total_time=$(SECONDS) -max_len=4096 -print_final_stats=1

mutants: $(VENV)/.test  ## one change at a time in the arithmetic: every one must fail a test
	$(PY) tools/mutants.py

bench: $(VENV)/.test  ## microbenchmarks of the ops, as ratios to a copy and to plain torch
	$(PY) -m pytest bench

gpu: $(VENV)/.test  ## OUT=dir: build, test, sanitize and measure on a CUDA device, in 10 minutes
	$(PY) -m bench.gpu $(or $(OUT),$(error gpu needs OUT=directory))

# ARCHS and not TAP_CUDA_ARCHS, which would compile the virtual environment's library anew as well.
wheel: $(VENV)/.wheel  ## an sdist, and from it one wheel for every torch; PYTHONS="python3.10 ..."
	TAP_PYTHONS="$(PYTHONS)" $(if $(ARCHS),TAP_CUDA_ARCHS="$(ARCHS)") $(PY) tools/wheel.py build

test-wheel: wheel $(VENV)/.test  ## that wheel, in an environment of its own; BESIDE=folders with torch
	$(PY) tools/wheel.py test $(BESIDE)

# One stamp per extra; each rebuilds the libraries when a native source is newer.
$(VENV)/.%: $(SETUP)
	python3 tools/venv.py $(VENV) $*
	@touch $@

$(OLDEST)/.oldest: $(SETUP)
	python3 tools/venv.py $(OLDEST) oldest
	@touch $@

clean:
	rm -rf build dist *.egg-info $(VENV) $(OLDEST) tap_ext/*.so
