# The project's commands. `make run` and `make test` work on a fresh clone as the only thing typed.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.built

.PHONY: env run test check slow peers bench docs clean
env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,onnx]'
	touch $(STAMP)

run: $(STAMP)
	$(BIN)/isogrid run

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 -m 'not slow'

slow: $(STAMP)
	$(BIN)/python -m pytest -n 2 -m slow

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Other attack libraries, for benchmarks and for the tests of the recipes: with only those of their dependencies that their imports need,
# for the rest would replace torch.
peers: $(STAMP)
	PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --no-deps \
		adv-lib torchattacks adversarial-robustness-toolbox pyautoattack visdom websocket-client tqdm six eclipse-nn
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[lightning,huggingface]'

bench: peers
	$(BIN)/python benchmarks/attacks.py
	$(BIN)/python benchmarks/study.py

docs: $(STAMP)
	$(BIN)/python -m pytest -q --doctest-modules src

clean:
	rm -rf .venv build dist runs src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
