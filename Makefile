# What a developer and CI run. Needs Python >= 3.11 and make, nothing else.

PYTHON ?= python3
TESTS ?= tests
DAG ?= two_queues
DAGS ?= dags

VENV := .venv
PY := $(VENV)/bin/python
# Two runs in one checkout may meet in the tools' caches.
ALONE := flock $(VENV)/.tools.lock
# More processes than cores: the tests mostly wait.
PYTEST := $(PY) -m pytest -p no:cacheprovider -n 4 --dist worksteal

# Compiled bytecode makes every start of a process faster; other Pythons' settings do not belong here.
unexport PYTHONDONTWRITEBYTECODE PYTHONPATH PYTHONHOME PYTHONWARNINGS
# The demo brings its own.
unexport FLOW_DATABASE_URL FLOW_LOGS_FOLDER

.DEFAULT_GOAL := help
.PHONY: help demo demo-kill test test-nodes test-vm chaos chaos-full bench mutants lint lint-ansible format venv services clean

help: ## List these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: venv ## Run an example over two queues, without any service; DAG=name DAGS=folder: another
	@home=$$(mktemp -d) && trap 'rm -rf "$$home"' EXIT && \
	FLOW_CONFIG= FLOW_HOME="$$home" FLOW_DAGS_FOLDER=$(DAGS) $(VENV)/bin/flow standalone --run $(DAG)

demo-kill: venv services ## Kill an agent under load, on a live board; SVG=file: record it
	@echo "starting RabbitMQ and PostgreSQL, for this demo only"
	@$(PY) -m tests.services run -- $(PY) -m tests.demo $(if $(SVG),--svg "$(SVG)")

test: lint services ## Check and test everything; TESTS=path narrows it down
	$(PY) -m compileall -q flow dispatcher agent
	$(PY) -m tests.services run -- $(PYTEST) $(TESTS)

test-nodes: venv ansible ## Boot three machines, provision and use them; needs root on Debian
	@$(PYTHON) tools/bootstrap.py nodes
	@$(PY) -m tests.nodes

test-vm: venv ## Boot an emulated machine and see tasks held to their limits; needs root on Debian
	@$(PYTHON) tools/bootstrap.py vm
	@$(PY) -m tests.vm

chaos: venv services ## Hurt real processes in every way, with short leases; ONLY="names": some
	@$(PY) -m compileall -q flow dispatcher agent
	@$(PY) -m tests.chaos $(if $(ONLY),--only $(ONLY)) $(if $(JSON),--json $(JSON))

chaos-full: venv services ## The same with the default leases and outages: about 3 hours
	@$(PY) -m compileall -q flow dispatcher agent
	@$(PY) -m tests.chaos --full $(if $(ONLY),--only $(ONLY)) $(if $(JSON),--json $(JSON))
	$(if $(ONLY),,@$(PY) -m tests.sim --seeds 100000 --complete)

bench: venv services ## Measure flow, its peers and the machine's limits; ONLY="W1 W6", OUT=folder
	@$(PY) -m compileall -q flow dispatcher agent bench
	@$(PY) -m bench.peers.setup celery airflow || echo "bench: going on without what is missing" >&2
	@$(PY) -m bench $(ONLY) $(if $(RUNS),--runs $(RUNS)) $(if $(OUT),--out $(OUT))

mutants: venv services ## Break one rule after the other, and see that tests and simulator notice
	@$(PY) -m tests.services run -- $(PY) -m tests.mutants

lint: venv ## Style, types, and who may import whom
	$(ALONE) $(PY) -m ruff check
	$(ALONE) $(PY) -m ruff format --check
	$(ALONE) $(PY) -m mypy
	$(ALONE) $(VENV)/bin/lint-imports --no-logo

lint-ansible: ansible ## The playbooks, by ansible-lint's strictest profile
	@cd ansible && PATH="$(CURDIR)/.venv-ansible/bin:$$PATH" ansible-lint --offline --profile production

format: venv ## Format the code and fix what can be fixed
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

venv: ## Make or refresh the virtual environment in .venv
	@$(PYTHON) tools/bootstrap.py venv

.PHONY: ansible
ansible:
	@$(PYTHON) tools/bootstrap.py ansible

services: ## Install RabbitMQ, PostgreSQL and tmux from the distribution where missing
	@$(PYTHON) tools/bootstrap.py services

clean: ## Remove everything that was made here
	rm -rf $(VENV) .venv-ansible .venv.lock build dist *.egg-info .hypothesis .import_linter_cache \
		.mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
