# `make demo` shows the whole chain; `make test` checks everything. Both set up what they need.
PYTHON ?= python3
DESK := .venv
EDGE := .venv-edge
ARM64 := .venv-arm64
EDGEMTL := $(DESK)/bin/edgemtl
PIP_FLAGS := --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint types test-desk test-edge test-arm64 setup setup-arm64 image-desk image-edge clean

setup: $(DESK)/.ready

setup-arm64: $(ARM64)/.ready

demo: $(DESK)/.ready
	@set -e; run=$$($(EDGEMTL) train scenes_quickstart); \
	$(EDGEMTL) collapse $$run; \
	bundle=$$($(EDGEMTL) export $$run); \
	$(EDGEMTL) verify $$bundle; \
	$(EDGEMTL) evaluate $$bundle; \
	$(EDGEMTL) bench $$bundle --out $$run/bench.json; \
	echo; \
	echo "pictures:    $$run/plots/curves.png  $$run/plots/samples.png"; \
	echo "certificate: $$run/collapsed/certificate.json"; \
	echo "bundle:      $$bundle"; \
	echo "benchmark:   $$run/bench.json"

test: lint types test-desk test-edge

lint: $(DESK)/.ready
	$(DESK)/bin/ruff check .
	$(DESK)/bin/ruff format --check .

types: $(DESK)/.ready
	$(DESK)/bin/mypy

# A worker for each core, of one thread each: with more, the threads of one worker wait for those of another.
test-desk: $(DESK)/.ready
	OMP_NUM_THREADS=1 $(DESK)/bin/python -m pytest --numprocesses logical --maxprocesses 8 --dist loadgroup

# The same tests where no PyTorch is installed: those of the desk skip, those of the edge must pass.
test-edge: $(EDGE)/.ready
	$(EDGE)/bin/python -c "import importlib.util as u; assert not u.find_spec('torch'), 'torch is installed'"
	$(EDGE)/bin/python -m pytest -q -r fE --ignore=tests/arm64

# The edge install on arm64 under qemu: minutes. Once it is set up, `make test` has it too.
test-arm64: $(ARM64)/.ready
	$(DESK)/bin/python -m pytest tests/arm64

image-desk image-edge: image-%:
	docker build --target $* --tag edgemtl:$* .

$(DESK)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DESK)
	$(DESK)/bin/python -m pip install $(PIP_FLAGS) -e '.[dev]'
	touch $@

$(EDGE)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(EDGE)
	$(EDGE)/bin/python -m pip install $(PIP_FLAGS) -e '.[ort]' pytest pytest-timeout hypothesis
	touch $@

$(ARM64)/.ready: pyproject.toml constraints.txt tests/arm64/setup.sh $(DESK)/.ready
	PYTHON=$(DESK)/bin/python tests/arm64/setup.sh $(ARM64)
	touch $@

clean:
	rm -rf $(DESK) $(EDGE) $(ARM64) build *.egg-info
