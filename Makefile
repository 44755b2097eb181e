# make demo    everything on generated photos, offline once installed
# make test    the tests
# make docs    the documentation site, in build/docs
# make check   format, lint, types and tests, as before every commit

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt
BROWSERS := chromium chromium-browser google-chrome

# PyTorch then asks for huge pages, and waits less for memory on a CPU.
export THP_MEM_ALLOC_ENABLE := 1

.PHONY: demo test check docs lint install browser database packages clean

demo: $(VENV)/installed
	@$(BIN)/inlier demo --out demo

# A process for each core, up to four, each with one thread; the tests of one file stay together.
test: $(VENV)/installed-dev browser database packages
	@OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile

check: lint test

lint: $(VENV)/installed-dev
	@$(BIN)/ruff format --check
	@$(BIN)/ruff check
	@$(BIN)/mypy

docs: $(VENV)/installed-dev
	@$(BIN)/python -m sphinx -W --keep-going -n -q -b html -d build/doctrees docs build/docs
	@echo "Look at build/docs/index.html"

install: $(VENV)/installed-dev

$(VENV)/installed: pyproject.toml constraints.txt | $(BIN)/pip
	$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(BIN)/pip
	$(PIP_INSTALL) --editable '.[dev]'
	@touch $(VENV)/installed $@

$(BIN)/pip:
	@for python in "$(PYTHON)" python3.13 python3.12 python3.11; do \
	    if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        exec "$$python" -m venv $(VENV); \
	    fi; \
	done; \
	echo "inlier needs Python 3.11 or newer, and $(PYTHON) is none; install one, or name it with make PYTHON=PATH." >&2; \
	exit 1

# The tests of pages need a browser, and are skipped with a reason where none can be had.
browser:
	@for name in $(BROWSERS); do if command -v "$$name" >/dev/null; then exit 0; fi; done; \
	if ! command -v apt-get >/dev/null; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ]; then root="env"; elif sudo -n true 2>/dev/null; then root="sudo -n env"; else exit 0; fi; \
	echo "Installing chromium for the tests of pages ..."; \
	{ $$root apt-get -qq update && \
	  $$root DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends chromium; \
	} </dev/null >/dev/null 2>&1 || echo "chromium cannot be installed; the tests of pages are skipped."

# The tests of searches that several workers share need PostgreSQL, and are skipped with a reason likewise.
database:
	@if ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || ! command -v apt-get >/dev/null; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ]; then root="env"; elif sudo -n true 2>/dev/null; then root="sudo -n env"; else exit 0; fi; \
	echo "Installing PostgreSQL for the tests of searches ..."; \
	{ $$root apt-get -qq update && \
	  $$root DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends postgresql; \
	} </dev/null >/dev/null 2>&1 || echo "PostgreSQL cannot be installed; those tests are skipped."

# The tests of pages need axe-core and onnxruntime-web too, and are skipped with a reason likewise.
PACKAGES := axe-core@4.14.1 onnxruntime-web@1.30.0
packages:
	@if [ -d node_modules/axe-core ] && [ -d node_modules/onnxruntime-web ] || ! command -v npm >/dev/null; then exit 0; fi; \
	echo "Installing $(PACKAGES) for the tests of pages ..."; \
	npm install --no-save --no-package-lock --ignore-scripts --no-audit --no-fund $(PACKAGES) >/dev/null 2>&1 || \
	echo "They cannot be installed; those tests are skipped."

clean:
	rm -rf $(VENV) node_modules demo dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
