# One command per task; `make help` lists them. Every target sets itself up: it needs Python 3.11 or newer, make and a C library.
PYTHON ?= python3
BIN := .venv/bin
PACKAGE := $(wildcard regnet/*.py regnet/*.txt)
# Chapters whose data must be downloaded are executed only where REGNET_DATA_DIR says that it is at hand.
DOWNLOADED := book/11_published_checkpoint.ipynb book/13_empirical_bayes.ipynb
PDF := bayesian-shrinkage-in-regnet
LATEX_PACKAGES := latexmk texlive-xetex texlive-latex-recommended texlive-latex-extra texlive-fonts-recommended \
	fonts-texgyre fonts-texgyre-math fonts-dejavu
EXECUTED := $(filter-out $(DOWNLOADED) book/index.ipynb book/claims.ipynb,$(wildcard book/*.ipynb))
CHAPTERS := $(filter-out $(if $(REGNET_DATA_DIR),,$(DOWNLOADED)),$(wildcard book/*.ipynb))
# Tests and notebooks run in as many processes as there are cores, with one thread each.
JOBS ?= logical
PARALLEL := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS)
# Threads that have nothing to do sleep. By default they spin, and take the cores from the processes beside them.
export GOMP_SPINCOUNT ?= 0

.PHONY: help book executed html pdf latex latex-packages test unit test-all nbval pages reproduce seeds mutants audit notebooks bench \
	lint hooks clean
.NOTPARALLEL:  # the builds share _build, and each uses all cores

book: executed  ## execute the chapters and write _build/html/index.html
	$(BIN)/jupyter-book build . --all -W -n --keep-going

html: .venv/installed  ## the same from the stored outputs, without executing anything
	mkdir -p _build
	sed 's/execute_notebooks: cache/execute_notebooks: "off"/; s|: _ext$$|: ../_ext|' _config.yml > _build/_config.yml
	$(BIN)/jupyter-book build . --config _build/_config.yml --all -W -n --keep-going

pages: html  ## open every page of the HTML in a browser: links, pictures, mathematics, phone, dark mode, accessibility
	REGNET_REQUIRE_PAGES=1 $(PARALLEL) --dist worksteal tests/book

# Into the cache that the build reads, as many chapters at a time as there are cores. The build names one that failed.
executed: _build/.package
	yes | $(BIN)/jcache notebook -p _build/.jupyter_cache add $(EXECUTED) > _build/executed.log
	OMP_NUM_THREADS=1 $(BIN)/jcache project -p _build/.jupyter_cache execute -e local-parallel -t 600 2>&1 \
	| grep -v 'without encryption'

pdf: latex executed  ## execute the chapters and write _build/bayesian-shrinkage-in-regnet.pdf; needs LaTeX
	$(BIN)/jupyter-book build . --all --builder latex -W -n --keep-going
	cd _build/latex && latexmk -xelatex -halt-on-error -interaction=nonstopmode -silent $(PDF).tex || { grep -A5 '^!' $(PDF).log; exit 1; }
	@! grep -E 'Missing character|There were undefined' _build/latex/$(PDF).log
	cp _build/latex/$(PDF).pdf _build/
	@echo "The book: _build/$(PDF).pdf"

# Asked first, and not after the chapters have been executed.
latex:
	@{ command -v latexmk && command -v xelatex && kpsewhich texgyrepagella-math.otf && kpsewhich DejaVuSansMono.ttf; } >/dev/null \
	|| { echo "make pdf needs XeLaTeX, latexmk and three families of fonts. On Debian or Ubuntu: apt-get install $(LATEX_PACKAGES)"; exit 1; }

latex-packages:
	@echo $(LATEX_PACKAGES)

test: lint unit nbval  ## style, types, the tests without the slow ones, and every notebook against its stored outputs

unit: .venv/installed  ## the tests without the slow ones
	$(PARALLEL) --dist worksteal -m "not slow"

test-all: .venv/installed  ## all tests with the slow ones, and the coverage of regnet, which must be 95 %
	$(PARALLEL) --dist worksteal --cov=regnet --cov-branch --cov-report=term --cov-fail-under=95

nbval: .venv/installed  ## execute every notebook and compare its outputs with the stored ones
	$(PARALLEL) --dist loadfile --nbval --nbval-cell-timeout=600 $(CHAPTERS)

reproduce: .venv/installed  ## nbval under six settings of the machine, about ten minutes each; some with POINTS="plain rich"
	$(BIN)/python tools/reproduce.py $(if $(POINTS),--points $(POINTS)) --chapters $(CHAPTERS)

seeds: .venv/installed  ## the chapters that draw random numbers once more, with another base seed: no verdict may change
	$(BIN)/python tools/check_seeds.py

mutants: .venv/installed  ## do the tests notice small changes of the code? long; uses all cores
	$(BIN)/python tools/check_mutants.py

# Strict, because a package that the service does not know would pass for a clean one.
audit:  ## known vulnerabilities of the locked packages; asks on the internet
	$(PYTHON) -m venv _build/audit
	_build/audit/bin/python -m pip install -q pip-audit==2.10.1
	_build/audit/bin/pip-audit -r requirements.lock --disable-pip --no-deps --strict

notebooks: .venv/installed  ## book/*.md -> executed book/*.ipynb; one of them with CHAPTER=book/NN_name.md
	$(BIN)/python tools/build_notebooks.py $(CHAPTER)

bench: .venv/installed  ## speed and memory as ratios measured in one run -> the table of the page on scale; a quarter of an hour, alone
	env -u GOMP_SPINCOUNT $(BIN)/python benchmarks/run.py

lint: .venv/installed  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

help:  ## this list
	@awk -F ':.*  ## ' '/^[a-z-]+:.*  ## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

hooks: .venv/installed  ## check style and notebooks before every commit
	$(BIN)/pre-commit install

clean:  ## remove the environment and everything that was built
	rm -rf .venv _build

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -r requirements.lock
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	touch $@

# Jupyter Book caches executions by the notebook's own text; what the notebooks import counts too.
_build/.package: .venv/installed $(PACKAGE)
	rm -rf _build/.jupyter_cache
	mkdir -p _build
	touch $@
