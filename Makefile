# make demo and make test set up everything they need in .venv, without root; nothing else is touched.
#
# Variables: PYTHON (3.11 or newer), ARGS (for demo, bench and test), TORCH_INDEX_URL (where torch comes from;
# PyTorch's CPU index saves gigabytes of CUDA on a machine without a GPU), ROUND_COVERAGE (least percentage),
# SEEDS (simulated swarms).

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
TORCH_INDEX_URL ?=
ROUND_COVERAGE ?= 100
MINUTES ?= 10
PEERS ?= 6
SEED ?= 1
SEEDS ?= 10000
QUICK ?=

BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Generated code must import on the oldest protobuf that pyproject.toml allows; newer generators' does not.
PROTO_VENV := $(VENV)-proto
PROTO_READY := $(PROTO_VENV)/.ready
PROTO_TOOLS := grpcio-tools==1.76.0 "protobuf<7" "setuptools<81"

# The type checker of the page's modules. Where there is no npm its test is left out, and says so.
TYPESCRIPT := $(VENV)/node/.ready
export TSC := $(abspath $(VENV)/node/node_modules/.bin/tsc)

# In a terminal pip shows what it downloads; a log gets the steps only.
PIP_INSTALL = if [ -t 1 ]; then quiet=; else quiet=-q; fi; $(BIN)/pip install $$quiet --no-compile

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test lint types unit sim docker-test container chaos kill-nine fuzz bench bench-training papers overlap docs typescript proto proto-check clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

demo: $(READY)  ## three nodes train on this machine (ARGS="--rounds 5 --no-browser --keep DIR" and so on)
	@$(BIN)/atoll demo $(ARGS)

test: lint types unit  ## lint, types, all tests but those of docker-test; branch coverage of the round machine

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) $(TYPESCRIPT)
	$(BIN)/mypy
	$(BIN)/mypy --allow-untyped-calls --no-warn-unused-ignores benchmarks examples

# Real processes, networks and browsers on a loaded machine: what fails is run once more, and the summary names it.
AGAIN := --reruns 1 -rR

# Tracing makes the simulator and the daemons two to three times slower; the tests of the protocol, which
# have to reach every branch of the round machine, are the only ones traced.
unit: $(READY) $(TYPESCRIPT)
	$(BIN)/python -m pytest tests/protocol --cov --cov-report= $(ARGS)
	$(BIN)/coverage report --show-missing --fail-under=$(ROUND_COVERAGE)
	$(BIN)/python -m pytest -m "not container" --ignore=tests/protocol $(AGAIN) $(ARGS)

sim: $(READY)  ## 10,000 simulated swarms on all cores (SEEDS=…); stop it at any time, it goes on where it was
	@mkdir -p build
	@$(BIN)/atoll simulate chaos --seed 1 --seeds $(SEEDS) --resume build/sim-$(SEEDS).json

docker-test: $(READY)  ## build the images, run swarms of them; needs root and an engine (docker.io, debootstrap)
	$(BIN)/python -m pytest -m container --timeout=1800 --durations=10 tests/container $(AGAIN) $(ARGS)

container: docker-test

bench: $(READY)  ## codecs, averaging beside hivemind, torchft and gloo, and as root shaped lines (ARGS="--peers 2 4 8 --values 25 100")
	$(BIN)/python -m benchmarks.codecs
	$(BIN)/python -m benchmarks.averaging $(ARGS)
	if [ "$$(id -u)" = 0 ]; then $(BIN)/python -m benchmarks.links; fi

docs: $(READY)  ## the documentation as a site, in build/site
	$(BIN)/mkdocs build --quiet --strict

papers: $(READY)  ## each mode held against its paper's table (hours; QUICK=1: the main rows in minutes)
	$(BIN)/python -m benchmarks.papers $(if $(QUICK),--quick) $(ARGS)

overlap: $(READY)  ## how much of its time a node trains by mode, on slow lines; needs root
	$(BIN)/python -m benchmarks.overlap $(ARGS)

bench-training: $(READY)  ## three nodes against one for 50 rounds, three seeds (long; ARGS="--rounds 10")
	$(BIN)/python benchmarks/three_beat_one.py $(ARGS)

proto: $(PROTO_READY)  ## write the Python code of protocol/messages.proto again
	$(PROTO_VENV)/bin/python -m grpc_tools.protoc -Iatoll/protocol=protocol \
	    --python_out=src --pyi_out=src protocol/messages.proto

proto-check: $(PROTO_READY)  ## is the generated code that of messages.proto?
	@folder=$$(mktemp -d) && trap "rm -rf $$folder" EXIT && \
	$(PROTO_VENV)/bin/python -m grpc_tools.protoc -Iatoll/protocol=protocol \
	    --python_out=$$folder --pyi_out=$$folder protocol/messages.proto && \
	diff $$folder/atoll/protocol/messages_pb2.py protocol/messages_pb2.py && \
	diff $$folder/atoll/protocol/messages_pb2.pyi protocol/messages_pb2.pyi && echo "messages_pb2 is up to date"

chaos: $(READY)  ## torment a swarm of real daemons (MINUTES=10 PEERS=6 SEED=1; as root also its network)
	$(BIN)/python -m tests.process.chaos --minutes $(MINUTES) --peers $(PEERS) --seed $(SEED)

kill-nine: $(READY)  ## how long survivors take after a kill -9 in mid-round
	$(BIN)/python -m tests.process.kill_nine $(ARGS)

fuzz: $(READY)  ## send nonsense to every decoder and handler (MINUTES=10; guided by coverage if atheris is there)
	$(BIN)/python -m tests.fuzz --minutes $(MINUTES) $(ARGS)

clean:  ## remove both environments and every cache
	rm -rf $(VENV) $(PROTO_VENV) build dist .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch first and by itself, so that it alone comes from TORCH_INDEX_URL. Bytecode once, for all: without it
# (PYTHONDONTWRITEBYTECODE) each of a demo's processes would compile torch again. Some files that packages
# carry are not meant to compile; compileall complains about them, and nothing else depends on it.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "Atoll needs Python 3.11 or newer; $(PYTHON) is `$(PYTHON) --version 2>&1`. Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	    echo "$(PYTHON) can't make virtual environments. On Debian: apt install python3-venv"; exit 1; }
	@echo "Setting up $(VENV), once: 1 of 4, an empty environment."
	@$(PYTHON) -m venv $(VENV)
	@echo "2 of 4: PyTorch, the largest download (minutes)."
	@$(PIP_INSTALL) -c constraints.txt $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) torch
	@echo "3 of 4: hivemind and all else (a minute or two)."
	@export PIP_CONSTRAINT=constraints.txt; $(PIP_INSTALL) -e '.[dev]'
	@echo "4 of 4: compiling what was installed (half a minute)."
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null 2>&1 || true
	@touch $@

typescript: $(TYPESCRIPT)  ## the checker of the page's modules, by npm

$(TYPESCRIPT): $(READY)
	@mkdir -p $(dir $@)
	@if command -v npm >/dev/null; then \
	    npm install --silent --no-audit --no-fund --prefix $(dir $@) typescript@5.9.3; \
	else \
	    echo "No npm: the types of the page's modules are not checked. On Debian: apt install npm"; \
	fi
	@touch $@

$(PROTO_READY): Makefile
	@$(PYTHON) -m venv $(PROTO_VENV)
	@$(PROTO_VENV)/bin/pip install -q $(PROTO_TOOLS)
	@touch $@
