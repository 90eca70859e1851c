# make book   the environment, every notebook, the site
# make test   lint, types, unit tests, notebooks, one strict build of the site
PYTHON ?= python3
PY := .venv/bin/python
READY := .venv/ready

.PHONY: book test check refresh clean lint unit notebooks site

book: $(READY)
	$(PY) -m diffseg_lib.book run
	$(PY) -m diffseg_lib.book build

test check: lint unit notebooks site

lint: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

unit: $(READY)
	$(PY) -m pytest --ignore=tests/test_site.py

notebooks: $(READY)
	$(PY) -m diffseg_lib.book check
	$(PY) -m pytest --nbval-lax --nbval-current-env --nbval-sanitize-with tests/nbval_sanitize.cfg --nbval-cell-timeout 600 -p no:doctest notebooks

site: $(READY)
	$(PY) -m diffseg_lib.book run
	$(PY) -m diffseg_lib.book build
	$(PY) -m pytest tests/test_site.py

refresh: $(READY)
	$(PY) -m diffseg_lib.book refresh

clean:
	rm -rf build .venv

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"Python 3.11 to 3.13 is needed, this is {v[0]}.{v[1]}: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(READY)
