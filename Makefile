# Two commands set everything up: `make demo` and `make test`.
PYTHON ?= python3
RUNS ?= runs
FIGURES ?= figures
PORT ?= 5000
FASHION ?=
SWEEP ?= fashion
PY = .venv/bin/python

# MLflow: no telemetry, no helper processes, one worker.
export MLFLOW_DISABLE_TELEMETRY = true
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION = false

.DEFAULT_GOAL := help

.PHONY: help
help:  ## show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

.PHONY: setup
setup:  ## make .venv with everything installed (done by the others when needed)
	@$(PYTHON) tools/setup_venv.py

.PHONY: demo
demo: setup  ## a real small study on this machine: FCDM against DiT on handwritten digits, with its figures
	@$(PY) -m fcdm.train -m +sweeps=digits hydra/launcher=local runs_dir=$(RUNS)
	@$(PY) -m analysis.plots --runs $(RUNS) --study digits --out $(FIGURES)

FASHION_STORE = data/fashion-mnist-16
.PHONY: fashion
fashion: setup  ## a study of an hour on two cores: FCDM against DiT on Fashion-MNIST; SWEEP=fashion_quick: ten minutes
	@# Debian's package, or FASHION=<a folder with the four files>; both once, as all up to the plan.
	@test -e $(FASHION_STORE)/manifest.json || test -n "$(FASHION)" || $(PYTHON) tools/install.py fashion-mnist
	@test -e $(FASHION_STORE)/manifest.json || $(PY) -m fcdm.prepare images resolution=16 pad=32 out=$(FASHION_STORE) \
	  images="$(or $(FASHION),$$($(PYTHON) tools/install.py --where))"
	@$(PY) -m fcdm.prepare features data.path=$(FASHION_STORE)
	@test -e $(RUNS)/studies/$(SWEEP).json || $(PY) -m fcdm.benchmark -m +sweeps=$(SWEEP) threads=1 seconds=10 runs_dir=$(RUNS)
	@$(PY) -m fcdm.train -m +sweeps=$(SWEEP) hydra/launcher=plan runs_dir=$(RUNS)
	@$(PY) -m fcdm.train -m +sweeps=$(SWEEP) hydra/launcher=local runs_dir=$(RUNS)
	@$(PY) -m analysis.report $(SWEEP) --runs $(RUNS)

.PHONY: ui
ui: setup  ## MLflow's dashboards of the runs, on http://127.0.0.1:5000
	@$(PY) -m fcdm.sync runs_dir=$(RUNS)
	@echo "MLflow: http://127.0.0.1:$(PORT) (Ctrl-C ends it)"
	@$(PY) -m mlflow server --host 127.0.0.1 --port $(PORT) --workers 1 \
	  --backend-store-uri sqlite:///$(RUNS)/mlflow.db --artifacts-destination $(RUNS)/mlflow-artifacts

.PHONY: notebooks
notebooks: setup  ## run the notebooks of analysis/ again, in place
	@OMP_NUM_THREADS=1 $(PY) tools/notebooks.py

.PHONY: slurm
slurm: setup  ## a private SLURM on this machine: its packages (apt, as root), then tools/devcluster up
	@$(PYTHON) tools/install.py slurm
	@$(PYTHON) tools/devcluster up

.PHONY: test
test: setup lint  ## every check and test, as CI runs them
	@# Without SLURM or Chromium their tests are skipped; CI runs them all.
	@if [ "$$CI" = true ]; then $(PYTHON) tools/install.py slurm chromium; fi
	@# Without a GPU the tests marked gpu are skipped, but run small on the CPU by that of `make gpu TINY=1`.
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist worksteal

.PHONY: lint
lint: setup  ## style and types
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

.PHONY: format
format: setup  ## put the style right
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

.PHONY: gpu
gpu:  ## what a GPU has to tell, in MINUTES=8, with nothing fetched (first: make gpu-wheels); TINY=1: small, on a CPU
	@# The Python that is named, else that of .venv where there is one, else the machine's.
	@$(if $(filter command,$(firstword $(origin PYTHON))),$(PYTHON),$(or $(wildcard $(PY)),$(PYTHON))) tools/gpu.py \
	  --minutes "$(or $(MINUTES),8)" $(if $(TINY),--tiny) $(if $(OUT),--out "$(OUT)")

.PHONY: gpu-wheels
gpu-wheels: setup  ## fill .whl/ with what a bare machine with a GPU lacks: take the folder along
	@$(PY) tools/gpu_wheels.py

.PHONY: bench
bench: setup  ## the benchmarks of the hot paths
	@for bench in benchmarks/*.py; do case $$bench in */plain_*) ;; *) echo "== $$bench"; $(PY) $$bench || exit 1;; esac; done
