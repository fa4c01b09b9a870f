.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help setup demo demo-faces test test-slow check format reference bench clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: .venv/.ready  ## make .venv with the pinned packages

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev,demo]'
	@touch $@

demo: setup  ## train, score and convert on the embedded data; ends with the path of a contact sheet
	$(BIN)/python jobs/demo.py

demo-faces: setup  ## photos to emoji, on what packages ship and draw; ends with the path of a contact sheet
	$(BIN)/python jobs/demo_faces.py

test: setup  ## the fast tests, in two processes
	$(BIN)/python -m pytest -m 'not slow' -n 2 --dist loadgroup

test-slow: setup  ## the long tests: real training, real kills
	$(BIN)/python -m pytest -m slow

check: setup  ## lint, format, types and imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy dtn_ray
	$(BIN)/lint-imports

format: setup  ## format the code and mend what lint can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

reference: setup  ## write docs/reference/commands.md anew from the options' dataclasses
	$(BIN)/python docs/reference/make.py

bench: setup  ## benchmarks, as ratios in one run
	$(BIN)/python benchmarks/train_step.py
	$(BIN)/python benchmarks/convert.py
	$(BIN)/python benchmarks/search.py

clean:  ## remove .venv and caches; runs stay
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache
