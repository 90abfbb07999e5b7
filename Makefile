# Everything here needs Python 3.11 or newer, make, and this checkout.
PYTHON ?= python3
BIN := .venv/bin
LOCK := requirements/constraints.txt
SAMPLES := src/panodetr/assets/samples
DATA ?= ../shared/data
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

.PHONY: demo test slow fuzz soak lint types docs format bench ci clean

# Segment three real microscopy images with the bundled model.
demo: .venv/installed
	$(BIN)/panodetr segment $(SAMPLES) --out demo-out
	@echo "The pictures to look at: $(CURDIR)/demo-out/*_overlay.png"

# All tests but the slow ones: two at a time, each with one thread.
test: .venv/installed-dev
	$(PYTEST) -m "not slow and not network and not soak"

slow: .venv/installed-dev
	$(PYTEST) -m "slow and not network and not soak"

# Damaged files of every kind: first those that failed once, then random ones until the seconds are over.
SECONDS ?= 60
SEED ?= 0
fuzz: .venv/installed-dev
	PYTHONPATH=src:benchmarks OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz.run --seconds $(SECONDS) --seed $(SEED)

# Kills of training runs and a service under load: an hour or more at 2000. docs/tests.md has the figures
# of the last run.
PANODETR_SOAK ?= 2000
soak: .venv/installed-dev
	PANODETR_SOAK=$(PANODETR_SOAK) $(PYTEST) -m soak

lint: .venv/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

types: .venv/installed-dev
	$(BIN)/basedpyright --pythonpath $(BIN)/python

format: .venv/installed-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Measure everything that the README tells, beside transformers: an hour or more and 16 GiB of memory.
# Every script runs; the exit code is 1 where one failed or a floor was not reached.
bench: .venv/installed-dev
	@code=0; \
	for script in "inference.py --data $(DATA)/nuclei" training.py \
	    "quality.py --data $(DATA)/nuclei" "watershed.py --data $(DATA)/nuclei" \
	    "scaling.py --runtimes torch openvino --theirs" "roofline.py" \
	    "gpu.py --data $(DATA)/nuclei" "tables.py --write"; do \
	    echo "benchmarks/$$script"; \
	    $(BIN)/python benchmarks/$$script || code=1; \
	done; \
	exit $$code

# The documentation, as a site in build/site. A dead link or a notebook that fails is an error.
docs: .venv/installed-docs
	PATH="$(CURDIR)/$(BIN):$$PATH" NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "The site: $(CURDIR)/build/site/index.html"

# All of it, as it runs before a merge.
ci:
	.ci/run

clean:
	rm -rf .venv dist demo-out .pytest_cache .ruff_cache .hypothesis .import_linter_cache

.venv/installed: pyproject.toml $(LOCK)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -qq --constraint $(LOCK) --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install -qq --constraint $(LOCK) --editable '.[dev]'
	touch $@

.venv/installed-docs: .venv/installed
	$(BIN)/python -m pip install -qq --constraint $(LOCK) --editable '.[docs]'
	touch $@
