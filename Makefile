# Each of `make demo` and `make test` sets up all it needs on a machine that has Python, git and make, then runs.
# A second run finds the stamp of the set-up and starts at once.

VENV ?= .venv
PYTHON ?=
BIN := $(VENV)/bin
IMAGES := playground/images
ASK := $(BIN)/python -m llava.eval.run_llava

# The stamps change hands when what is pinned does; a set-up that fails leaves none.
READY := $(VENV)/.ready
READY_DEV := $(VENV)/.ready-dev

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint format clean

help:
	@echo "make demo    set up, then ask the embedded model about two images"
	@echo "make test    set up, then run the tests          (ARGS='-k name' chooses some)"
	@echo "make lint    set up, then ruff check, ruff format --check, mypy"
	@echo "make format  set up, then let ruff format and fix what it can"
	@echo "make clean   remove $(VENV), caches and build output"
	@echo "PYTHON=python3.12 chooses the interpreter for $(VENV), VENV=folder its place."

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
	@echo "That was the small model that comes with the package; it knows clothes and simple drawn scenes, no more."
	@echo "Next: ask about an image of your own with --image-file, or use a full LLaVA with --model-path;"
	@echo "README.md, section \"LLaVA Weights\", tells which checkpoints can be read and where to put them."

test: $(READY_DEV)
	@# A browser beside others is too slow for its users' patience: those tests run by themselves. 5 is "none chosen".
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist worksteal --browser-tests none $(ARGS) || [ $$? -eq 5 ]
	$(BIN)/python -m pytest -q --browser-tests only $(ARGS) || [ $$? -eq 5 ]

lint: $(READY_DEV)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

format: $(READY_DEV)
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
