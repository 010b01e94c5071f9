# make book: install, run what is missing, render the book.   make test: check everything.
PYTHON ?= python3
SCALE ?= laptop
BIN := .venv/bin
READY := .venv/.ready
PINS := torch==2.13.0 triton==3.7.1

.PHONY: book test serve lint test-gpu lock figure clean
.DEFAULT_GOAL := book

book: $(READY)  ## the rendered book
	@$(BIN)/snakemake --quiet rules host reason --config scale=$(SCALE)
	@echo "The book: $(CURDIR)/_build/html/index.html"
	@echo "Open that file in a browser, or run 'make serve'."

test: $(READY) lint  ## lint, unit tests, notebooks at smoke scale, the site and its pages in a browser
	$(BIN)/pytest -n logical --maxprocesses 4 --dist worksteal

serve: $(READY)  ## the book at http://localhost:8000, on this machine only
	$(BIN)/python -m http.server --bind localhost --directory _build/html 8000

lint: $(READY)
	$(BIN)/ruff check hybrid tests && $(BIN)/ruff format --check hybrid tests && $(BIN)/lint-imports --no-logo

test-gpu: $(READY)
	$(BIN)/pytest -m gpu

lock:  ## newest versions that pyproject.toml admits, but for PINS
	rm -rf _build/lock && $(PYTHON) -m venv _build/lock && _build/lock/bin/pip install $(PINS) -e '.[fused,book,eval,test]'
	_build/lock/bin/pip freeze --all --exclude pip --exclude-editable | sed -E '/^(nvidia|cuda)-/d; s/\+[a-z0-9.]+$$//; s/^(triton==.*)/\1 ; sys_platform == "linux"/' > requirements.lock

figure:  ## the figure of the README, from the executed chapter
	$(BIN)/python -m hybrid picture 08_recall fig-recall-main --out book/_static/recall.svg

clean:  ## everything that is generated, but not the environment and the results
	rm -rf _build book/chapters book/status.md book/claims.md .snakemake

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v < (3, 15) or sys.exit("This book needs Python 3.11 to 3.14; $(PYTHON) is %d.%d. Name another one: make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -r requirements.lock
	$(BIN)/pip install --no-deps --no-build-isolation -e .
	@touch $@
