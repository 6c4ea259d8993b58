# Two commands for a machine that has Python >= 3.11 and make: each sets itself up.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: run test lint types wheel clean

run: .venv/ready ## the whole pipeline on the built-in stand-in exchange
	@exec $(BIN)/python -m processes.archive binance --conf conf/sandbox.toml

test: .venv/ready
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadscope

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/ready
	$(BIN)/mypy

.venv/ready: setup.cfg
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[daemons,frames,dev]'
	touch .venv/ready

clean:
	rm -rf .venv build dist *.egg-info
