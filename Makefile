# Each target sets up all it needs on a machine that has Python, git and make, then runs.
# A second run finds the stamp of the set-up and starts at once.

VENV ?= .venv
PYTHON ?=
BIN := $(VENV)/bin
IMAGES := playground/images
ASK := $(BIN)/python -m llava.eval.run_llava
PYTEST := $(BIN)/python -m pytest -q --durations=15
PARALLEL := -n auto --maxprocesses 4 --dist worksteal

# The stamps are made anew when the pinned versions change; a set-up that fails leaves none.
READY := $(VENV)/.ready
READY_DEV := $(VENV)/.ready-dev

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo check test unit lint coverage docs format clean

help:
	@echo "make demo      set up, then ask the embedded model about two images"
	@echo "make check     set up, then lint, check types and run the unit tests: one to two minutes"
	@echo "make test      set up, then run all tests        (ARGS='-k name' selects some)"
	@echo "make unit      set up, then run the unit tests   (ARGS as for make test)"
	@echo "make lint      set up, then ruff check, ruff format --check, mypy"
	@echo "make coverage  set up, then run the tests and print their coverage by folder"
	@echo "make docs      set up, then write docs/cli.md"
	@echo "make format    set up, then let ruff format and fix what it can"
	@echo "make clean     remove $(VENV), caches and build output"
	@echo "PYTHON=python3.12 selects the interpreter for $(VENV), VENV=DIR its folder."

$(READY): pyproject.toml constraints.txt scripts/setup_venv.sh
	@PYTHON='$(PYTHON)' scripts/setup_venv.sh '$(VENV)' .
	@touch $@

$(READY_DEV): pyproject.toml constraints.txt scripts/setup_venv.sh
	@PYTHON='$(PYTHON)' scripts/setup_venv.sh '$(VENV)' '.[dev]'
	@touch $(READY) $@

demo: $(READY)
	@echo; echo "A photograph of a shoe from Fashion-MNIST ($(IMAGES)/sneaker.png):"
	$(ASK) --image-file $(IMAGES)/sneaker.png --query "What is in the picture?" --temperature 0
	@echo; echo "A drawn scene ($(IMAGES)/scene.png):"
	$(ASK) --image-file $(IMAGES)/scene.png --query "Describe the picture." --temperature 0
	@echo
	@echo "The embedded model answered; it knows clothes and simple drawn scenes, nothing else."
	@echo "Next: ask about an image of your own with --image-file, or use a full LLaVA with --model-path."
	@echo "The section \"LLaVA Weights\" of README.md lists the checkpoints that can be read and where to put them."

check: $(READY_DEV)
	@# mypy takes as long as half of the tests; side by side they use both cores.
	@$(MAKE) --no-print-directory -j2 lint unit

# Exit code 5 of pytest is "no tests selected".

unit: $(READY_DEV)
	$(PYTEST) $(PARALLEL) -p no:schemathesis tests/unit $(ARGS) || [ $$? -eq 5 ]

test: $(READY_DEV)
	@# Beside other tests a browser is too slow for its users' patience, so its tests run alone.
	$(PYTEST) $(PARALLEL) --browser-tests none $(ARGS) || [ $$? -eq 5 ]
	$(PYTEST) --browser-tests only $(ARGS) || [ $$? -eq 5 ]

coverage: $(READY_DEV)
	$(BIN)/python -m coverage erase
	@# Figures are printed even if a test fails.
	-$(BIN)/python -m coverage run -m pytest -q $(PARALLEL) --browser-tests none $(ARGS)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python scripts/coverage_by_folder.py

lint: $(READY_DEV)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

docs: $(READY_DEV)
	$(BIN)/python -m llava.commands.reference --output docs/cli.md

format: $(READY_DEV)
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
