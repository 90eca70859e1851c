# make book      the environment, every notebook, the site
# make test      lint, types, unit tests, notebooks, one strict build of the site and its checks
# make refresh   run the notebooks again and keep their outputs in notebooks/
# make pdf       the whole book as build/book.pdf, where LaTeX is installed; DIFFSEG_REQUIRE_PDF=1 fails where it is not
# make lab       JupyterLab on the chapters
# make clean     remove all that was made here, the environment included
# make distclean remove the cache of rendered pictures too
PYTHON ?= python3
PY := .venv/bin/python
# The environment is made anew when the lock changes, or the folder moves.
LOCK := $(shell { pwd; cat requirements.lock; } | cksum | cut -d' ' -f1)
READY := .venv/ready-$(LOCK)

# Rendered pictures and trees; trainings are kept in it too, and are never removed by make.
CACHE := $(or $(DIFFSEG_CACHE),$(HOME)/.cache/diffseg)

# Chapters that are also run with other parameters than their defaults.
OTHERS := 00_what_you_need 03_cross_attention 04_fusion 05_completion 06_words 07_prompts 08_timesteps 09_elbo 10_ablation 11_benchmark 12_qualitative 13_pseudo_labels 14_network 15_editing 16_folder 17_recipes 18_after_the_paper 19_transformers 20_protocols 21_gallery 23_speed 24_scale

.PHONY: book test check lint unit notebooks site refresh pdf lab clean distclean

book: $(READY)
	@$(PY) -m diffseg_lib.book run
	@$(PY) -m diffseg_lib.book build

test: lint unit notebooks site

check: test

lint: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

unit: $(READY)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --dist loadfile -m "not site and not slow"

notebooks: $(READY)
	$(PY) -m diffseg_lib.book check
	@$(PY) -m diffseg_lib.book run
	@$(PY) -m diffseg_lib.book compare
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto -m slow tests/test_chapters.py
	$(PY) -m diffseg_lib.book run $(OTHERS) --profile tests/other_parameters.yaml --out build/other --force

site: $(READY)
	$(PY) -m diffseg_lib.book build --committed --out build/test-site
	DIFFSEG_SITE=build/test-site $(PY) -m pytest -m site tests/test_site.py tests/test_explorer.py

refresh: $(READY)
	$(PY) -m diffseg_lib.book refresh

pdf: $(READY)
	@$(PY) -m diffseg_lib.book pdf --committed $(if $(DIFFSEG_REQUIRE_PDF),--require)

lab: $(READY)
	$(PY) -m jupyter lab notebooks

clean:
	rm -rf build .venv
	@echo "rendered pictures and trees are kept in $(CACHE); make distclean removes them"

distclean: clean
	rm -rf "$(CACHE)/layouts" "$(CACHE)/pictures" "$(CACHE)/explorer" "$(CACHE)/logs"

$(READY):
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else "Python 3.11, 3.12 or 3.13 is needed and this is %d.%d: name another, as in make PYTHON=python3.12" % v)'
	@echo "making the environment in .venv (some minutes, once)"
	@rm -rf .venv
	@$(PYTHON) -m venv .venv
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
