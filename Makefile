# make report · make test · make lab: each installs what it needs into .venv on the first call.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/installed

.DEFAULT_GOAL := help
.PHONY: help install report test check lint hooks lab page site export modules readme lock clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP)  ## create .venv and install the package and its tools

$(STAMP): setup.py settings.ini pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 10) <= sys.version_info[:2] <= (3, 13) else "Python 3.10 to 3.13 is needed, this is %d.%d: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	@echo "Installing into $(VENV): once, a few minutes ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --compile -c constraints.txt -e '.[dev]'
	@touch $@

report: $(STAMP)  ## train and evaluate, write outputs/<run>/report.html  [DATA=path|kaggle|sample PRESET=smoke|quick|standard RUN=folder]
	@$(BIN)/fer2013 report $(if $(DATA),--data '$(DATA)') $(if $(PRESET),--preset '$(PRESET)') $(if $(RUN),--run '$(RUN)')

test: $(STAMP)  ## every check that CI makes
	@$(BIN)/python -m pytest

check: $(STAMP)  ## the checks that take less than five minutes
	@$(BIN)/python -m pytest -m 'not slow'

lint: $(STAMP)  ## line lengths and unused names in notebooks, modules and tests
	@$(BIN)/ruff check .

hooks: $(STAMP)  ## before each git commit: export, clean, lint
	@$(BIN)/pre-commit install

lab: $(STAMP)  ## open JupyterLab on the notebooks
	@$(BIN)/jupyter lab --ip 127.0.0.1 nbs

SITE := _docs
page: $(STAMP)  ## build the page that runs in the browser, with npm: _docs/page/index.html
	@$(BIN)/python page/build.py '$(SITE)/page'

site: $(STAMP)  ## build the web site, without the network: _docs/html/index.html; it has the page if that was built
	@$(BIN)/python docs/build.py '$(SITE)'

export: $(STAMP)  ## after an edit: notebooks -> fer2013_cnn/, clean them, write README.md
	@$(MAKE) --no-print-directory modules && $(BIN)/nbdev_clean
	@$(MAKE) --no-print-directory readme

modules: $(STAMP)  # nbdev writes the first line of __all__ up to 130 characters long: break it
	@$(BIN)/nbdev_export
	@perl -pi -e 's/^(__all__ = .{60,108},) /$$1\n           / if length > 121' fer2013_cnn/*.py fer2013_cnn/*/*.py

README := README.md
readme: $(STAMP)
	@$(BIN)/jupyter nbconvert --log-level=ERROR --to markdown --stdout --RegexRemovePreprocessor.patterns='^#\|\s*hide' \
	   --TagRemovePreprocessor.enabled=True --TagRemovePreprocessor.remove_input_tags=remove_input --TagRemovePreprocessor.remove_all_outputs_tags=remove_output nbs/index.ipynb > '$(README).raw'
	@awk '/^```/ {if (!open && $$0 == "```") $$0 = "```python"; open = !open} 1' '$(README).raw' | sed -e 's#](\.\./#](@#g' -e 's#](\([^@h)][^)]*\))#](nbs/\1)#g' -e 's#](@#](#g' > '$(README).part'
	@mv '$(README).part' '$(README)' && rm '$(README).raw'

lock: $(STAMP)  ## choose the newest versions again and write constraints.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@{ echo "# What 'make' installs, for Python 3.10 to 3.13. Written by 'make lock' from settings.ini; do not edit."; \
	   $(BIN)/uv pip compile --quiet --universal --python-version 3.10 --no-header --no-annotate --refresh-package fer2013-cnn --extra dev setup.py; } > constraints.part
	@mv constraints.part constraints.txt

clean:  ## remove .venv and build leftovers; outputs/ and data/ stay
	rm -rf $(VENV) _docs build dist *.egg-info .pytest_cache .ruff_cache
	find fer2013_cnn tests -name __pycache__ -prune -exec rm -rf {} +
