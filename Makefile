# make install | demo | test | chaos | bench | lint | audit | lock; options go on with ARGS, e.g. make demo ARGS="--sessions 5 --keep"
PYTHON ?= python3
UV_VERSION := 0.13.9
VENV := .venv
BIN := $(VENV)/bin
CDCS := nexus_tasks/sandbox/real_cdcs
ARGS ?=

.PHONY: install demo test chaos bench lint audit lock clean
.SILENT:

install: $(VENV)/.synced

# the environment is what requirements.lock says, no more and no less
$(VENV)/.synced: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12 …" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) 1>&2
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION) 1>&2
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip sync --quiet --compile-bytecode --require-hashes requirements.lock 1>&2
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable . 1>&2
	touch $@

demo: install
	$(BIN)/nexus-tasks demo $(ARGS)

test: lint
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(ARGS)

chaos: install
	$(BIN)/python -m tests.chaos $(ARGS)

# ARGS="--only throughput --rounds 5", ARGS=--json; docs/performance.md has the parts and the recorded figures
bench: install
	$(BIN)/python -m tests.benchmarks $(ARGS)

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check --quiet
	$(BIN)/mypy

# asks osv.dev about every locked package; .ci/audit ends with 1 for a weakness and with 3 when it could not ask
audit: install
	.ci/audit requirements.lock $(CDCS)/requirements.lock

lock: install
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --generate-hashes \
		--no-emit-index-url --no-annotate --no-header --upgrade pyproject.toml --output-file requirements.lock
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--extra readers --extra flower --extra archive --constraint requirements.lock \
		--no-emit-index-url --no-annotate --no-header pyproject.toml --output-file requirements.deploy.lock
	echo hatchling | VIRTUAL_ENV=$(VENV) $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--constraint requirements.lock --no-emit-index-url --no-annotate --no-header - --output-file deploy/build.lock
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-annotate --no-header --upgrade $(CDCS)/requirements.in --output-file $(CDCS)/requirements.lock

clean:
	rm -rf $(VENV) .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
