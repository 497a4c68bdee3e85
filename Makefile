# `make checks` is what CI runs.
.PHONY: checks slow lint pins

checks:
	bash tests/run.sh

slow:
	bash tests/run.sh --slow

lint:
	.venv/bin/ruff check --fix . && .venv/bin/ruff format .

pins:
	.venv/bin/python -m tests.pins > constraints.txt
