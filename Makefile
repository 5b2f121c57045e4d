# `make demo` and `make test` set up everything on a new machine: a virtual environment and pinned packages.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
BIN := $(VENV)/bin
# With more threads than free cores, work is 5 to 10 times slower.
export OMP_WAIT_POLICY := passive

.PHONY: demo test slow lint arm docs format bench speed bench-data clean

demo: $(READY)  ## audit LeNet-5 on scikit-learn's digits, then find its best division over three devices
	$(BIN)/cloven audit
	$(BIN)/cloven advise --from runs/lenet5-digits

docs/demo.png: demo  ## the picture of the README: the first screen of the demo's report, if chromium is installed
	chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1100,905 --screenshot=$@ \
		file://$(CURDIR)/runs/lenet5-digits/report.html

test: $(READY)  ## all tests except the slow ones; three processes for two cores, because some tests wait
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder

slow: $(READY)  ## the slow tests; those on real data sets need CLOVEN_DATA
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow -v

lint: $(READY)  ## what CI checks besides the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint Containerfile
	$(BIN)/python -m tools.prose

arm: $(READY)  ## the packages that a worker needs exist ready-made for 64-bit ARM
	$(BIN)/pip install --quiet --dry-run --ignore-installed --target $(VENV)/arm --only-binary=:all: -c constraints.txt \
		--platform manylinux_2_28_aarch64 --platform manylinux2014_aarch64 --python-version 3.11 '.[edge,ascon,attest]'

docs: $(READY)  ## the documentation, in site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## all benchmarks as one table and bench.json, half an hour; those on real data need CLOVEN_DATA
	$(BIN)/python -m benchmarks --out bench.json

docs/benchmarks.md: $(READY)  ## the table in the documentation
	$(BIN)/python -m benchmarks --out docs/benchmarks.json --page $@

speed: $(READY)  ## measure again what docs/speed.md says, 20 minutes on two free cores, as root
	for one in latency pipelines failover; do $(BIN)/python -m benchmarks $$one --out docs/speed/$$one.json; done
	$(BIN)/python -m benchmarks.speed_page

bench-data: $(READY)  ## measurements on real data sets in the folder CLOVEN_DATA
	$(BIN)/python -m benchmarks.attacks
	$(BIN)/python -m benchmarks.labels
	$(BIN)/python -m benchmarks.coverage
	$(BIN)/python -m benchmarks.shapes

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[audit,models,edge,ascon,attest,tap,attack,serve,search,dev,docs]'
	touch $@

clean:
	rm -rf $(VENV) runs site .mypy_cache .ruff_cache .pytest_cache .hypothesis
