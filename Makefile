# The two commands: `make demo` and `make test`. Both set up what they need.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
SERVE  ?= 1
DEMO   ?= demo
FUZZ   ?= 20000

# Where bytecode is not kept (containers like to say so), each of the hundred processes of the tests and
# each kernel compiles the package again.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help env demo test lint bench fuzz clean jsroot chromium cmsdials
.DEFAULT_GOAL := help

help:
	@echo "make demo          set up, simulate, ingest, train, score, show (SERVE=0: end with a summary)"
	@echo "make test          set up and run all tests"
	@echo "make lint          format, lint and type gates"
	@echo "make bench         print the tables of ratios of benchmarks/"
	@echo "make fuzz FUZZ=N   read N mutants of a DQMIO file"
	@echo "make clean         remove the environment, caches and the demo's data"

# The stamp is older than pyproject.toml when dependencies changed. uv needs less than half of pip's time;
# where it cannot be had, or does not reach what pip is configured for, pip does the same.
$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"Python 3.11 to 3.13 wanted, {sys.version.split()[0]} found; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@echo "installing ml4ad and what it needs into $(VENV): some minutes, in silence"
	@$(BIN)/pip install --quiet uv \
	&& $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --editable '.[dev]' \
	|| $(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

env: $(VENV)/.installed

demo: env
	$(BIN)/ml4ad demo $(DEMO) $(if $(filter 0,$(SERVE)),--no-serve,)

# JSROOT is a third reader for the writer's tests; they are skipped, saying so, without Node.
jsroot:
	@if command -v npm >/dev/null; then \
	  test -d tests/jsroot/node_modules/jsroot || npm install --prefix tests/jsroot --ignore-scripts --omit=optional --no-package-lock --no-audit --no-fund --silent \
	  || echo "npm could not install jsroot: tests that read with JSROOT are skipped"; \
	else echo "no npm on the PATH: tests that read with JSROOT are skipped"; fi

# The tests that cmsdials publishes are in its source distribution only.
cmsdials: env
	@ls -d .cmsdials/*/ >/dev/null 2>&1 || { $(BIN)/pip download --quiet --no-deps --no-binary :all: --dest .cmsdials cmsdials \
	&& tar -xzf .cmsdials/cmsdials-*.tar.gz -C .cmsdials; } \
	|| { rm -rf .cmsdials; echo "no source of cmsdials could be had: its own test-suite is skipped"; }

# Browser tests take the Chromium on the PATH, else Debian's where root, else Playwright's own.
chromium: env
	@command -v chromium chromium-browser google-chrome >/dev/null \
	|| { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } \
	|| $(BIN)/playwright install chromium \
	|| echo "NO CHROMIUM could be had: browser tests are skipped (and fail in CI)"

# Two processes, each with a PostgreSQL of its own, have half of the tests each, file by file; who is
# through first takes over from the other. Sharing out whole files left one of them idle at the end.
# Two that each keep a thread per core busy with small matrices only stand in each other's way.
test: env jsroot chromium cmsdials
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist worksteal

lint: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy ml4ad

bench: env
	@for program in benchmarks/*.py; do echo "== $$program"; $(BIN)/python $$program || exit 1; done

fuzz: env
	ML4AD_FUZZ_MUTANTS=$(FUZZ) $(BIN)/pytest tests/test_dqmio_fuzz.py --timeout 0

clean:
	-test ! -x $(BIN)/ml4ad || ML4AD_DATA_DIR=$(DEMO)/data $(BIN)/ml4ad db stop
	rm -rf $(VENV) $(DEMO) .cmsdials .mypy_cache .ruff_cache .pytest_cache .hypothesis tests/jsroot/node_modules *.egg-info
