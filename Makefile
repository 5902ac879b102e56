# For a fresh clone: `make demo` or `make test`. Each makes .venv first if it is missing; nothing else is needed.

PYTHON ?= python3
ENV := .venv
BIN := $(ENV)/bin
INSTALLED := $(ENV)/.installed

.PHONY: help demo test quick bench gallery notebooks docs docs-test

help:
	@echo "make demo    fit two classic data sets, compare with EM by hand, draw pictures into out/"
	@echo "make test    lint, types and tests"
	@echo "make quick   one case of each test that is neither a law, a page, a number nor long, in two minutes"
	@echo "make bench   time EM against the libraries that hand-code one model, write benchmarks/RESULTS.md"
	@echo "make gallery draw the pictures of the examples again, into docs/pictures/"
	@echo "make notebooks  turn the examples into executed notebooks, in notebooks/"
	@echo "make docs    build the site into build/site/; its first page is index.html"
	@echo "make docs-test  open every page of the site in Chromium, if that is installed"

demo: $(INSTALLED)
	$(BIN)/python -m em_pyro

# One thread each: the tests' tensors are small, and on a busy machine threads that wait for one another cost more than
# they bring. Two processes share the files of tests out; they collect the same ones because their hashes are the same.
WORKERS ?= 2
test: export OMP_NUM_THREADS = 1
test: export PYTHONHASHSEED = 0
test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile

# Folders all of whose tests have a mark are not even read.
MARKED := laws numbers cli compare selection variational
quick: export OMP_NUM_THREADS = 1
quick: export PYTHONHASHSEED = 0
quick: $(INSTALLED)
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --once $(MARKED:%=--ignore=tests/%) -m "not laws and not pages and not numbers and not long"

# A full run; `$(BIN)/python -m benchmarks --quick` is for a look. A peer that cannot be installed is a row that says so.
bench: $(INSTALLED)
	for peer in scikit-learn hmmlearn pomegranate stepmix mixle; do \
		$(BIN)/python -m pip install -q -c constraints.txt $$peer || true; done
	$(BIN)/python -m benchmarks

gallery: export OMP_NUM_THREADS = 1
gallery: $(INSTALLED)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[examples]'
	$(BIN)/python examples/gallery.py docs/pictures

# Built, not committed.
notebooks: export OMP_NUM_THREADS = 1
notebooks: $(INSTALLED)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[examples,notebooks]'
	mkdir -p notebooks
	for name in $$($(BIN)/python -c 'import sys; sys.path.append("examples"); import gallery; print(*gallery.EXAMPLES)'); do \
		$(BIN)/jupytext --quiet --to ipynb --set-kernel python3 --output notebooks/$$name.ipynb examples/$$name.py && \
		$(BIN)/jupyter-execute --inplace notebooks/$$name.ipynb || exit 1; done

# Warnings are errors. Examples are run once for the code that they are run with; build/executed keeps what came out.
docs: export OMP_NUM_THREADS = 1
docs: $(INSTALLED)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[docs]'
	rm -rf build/site
	$(BIN)/python -m sphinx -q -E -W --keep-going -c docs -d build/doctrees . build/site

# Pages that need pandas or ArviZ are run here too: `make test` skips them where there is none.
docs-test: export OMP_NUM_THREADS = 1
docs-test:
	$(BIN)/python -m pytest -q -rs tests/face/test_docs.py -k 'your_data or arviz'
	$(BIN)/python -m pytest -q -rs docs/test_site.py

# torch comes first, alone: constraints.txt says why. What to install is looked at again when either file has changed.
# A Python without ensurepip (some distributions package it apart) makes an environment without pip: put one in.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/pip || $(PYTHON) -m venv $(ENV) || { $(PYTHON) -m venv --clear --without-pip $(ENV) && \
		$(PYTHON) -m pip --python $(BIN)/python install pip; }
	$(BIN)/python -m pip install -c constraints.txt torch
	$(BIN)/python -m pip install -c constraints.txt -e '.[test]'
	touch $@
