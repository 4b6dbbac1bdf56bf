# Two commands on a bare machine (python3 with venv, make): `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint format docs benchmarks clean

# The pinned core alone.
.venv/core: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) torch==2.13.0
	$(PIP) -e .
	touch $@

# All extras: peers, linters, test tools, documentation.
.venv/all: .venv/core
	$(PIP) -e '.[all]'
	$(PIP) --no-deps multivae
	touch $@

demo: .venv/core
	$(BIN)/infimum run vae-iwae

test: .venv/all
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist loadfile

lint: .venv/all
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/all
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The site, in build/site: open build/site/index.html. A warning fails it. After a change of the code, docs/outputs.py writes
# the outputs in the pages anew.
docs: export NO_MKDOCS_2_WARNING = 1
docs: .venv/all
	$(BIN)/mkdocs build --strict --quiet

# Each writes benchmarks/results/NAME.json; the table in benchmarks/README.md is made from them.
benchmarks: .venv/all
	for file in benchmarks/bench_*.py; do $(BIN)/python $$file || exit 1; done
	$(BIN)/python benchmarks/table.py

clean:
	rm -rf .venv build dist runs .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
