# Two commands set everything up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= contextae-demo

.PHONY: demo test test-fast check format bench clean help

help:            ## What there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 14

demo: $(VENV)/.user     ## Install, pretrain a small CAE on embedded images, evaluate it, write pictures
	$(BIN)/contextae demo --out $(OUT)

test: $(VENV)/.dev      ## Install with the developers' tools and run the whole test suite
	$(BIN)/python -m pytest

test-fast: $(VENV)/.dev ## The test suite without its slow part
	$(BIN)/python -m pytest -m "not slow"

check: $(VENV)/.dev     ## Format, lint, types, import layers
	$(BIN)/ruff format --check src tests benchmarks tools
	$(BIN)/ruff check src tests benchmarks tools
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev    ## Apply the formatter and the linter's safe fixes
	$(BIN)/ruff format src tests benchmarks tools
	$(BIN)/ruff check --fix src tests benchmarks tools

bench: $(VENV)/.dev     ## Ratios of docs/results.md, each measured in one run
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/input.py

clean:           ## Remove what these commands made
	rm -rf $(VENV) $(OUT) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/.user: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e ".[fast]"
	@touch $@

$(VENV)/.dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e ".[dev,tensorboard,huggingface,onnx,dicom,detection,fast]"
	@touch $@ $(VENV)/.user
