# Every target works from a fresh clone; `setup` is quick when nothing changed.
PYTHON ?= python3
WORKERS ?= 2
RUN := .venv/bin/python

.PHONY: setup demo test test-slow coverage mutants reliability lint types docs peers bench clean
.DEFAULT_GOAL := test

setup:
	@$(PYTHON) scripts/bootstrap.py

demo: setup
	@$(RUN) -m bijectory demo

test: setup
	@OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n $(WORKERS)

test-slow: setup
	@OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n $(WORKERS) -m slow

coverage: setup
	@OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n $(WORKERS) --cov --cov-report=term:skip-covered --cov-report=html $(TESTS)
	@echo "Line by line, with the branches that were not taken: htmlcov/index.html"

mutants: setup
	@$(RUN) benchmarks/mutants.py

lint: setup
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .

types: setup
	@$(RUN) -m mypy

docs: setup
	@$(RUN) scripts/docs.py

reliability: setup
	@OMP_NUM_THREADS=1 $(RUN) -m benchmarks.reliability

peers: .venv-bench/ready

bench: .venv-bench/ready
	@.venv-bench/bin/python benchmarks/autoregressive_sampling.py

.venv-bench/ready: benchmarks/requirements.txt constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install -q -c constraints.txt -r benchmarks/requirements.txt -e .
	@touch $@

clean:
	rm -rf .venv .venv-bench build dist demo-run .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
