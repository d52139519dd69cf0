# Set-up happens once: .venv is made again only when the pinned requirements change.
# Bytecode is compiled then, since images of containers often forbid Python to keep it: vLLM loads twice as fast.
# VARIANT=gpu takes vLLM's GPU build in place of the CPU one, and stays taken until VARIANT=cpu is asked for.
VARIANT ?= $(if $(wildcard .venv/.ready-gpu),gpu,cpu)
UV_VERSION := 0.13.9
PYTHON := .venv/bin/python
UV := .venv/bin/uv
READY := .venv/.ready-$(VARIANT)

.PHONY: setup demo test test-all bench-check lint lock head worker docs reference dist clean

setup: $(READY)

$(READY): requirements/$(VARIANT).txt
	test -x $(UV) || (python3 -m venv .venv && .venv/bin/pip install --quiet uv==$(UV_VERSION))
	$(UV) pip sync --quiet --compile-bytecode --python $(PYTHON) requirements/$(VARIANT).txt
	$(UV) pip install --quiet --python $(PYTHON) --no-deps uv==$(UV_VERSION)
	$(UV) pip install --quiet --python $(PYTHON) --no-deps --no-build-isolation --editable .
	rm -f .venv/.ready-* && touch $@

demo: setup
	$(PYTHON) -m jobs.demo configs/demo/demo.yaml $(if $(SOURCE),source=$(SOURCE)) $(if $(ROOT),root=$(ROOT)) $(ARGS)

test: setup
	$(PYTHON) -m pytest -m "not slow"

test-all: setup
	$(PYTHON) -m pytest

# The quick benchmarks again, against the committed ratios.
bench-check: setup
	$(PYTHON) -m benchmarks.check $(ARGS)

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports
	.venv/bin/mypy

# A Ray cluster of this machine, and of others that join it; `ray stop` ends it. The token is made once and kept in ~/.ray.
# PATH: a submitted job's `python` is the one that `ray start` found.
head: setup
	.venv/bin/ray get-auth-token --generate > /dev/null
	PATH=$(CURDIR)/.venv/bin:$$PATH RAY_AUTH_MODE=token .venv/bin/ray start --head --dashboard-host=$(or $(DASHBOARD_HOST),127.0.0.1) $(ARGS)

worker: setup
	PATH=$(CURDIR)/.venv/bin:$$PATH RAY_AUTH_MODE=token .venv/bin/ray start --address=$(or $(ADDRESS),$(error give ADDRESS=HEAD:6379)) $(ARGS)

docs: setup
	.venv/bin/mkdocs build

reference: setup
	$(PYTHON) -m jobs.reference

# Wheel and source distribution, into dist/.
dist: setup
	$(UV) build --quiet --no-build-isolation --python $(PYTHON)

# Names and versions of everything, for every platform, without addresses.
lock: setup
	for variant in cpu gpu; do $(UV) pip compile pyproject.toml --extra $$variant --extra dev --universal \
	  --python-version 3.11 --no-annotate --no-header --quiet -o requirements/$$variant.txt; done

clean:
	rm -rf .venv
