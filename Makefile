# make demo   set up, then run a sweep of real QLoRA trials offline and print the board
# make test   set up, then pass the tests
# make kernels set up, then run whole steps and products by the GPU kernels, interpreted on the CPU
# make faults set up, then break a real engine in every way we know, and look what is left of it
# make test-lowest  set up the lowest versions that pyproject.toml allows, then pass the tests
# make check  set up, then lint, types and import contracts

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-lowest kernels faults check format clean
.DELETE_ON_ERROR:

demo: .venv/installed
	@$(BIN)/workbench demo

# Three processes on two cores: the tests of the screen often wait. Compiled first, so that no child
# process of a test compiles our modules again where PYTHONDONTWRITEBYTECODE is set.
test: .venv/tools
	@$(BIN)/python -m compileall -q workbench tui
	@$(BIN)/python -m pytest -n 3 --dist worksteal

# In an environment of its own. Run it before a lower bound in pyproject.toml is changed.
test-lowest:
	@test -x .venv-lowest/bin/python || $(PYTHON) -m venv .venv-lowest
	@$(PYTHON) tests/support/lowest_versions.py > .venv-lowest/constraints.txt
	@.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check --constraint .venv-lowest/constraints.txt --editable '.[test]'
	@.venv-lowest/bin/python -m pytest -n 3 --dist worksteal

# Whole steps of the two families that take most kernels; docs/step.md names the tests of each kernel.
kernels: .venv/tools .venv/triton
	@TRITON_INTERPRET=1 PYTHONPATH=.venv/triton $(BIN)/python -m pytest -n 2 tests/training/step/test_parity.py tests/training/step/test_small_kernels.py tests/training/decode/test_nf4_product.py -k "every_family and (gemma2 or qwen3_5_text) or last_product or share_their_gradient or nf4_product"

# Beside the environment, where torch's own Triton may be another one, or none.
.venv/triton: .venv/installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $@ 'triton==3.7.1'

# Two tests at a time, each process with an engine of its own; tests of one group stay together.
faults: .venv/tools
	@$(BIN)/python -m pytest -n 2 --dist loadgroup -m "fault and not slow and not gpu" tests/faults

check: .venv/tools
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: .venv/tools
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

# What runs. Done once, and again when pyproject.toml changes.
.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing the workbench into .venv (about 2 GB, once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

# What tests and checks it.
.venv/tools: .venv/installed pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,check]'
	@touch $@

clean:
	rm -rf .venv .venv-lowest
