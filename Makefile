# One verb each. Every verb does its own set-up; CI runs the same ones.

VENV := .venv
PY := $(VENV)/bin/python
OLDEST := .venv-oldest
NATIVE := CMakeLists.txt setup.py $(shell find csrc -type f)
SETUP := pyproject.toml requirements-build.txt tools/venv.py $(NATIVE)
CLANG_FORMATTED := $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

.PHONY: demo test test-core test-python test-oldest lint format bench wheel clean

demo: $(VENV)/.demo  ## generate pictures with the bundled model and compare
	$(PY) -m tap_ext demo

test: test-core test-python  ## all tests that need no GPU, and those that do where there is one

test-core: $(VENV)/.test  ## C++ tests of the core and the kernels, without torch
	$(VENV)/bin/cmake -S . -B build/core -G Ninja -DTAP_TORCH=OFF \
		-DCMAKE_MAKE_PROGRAM=$(abspath $(VENV))/bin/ninja
	$(VENV)/bin/cmake --build build/core
	$(VENV)/bin/ctest --test-dir build/core --output-on-failure

test-python: $(VENV)/.test
	$(PY) -m pytest tests -n auto

test-oldest: $(OLDEST)/.oldest  ## the same with the oldest diffusers that is supported
	$(OLDEST)/bin/python -m pytest tests -n auto

lint: $(VENV)/.lint
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/clang-format --dry-run --Werror $(CLANG_FORMATTED)

format: $(VENV)/.lint
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i $(CLANG_FORMATTED)

bench: $(VENV)/.test  ## microbenchmarks of the ops, as ratios to a copy and to plain torch
	$(PY) -m pytest bench

wheel: $(VENV)/.test
	$(PY) -m pip wheel --no-build-isolation --no-deps -w dist .

# One stamp per extra; each rebuilds the libraries when a native source is newer.
$(VENV)/.%: $(SETUP)
	python3 tools/venv.py $(VENV) $*
	@touch $@

$(OLDEST)/.oldest: $(SETUP)
	python3 tools/venv.py $(OLDEST) oldest
	@touch $@

clean:
	rm -rf build dist *.egg-info $(VENV) $(OLDEST) tap_ext/*.so
