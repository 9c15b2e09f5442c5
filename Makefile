# One command each; a fresh machine needs Python 3.11 or newer and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet -c constraints.txt

GPU_TABLES = loss_time loss_memory training_step out_of_fold_step exposure_speed

.PHONY: quickstart test test-slow gpu quality style docs clean

quickstart: $(VENV)/.core  ## train a teacher and students, audit them, draw the figure: out/quickstart/
	$(BIN)/swingkd quickstart

test: $(VENV)/.dev  ## everything but the slow tests
	$(BIN)/python -m pytest -m "not slow and not gpu" -n 2 --dist worksteal

test-slow: $(VENV)/.dev  ## the slow tests
	$(BIN)/python -m pytest -m "slow and not gpu"

gpu: $(VENV)/.dev  ## on an accelerator: its tests, and the tables of what takes how long there
	$(BIN)/python -c "import torch; torch.accelerator.is_available() or exit('make gpu needs an accelerator, and torch finds none.')"
	$(BIN)/python -m pytest -m gpu
	for table in $(GPU_TABLES); do \
		PYTHONPATH=. $(BIN)/python tests/benchmarks/$$table.py --out tests/benchmarks/$${table}_gpu.json || exit 1; \
	done

quality: $(VENV)/.dev  ## lint, format, types, direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

style: $(VENV)/.dev  ## let the tools fix what they can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.dev  ## the pages as a site: site/index.html
	$(BIN)/python docs/settings.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) out site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.core: $(VENV)/bin/python pyproject.toml constraints.txt
	$(INSTALL) torch==2.13.0
	$(INSTALL) -e .
	touch $@

$(VENV)/.dev: $(VENV)/.core
	$(INSTALL) -e ".[dev,presidio,federated,server,serve]"
	touch $@
