# Works on a fresh machine with Python 3.11 or newer and make: no root, no services, no containers.
#   make demo     see it run            make test      all tests but those that are long by their nature
#   make quick    the tests to run      make torture   those: hundreds of rounds, seeds and kills
#                 while one works
#   make lint     linters and types     make bench     rates, memory and delays, beside raw COPY and other tools
#   make soak     an hour of two networks under load and faults: all that they use stays flat (SECONDS=600 for less)
#   make lock     new versions into requirements.lock
#   make clean    remove what these made

SHELL := /bin/sh
BIN := .venv/bin
READY := .venv/.ready

# What one breaks first: the format, values, capture, the way in and out on SQLite, a crossing on PostgreSQL, the layers.
QUICK := tests/format tests/channels tests/tables tests/incoming/test_verdicts.py tests/tables/test_bulk_path.py \
    tests/crossing/test_crossings.py tests/outgoing/test_compose.py tests/test_layers.py tests/database/test_locks.py

.PHONY: demo test quick torture soak lint bench lock clean
.DEFAULT_GOAL := test

demo: $(READY)
	@$(BIN)/exchange demo $(ARGS)

test: $(READY)
	@$(BIN)/python -m pytest $(ARGS)

quick: $(READY)
	@$(BIN)/python -m pytest -m "not processes and not torture and not thorough and (not postgres or quick)" $(QUICK) $(ARGS)

# With SECONDS: seeds of the simulation alone, on every core, for so long.
torture: $(READY)
	@if test -n "$(SECONDS)"; then exec $(BIN)/python -m tests.simulation --seconds $(SECONDS) $(ARGS); \
	else exec $(BIN)/python -m pytest -m "torture or thorough" $(ARGS); fi

soak: $(READY)
	@$(BIN)/python -m tests.soak $(or $(SECONDS),3600) $(SEED)

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(READY)
	@$(BIN)/python -m tests.benchmarks.bench $(ARGS)

# The lock is versions and hashes for every platform, with no address of any index in it.
# `make lock ARGS=--upgrade` takes newer versions; without it only what pyproject.toml asks for changes.
lock: $(READY)
	@test -x .cache/uv/bin/uv || { $(BIN)/python -m venv .cache/uv && .cache/uv/bin/python -m pip install --quiet uv; }
	@.cache/uv/bin/uv --no-config --quiet pip compile pyproject.toml --all-extras \
	    --group test --group lint --group build --universal --python-version 3.11 --generate-hashes \
	    --no-annotate --no-header $(ARGS) -o requirements.lock

clean:
	rm -rf .venv .cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp comes last: an interrupted set-up is begun again, a finished one costs nothing.
$(READY): requirements.lock pyproject.toml
	@found=; for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	    if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then found=$$python; break; fi; \
	done; \
	if test -z "$$found"; then \
	    echo "make: Python 3.11 or newer is needed and none of python3, python3.11 .. python3.14 is one; install it and run make again." >&2; exit 1; \
	fi; \
	if ! "$$found" -c 'import ensurepip, venv' >/dev/null 2>&1; then \
	    echo "make: $$found cannot make virtual environments; install its venv module (on Debian and Ubuntu the package python3-venv) and run make again." >&2; exit 1; \
	fi; \
	echo "Setting up .venv with $$found (once; it takes about a minute) ..."; \
	$(BIN)/python -m pip --version >/dev/null 2>&1 || "$$found" -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(READY)
