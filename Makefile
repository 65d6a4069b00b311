# make table1    from a fresh clone to the page with the tables
# make test      from a fresh clone to checked
#
# Both set up .venv first. Options of the command behind a target go into ARGS:
#     make table1 ARGS="--profile standard --seeds 5"
#     make test ARGS="-k greedy"
# PYTHON=/path/to/python3.12 chooses the Python that .venv is made with.

VENV  := .venv
PY    := $(VENV)/bin/python
STAMP := $(VENV)/.installed
UV    ?= uv
ARGS  ?=

.DEFAULT_GOAL := help
.PHONY: help setup table1 test lint bench lock clean

# A .venv whose Python is gone, after a system upgrade say, counts as not installed.
ifeq ($(shell $(PY) -c 'print("ok")' 2>/dev/null),)
$(shell rm -f $(STAMP))
endif

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile
	@echo '  ARGS="..." is passed on, as in: make table1 ARGS="--seeds 5"'

setup: $(STAMP) ## make .venv with the locked packages (the others do it by themselves)

# The stamp goes before the packages change and comes back when all of them are in place: where it
# is missing, an earlier run was cut short, and .venv is made afresh.
$(STAMP): requirements.lock
	@if [ ! -f $(STAMP) ]; then \
	    found=''; \
	    for p in $(if $(PYTHON),'$(PYTHON)',python3 python3.14 python3.13 python3.12 python3.11); do \
	        if "$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' \
	            2>/dev/null; then found="$$p"; break; fi; \
	    done; \
	    if [ -z "$$found" ]; then \
	        echo "error: $(or $(PYTHON),python3) is not Python 3.11 to 3.14; name one with PYTHON=/path/to/python3" >&2; \
	        exit 1; \
	    fi; \
	    "$$found" -m venv --clear $(VENV) >/dev/null 2>&1 || { \
	        echo "error: $$found cannot make a virtual environment (Debian, Ubuntu: install python3-venv)" >&2; \
	        rm -rf $(VENV); exit 1; \
	    }; \
	fi
	@if [ "$$(uname -s)" = Linux ]; then size='about 3 GB'; else size='about 0.3 GB'; fi; \
	echo "Installing the packages of requirements.lock into $(VENV): the first time this downloads $$size and takes a minute or more."
	@rm -f $(STAMP)
	@$(PY) -m pip install -qq --disable-pip-version-check --no-input \
	    --require-hashes -r requirements.lock
	@touch $(STAMP)

table1: $(STAMP) ## run the suite of table 1 and build its page (quick profile: minutes on a laptop)
	@$(PY) -m suites.run table1 $(ARGS)

test: lint ## lint, type checks and all tests, on all cores
	@$(PY) -m pytest -n auto --dist loadscope $(ARGS)

lint: $(STAMP) ## ruff and mypy
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check --quiet . || { echo 'error: not formatted; run $(PY) -m ruff format' >&2; exit 1; }
	@$(PY) -m mypy

bench: $(STAMP) ## time the hot paths: tests/bench_*.py
	@GLIBC_TUNABLES=$${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1} \
	    $(PY) -m pytest tests/bench_*.py $(ARGS) # memory as workers get it

lock: ## resolve requirements.lock anew (needs uv); ARGS="--upgrade" moves its versions
	@command -v $(UV) >/dev/null || { echo "error: uv not found; name it with UV=/path/to/uv" >&2; exit 1; }
	@$(UV) pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
	    --generate-hashes --no-annotate --custom-compile-command 'make lock' \
	    --quiet --output-file requirements.lock $(ARGS)

clean: ## remove .venv and all caches; keeps results and reports
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
