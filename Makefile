# What a user and a contributor run. `make help` lists it.
BIN := .venv/bin
# Written once, used by all: some environments switch bytecode off, which doubles every import.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help venv demo up down status test test-more test-slow test-k8s bench lint lint-helm format lock clean

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: .venv/.stamp ## the locked environment in .venv (PYTHON=... chooses the interpreter)

.venv/.stamp: requirements.lock pyproject.toml tools/venv.sh
	@PYTHON="$(PYTHON)" bash tools/venv.sh

demo: venv ## the whole flights pipeline through a real Airflow; ends by itself
	@$(BIN)/python tools/demo.py

up: venv ## Airflow, MLflow and PostgreSQL, left running to browse
	@$(BIN)/python tools/deployment.py up

down: ## end what `make up` started; all data is kept
	@if [ -x $(BIN)/python ]; then $(BIN)/python tools/deployment.py down; fi

status: ## what runs, and where
	@$(BIN)/python tools/deployment.py status

# A suite; with AGAIN=1 what failed is run once more, alone, and named as what must be mended: for a busy machine of CI.
suite = $(BIN)/pytest -q -m "not slow" $(1) $(2) || { test -n "$(AGAIN)" && echo "FLAKY UNLESS IT FAILS AGAIN:" && \
	$(BIN)/pytest -v -m "not slow" --last-failed --last-failed-no-failures none $(1); }

# On several processes, a file each; tests/conftest.py has the longest begin first.
at_once = -n 3 --dist loadfile --no-loadscope-reorder
# What is killed, fails, takes a cluster, or all flights of a year.
failures = tests/unit/kubernetes tests/scenarios tests/unit/train/test_train_killed.py \
	tests/unit/train/test_checkpoints.py tests/unit/train/test_checkpointed_training.py \
	tests/unit/ingest/test_killed.py tests/unit/search/test_local_search.py tests/unit/fleet/test_local_fleet.py \
	tests/unit/promote/test_mlflow_fails.py tests/unit/promote/test_at_once.py tests/unit/memo/test_claims.py \
	tests/unit/control/test_local_compute.py tests/unit/backfill/test_backfill_run.py \
	tests/unit/features/test_flights_features.py tests/unit/evaluate/test_flights_behaviour.py \
	tests/unit/search/test_search_operator.py

test: venv lint ## what proves it, in ten minutes on two cores
	@$(call suite,tests --ignore tests/integration $(patsubst %,--ignore %,$(failures)),$(at_once))

test-more: venv ## what is killed or fails, clusters, and the pipeline through a real Airflow
	@$(call suite,$(failures),$(at_once))
	@$(call suite,tests/integration)

test-slow: .venv-slow/.stamp ## what takes minutes or installs more (PyTorch, XGBoost, CatBoost, ONNX), in .venv-slow
	@.venv-slow/bin/pytest -q -m slow -n 2 --dist loadfile --no-loadscope-reorder tests

.venv-slow/.stamp: requirements.lock pyproject.toml tools/venv.sh
	@PYTHON="$(PYTHON)" bash tools/venv.sh slow

bench: venv ## the table of docs/benchmarks.md: each row a ratio (ONLY="predict" ROWS=1000000 N=3 for a part of it)
	@$(BIN)/python -m bench $(if $(ONLY),--only $(ONLY)) $(if $(ROWS),--rows $(ROWS)) $(if $(N),--n $(N)) $(if $(WRITE),--write)

test-k8s: venv ## the scenarios on the cluster of the current kube context: IMAGE=steps-image [HOST=address of this machine there]
	@test -n "$(IMAGE)" || { echo "name the steps image that the cluster has: make test-k8s IMAGE=..."; exit 2; }
	@$(BIN)/pytest -q tests/scenarios tests/k8s --image "$(IMAGE)" $(if $(HOST),--host "$(HOST)")

lint-helm: venv ## security scan of the chart and the Dockerfiles, in an environment of its own
	@$(BIN)/pytest -q -m slow tests/helm/test_checkov.py

lint: venv ## style, types, import boundaries
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: venv ## rewrite to the project's style
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format .

lock: ## resolve requirements.lock anew from pyproject.toml (UPGRADE=1: to the newest versions)
	@PYTHON="$(PYTHON)" bash tools/venv.sh uv
	.venv-uv/bin/uv pip compile --quiet pyproject.toml --universal --python-version 3.11 --group dev \
		--extra airflow --extra kubernetes --extra lightgbm --extra search \
		--generate-hashes --no-emit-index-url --no-header $(if $(UPGRADE),--upgrade) -o requirements.lock
	@bash docker/lock.sh

clean: down ## end and delete the local deployment with its data, and all caches; .venv stays
	@rm -rf .airflow .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis dist
	@find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +
