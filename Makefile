# Every target works first, alone, in a clean clone; what is installed already is not installed again.
#
#   PYTHON            the Python to build .venv with (3.11, 3.12 or 3.13)
#   TORCH_INDEX_URL   where torch comes from; empty: a CPU build, from pip's own configuration or PyTorch's index
#   TORCH_ALLOW_CUDA  not empty: let pip choose the build of torch by itself
#   PYTEST_ARGS       for example PYTEST_ARGS="-x tests/test_architecture.py"
#   BENCH_*_ARGS      sizes for "make bench": BENCH_SEARCH_ARGS, BENCH_TEXT_ARGS, BENCH_LOAD_ARGS
#   BITFOLD_*         the service's settings, passed through as they are
PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX_URL ?=
TORCH_ALLOW_CUDA ?=
IMAGE ?= bitfold:latest
BASE_IMAGE ?= python:3.12-slim
DOCKER ?= docker
PYTEST_ARGS ?=
export TORCH_INDEX_URL TORCH_ALLOW_CUDA

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
RUNTIME := $(VENV)/.installed
DEV := $(VENV)/.installed-dev

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help serve demo test lint bench docker clean

help:
	@echo "make serve    start the service on 127.0.0.1:6333"
	@echo "make demo     load the sample corpus and show searches"
	@echo "make test     run all tests"
	@echo "make lint     ruff, mypy --strict, import contracts"
	@echo "make bench    run the quick benchmarks"
	@echo "make docker   build the container image $(IMAGE)"
	@echo "make clean    remove .venv and caches (never data)"

serve: $(RUNTIME)
	@echo "Bitfold: API docs at http://$${BITFOLD_HOST:-127.0.0.1}:$${BITFOLD_PORT:-6333}/docs, guide in README.md and docs/"
	@exec $(BIN)/bitfold serve

demo: $(RUNTIME)
	@exec $(BIN)/bitfold demo

test: $(DEV)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(DEV)
	$(BIN)/python benchmarks/bench_search.py $(or $(BENCH_SEARCH_ARGS),--points 10000 100000 --queries 300)
	$(BIN)/python benchmarks/bench_text_search.py $(or $(BENCH_TEXT_ARGS),--points 100000 --queries 300)
	$(BIN)/python benchmarks/bench_load.py $(or $(BENCH_LOAD_ARGS),--points 100000 --graph-points 20000 --texts 500)

docker:
	$(DOCKER) build --tag $(IMAGE) --build-arg BASE_IMAGE=$(BASE_IMAGE) \
		--build-arg TORCH_INDEX_URL="$(TORCH_INDEX_URL)" --build-arg TORCH_ALLOW_CUDA="$(TORCH_ALLOW_CUDA)" .

clean:
	rm -rf $(VENV) build dist .cache .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache .schemathesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

$(VENV)/.created:
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
		echo "bitfold: Python 3.11, 3.12 or 3.13 is needed, and '$(PYTHON)' is: $$("$(PYTHON)" --version 2>&1)."; \
		echo "         Name another one, for example: make $(firstword $(MAKECMDGOALS)) PYTHON=python3.12"; exit 1; } >&2
	@"$(PYTHON)" -m venv --clear $(VENV) || { \
		echo "bitfold: '$(PYTHON) -m venv' failed; Debian and Ubuntu keep it in the package python3-venv." >&2; exit 1; }
	@touch $@

# --no-deps: the lock is the whole truth, "pip check" shows a gap in it instead of filling it with any version.
# Installing compiles index/kernels, with the system's C compiler or, without one, with a package that brings one.
$(RUNTIME): $(VENV)/.created requirements.lock pyproject.toml .ci/install_torch.sh $(wildcard index/kernels/*.c index/kernels/*.py)
	.ci/install_torch.sh $(PIP)
	$(PIP) install --quiet --no-deps -r requirements.lock
	$(PIP) install --quiet --no-deps --editable .
	$(PIP) check
	@touch $@

$(DEV): $(RUNTIME) requirements-dev.lock
	$(PIP) install --quiet --no-deps -r requirements-dev.lock
	$(PIP) check
	@touch $@
