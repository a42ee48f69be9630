# Everything a contributor or a curious user runs. `make` alone explains.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
LOCKS := requirements/build.txt requirements/runtime.txt requirements/cluster.txt requirements/check.txt requirements/test.txt
SOURCES := operator pipelines dev tests
BENCH ?= all

.DEFAULT_GOAL := help
.PHONY: help setup prepared demo demo-down test soak bench check lint fmt generate chart golden golden-cluster lock clean
.PHONY: cluster-up cluster-demo cluster-down cluster-status cluster-lock images images-clean

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

setup: $(VENV)/.ready ## Create .venv with exactly the locked packages

$(VENV)/.ready: pyproject.toml $(LOCKS) dev/setup.sh
	@PYTHON=$(PYTHON) dev/setup.sh $(VENV) $(LOCKS)
	@touch $@

demo: setup ## Fetch, verify, convert, quantize, measure, gate and serve a model; DEMO_MODEL=owner/name takes another
	@$(PY) -m dev.demo.run

demo-down: setup ## Stop what the demo left running
	@$(PY) -m dev.demo.run --down

prepared: setup
	@$(PY) -m slm_pipelines.tools.llama_cpp
	@$(PY) -m dev.prepare

test: lint prepared ## Everything that can run on this machine; what was skipped is listed with its reason
	@$(PY) -m pytest -n 2 --dist loadscope --no-loadscope-reorder

soak: prepared ## The long forms: kills by the hundred, every step ended in two ways, a thousand services at rest, ten thousand streams, a large model
	@SLM_SOAK=1 $(PY) -m pytest -m soak

bench: setup ## Measure against a peer in one run, JSON into build/bench; BENCH=name runs one
	@$(PY) -m tests.bench $(BENCH)

check: lint ## Lint, types, import contracts, generated files and unit tests in under a minute; changes nothing
	@$(PY) -m pytest -q -n 2 tests/unit

lint: setup ## The static part of check
	@$(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/ruff format --quiet --check .
	@$(VENV)/bin/mypy --no-error-summary
	@$(VENV)/bin/lint-imports >/dev/null || $(VENV)/bin/lint-imports
	@$(PY) -m dev.generate --check

fmt: setup ## Format, and mend what lint can mend
	@$(VENV)/bin/ruff check --fix --quiet . || true
	@$(VENV)/bin/ruff format .

generate: setup ## Write crds/, docs/reference/ and the chart's CRDs, schema and README from their sources
	@$(PY) -m dev.generate

chart: setup ## Write what Helm makes of the chart: deploy/kustomize and tests/golden/chart (builds Helm once)
	@$(PY) -m dev.rendering

golden: setup ## Make tests/golden again with llama.cpp's own converter (needs torch, about 1 GB)
	@dev/golden/make.sh $(VENV)

golden-cluster: setup ## Write tests/golden/cluster/output from the planners: read the difference before committing it
	@SLM_WRITE_GOLDEN=1 $(PY) -m pytest -q tests/unit/core/test_golden.py

lock: setup ## Pin newer versions of nothing but what pyproject.toml asks for
	@dev/lock.sh

cluster-up: setup ## A real Kubernetes on this machine; K8S_MINOR=1.36 takes another minor
	@$(PY) -m dev.cluster up

cluster-down: setup ## End it and remove every trace
	@$(PY) -m dev.cluster down

cluster-status: setup ## What of it runs, and its KUBECONFIG
	@$(PY) -m dev.cluster status

images: setup ## Build the container images that have changed; BASE=name takes another base image
	@$(PY) -m dev.images build $(if $(BASE),--base $(BASE))

images-clean: setup ## Remove built images, and the bases made for them
	@$(PY) -m dev.images clean

cluster-demo: setup ## The demo on that cluster: images built, chart installed, three manifests to a chat answer
	@$(PY) -m dev.demo.cluster_run

cluster-lock: ## Write the Go module files of the Kubernetes versions in dev/cluster/versions.py
	@PYTHON=$(PYTHON) dev/cluster/lock.sh

clean: ## Remove build/, caches and .venv
	@rm -rf build $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
