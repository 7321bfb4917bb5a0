# make demo and make test are all a fresh machine needs; make help lists the rest.

PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

DEMO_MODEL := PP-YOLOE_plus_SOD-demo

.PHONY: help demo demo-model test test-slow lint format lock bench chaos fuzz clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    find vehicles and people in a few made scenes with the packaged model, in output/demo"
	@echo "make demo-model  train that model again: some 40 minutes on two cores, in output/demo-model"
	@echo "make test    run the tests"
	@echo "make test-slow  run those that wait for minutes: hanging actors, dead pools, full spill folders"
	@echo "make lint    ruff and mypy"
	@echo "make format  let ruff format and fix"
	@echo "make lock    write constraints.txt anew (needs uv)"
	@echo "make bench   measure speed and memory, for hours: make bench PICTURES=folder PADDLEX_PYTHON=python NAMES='start scale'"
	@echo "make chaos   kill workers, nodes and drivers of running jobs for ten minutes, then check the tables"
	@echo "make fuzz    try damaged pictures, manifests and models for five minutes"
	@echo "make clean   remove $(VENV), caches and output/demo"
	@echo "PYTHON=python3.11 chooses the interpreter, 3.10 to 3.12; found: $(or $(PYTHON),none)"

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.10 to 3.12 found; install one, or give its path: make PYTHON=... $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' \
		|| { echo "$(PYTHON) is not Python 3.10 to 3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "$(PYTHON) has no venv module; on Debian: apt-get install python3-venv"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing sodbatch and what it needs into $(VENV): about 2.3 GB, some minutes ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[cpu,s3,dev]' -c constraints.txt
	@touch $@

demo: $(STAMP)
	$(BIN)/python examples/demo.py output/demo

# the recipe of the packaged model: scenes from seed 1, 24 epochs; output/demo-model/best_model/inference is the folder
demo-model: $(STAMP)
	test -d output/demo-scenes || $(BIN)/sodbatch make_scenes output/demo-scenes --train 400 --val 100 --seed 1
	$(BIN)/sodbatch train --dataset-dir output/demo-scenes --output output/demo-model --engine inline \
		-o Global.model=$(DEMO_MODEL) -o Train.epochs_iters=24 -o Train.batch_size=8 -o Train.learning_rate=0.02 \
		-o Train.static_assigner_epochs=6 -o Train.eval_interval=4 -o Train.log_interval=25
	test -d output/demo-unseen || $(BIN)/sodbatch make_scenes output/demo-unseen --train 1 --val 200 --seed 2
	$(BIN)/sodbatch evaluate --dataset-dir output/demo-unseen --output output/demo-figures \
		-o Global.model=$(DEMO_MODEL) -o Predict.model_dir=output/demo-model/best_model/inference

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock:
	uv pip compile --universal --python-version 3.10 --upgrade --no-header --no-annotate --no-emit-index-url \
		--extra cpu --extra s3 --extra dev --output-file constraints.txt pyproject.toml

bench: $(STAMP)
	$(BIN)/python -m benchmarks $(NAMES) $(if $(PICTURES),--pictures "$(PICTURES)") \
		$(if $(PADDLEX_PYTHON),--paddlex-python "$(PADDLEX_PYTHON)") $(if $(PADDLEDET),--paddledet "$(PADDLEDET)")

chaos: $(STAMP)
	$(BIN)/python -m chaos --minutes 10

fuzz: $(STAMP)
	$(BIN)/python -m fuzz --minutes 5

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis output/demo
