"""What the pages of the site are made of: formulas, citations, the chapters' status, buttons that open a chapter elsewhere, the PDF."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import nbformat
import pytest
import yaml

import diffseg_lib
from diffseg_lib.book import pdf, status
from diffseg_lib.book.build import site_settings
from diffseg_lib.book.citation import Citation, read_citation
from diffseg_lib.book.launch import repository
from diffseg_lib.book.mathml import split_tag, to_mathml
from diffseg_lib.book.sphinx import cited_entries, describe, first_picture, meta_tags, plain, status_markup, tag_for_latex
from diffseg_lib.book.status import Status, status_of, title_of
from diffseg_lib.cli.main import main

ROOT = Path(__file__).parent.parent
CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<![\\$`\w])\$([^$\n`]+?)\$(?![\d\w])", re.DOTALL)


def formulas() -> list[str]:
    """Every formula of the chapters."""
    prose = ["\n\n".join(c.source for c in nbformat.read(path, 4).cells if c.cell_type == "markdown") for path in CHAPTERS]
    prose = [re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL) for text in prose]
    return sorted({next(filter(None, found)) for text in prose for found in FORMULA.findall(text)})


# -- formulas


def test_every_formula_of_the_chapters_is_set_in_characters_that_the_font_has():
    from fontTools.ttLib import TTFont

    known = set(TTFont(ROOT / "_static" / "fonts" / "STIXTwoMath.woff").getBestCmap())
    found = formulas()
    assert len(found) > 20
    for latex in found:
        text = "".join(ElementTree.fromstring(to_mathml(split_tag(latex)[0])).itertext())
        assert {c for c in text if ord(c) not in known and not c.isspace()} == set(), latex


@pytest.mark.parametrize("latex", [r"\fooo x", r"\begin{aligned} a & b", r"a & b", r"\frac{1}"])
def test_a_formula_that_is_not_understood_is_told_and_not_set_in_part(latex):
    with pytest.raises(ValueError, match="no MathML"):
        to_mathml(latex)


def test_a_formula_keeps_its_parts():
    root = ElementTree.fromstring(to_mathml(r"\begin{aligned} M'_c &= \log p \\ x &= \lVert \epsilon \rVert^2 \end{aligned}", display=True))
    assert root.get("display") == "block"
    assert [len(row) for row in root.iter(f"{{{root.tag[1:].split('}')[0]}}}mtr")] == [2, 2]
    assert "′" in "".join(root.itertext()) and "‖" in "".join(root.itertext())
    assert r"\log p" in root.get("alttext", "")


# -- who wrote it


def test_one_place_says_title_authors_version_and_date():
    book = read_citation()
    assert book.version == diffseg_lib.__version__
    settings = site_settings(ROOT / "_config.yml")
    assert (settings["title"], settings["author"], settings["copyright"]) == (book.title, book.author, str(book.released.year))
    told = (ROOT / "_config.yml").read_text()
    assert book.title not in told and book.author not in told
    assert "comments" not in settings["html"]


def test_a_citation_file_that_leaves_something_out_is_refused(tmp_path):
    (tmp_path / "CITATION.cff").write_text("title: A\nversion: 1\n")
    with pytest.raises(ValueError, match="authors, date-released, license"):
        read_citation(tmp_path / "CITATION.cff")


def test_bibtex_of_a_page_is_read_back_by_a_parser():
    from pybtex.database import parse_string

    book = Citation("Masks & models", ("Doe, Jo", "The A_B group"), "1.2", date(2026, 3, 1), "MIT")
    data = parse_string(book.bibtex("04_fusion", "Fusion: 50 %", "https://github.com/a/b"), "bibtex")
    [(key, entry)] = data.entries.items()
    assert key == "diffsegmenter-book-04_fusion"
    assert [str(person) for person in entry.persons["author"]] == ["Doe, Jo", r"{The A\_B group}"]
    assert entry.fields["booktitle"] == r"Masks \& models"
    assert entry.fields["note"] == "Version 1.2"


def test_the_head_of_a_page_describes_it():
    from docutils.core import publish_doctree

    long = "word " * 100
    tree = publish_doctree(f"Title\n=====\n\nShort.\n\n.. note:: This is a note and no paragraph of the page's own prose, long as it is.\n\n{long}\n")
    told = describe(tree)
    assert told.startswith("word word") and told.endswith("word…") and len(told) <= 200
    assert first_picture('<p><img alt="x" src="../_images/a.png"></p>') == "../_images/a.png"
    assert first_picture('<img src="data:image/png;base64,xx">') == ""
    tags = meta_tags('A "title"', "Says <this>", "a.png", "Book")
    assert 'content="A &quot;title&quot;"' in tags and tags.count("Says &lt;this&gt;") == 2
    assert plain("<code>a</code> &amp; b") == "a & b"


def test_only_what_a_page_cites_travels_in_it():
    body = '<a href="../bibliography.html#id3">x</a> <a href="../bibliography.html#id3">y</a> <a href="../other.html#id4">z</a>'
    assert cited_entries(body, {"id3": "Three", "id4": "Four"}) == '<template id="cited"><div data-entry="id3">Three</div></template>'
    assert cited_entries("<p></p>", {"id3": "Three"}) == ""


# -- status


@pytest.fixture
def known(monkeypatch):
    """The hash that chapters have now, and no faults of committed ones."""
    monkeypatch.setattr(status, "inputs_of", lambda path: "now")


def executed(folder: Path, **told) -> Path:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("(a)=\n# A chapter")], metadata={"diffseg_lib": told})
    folder.mkdir(exist_ok=True)
    nbformat.write(notebook, folder / "01_a.ipynb")
    return folder / "01_a.ipynb"


def test_a_chapter_is_green_only_while_its_inputs_are_those_that_stand(tmp_path, known):
    source = executed(tmp_path / "source")
    facts = {"ran": "2026-11-27 14:05 UTC", "seconds": 3.25, "models": {"diffusion": "072a870e3e27"}}
    good = status_of(source, executed(tmp_path / "good", inputs="now", **facts))
    stale = status_of(source, executed(tmp_path / "stale", inputs="before", **facts))
    unknown = status_of(source, executed(tmp_path / "unknown"))
    assert (good.current, stale.current, unknown.current) == (True, False, False)
    assert (good.ran, good.seconds, good.models["diffusion"]) == (facts["ran"], 3.25, "072a870e3e27")
    assert unknown.ran == "not recorded" and unknown.seconds is None
    shown = status_markup([good, stale], {"01_a": title_of(source)})
    assert shown.startswith("1 of 2 chapters are current.")
    assert shown.count("{status-stale}`stale` code, library or weights changed") == shown.count("{status-current}`current`") == 1
    assert "| 2026-11-27 14:05 UTC | 3 | `now` | `072a87` |" in shown


def test_a_committed_chapter_is_red_for_every_fault_that_check_finds(tmp_path, monkeypatch):
    source = executed(tmp_path / "source", inputs="now")
    monkeypatch.setattr(status, "faults", lambda path: [f"{path.name}: its outputs are stale: code changed", f"{path.name}: it has no code"])
    assert status_of(source, source).faults == ("its outputs are stale: code changed", "it has no code")


def test_the_sum_of_seconds_is_told_only_when_all_are_known():
    rows = [Status("a", "", "", 2.0), Status("b", "", "", None)]
    assert status.summary(rows) == "2 of 2 chapters are current."


# -- opened elsewhere


def test_without_a_repository_no_page_has_a_button(monkeypatch):
    monkeypatch.delenv("REPOSITORY", raising=False)
    settings = site_settings(ROOT / "_config.yml")
    assert "launch_buttons" not in settings and "repository" not in settings
    assert not settings["html"]["use_repository_button"]


@pytest.mark.parametrize("address", ["somewhere", "https://github.com/owner", "http://github.com/a/b", "https://example.org/a/b"])
def test_an_address_that_is_none_stops_the_build(monkeypatch, address):
    monkeypatch.setenv("REPOSITORY", address)
    with pytest.raises(ValueError, match="expected https://github.com/OWNER/NAME"):
        site_settings(ROOT / "_config.yml")


def launched(settings: dict, page: str) -> dict[str, str]:
    """The addresses behind the theme's own buttons on a page, by the service."""
    from sphinx_book_theme.header_buttons.launch import add_launch_buttons

    owner, name = settings["repository"]["url"].rsplit("/", 2)[-2:]
    host = settings["repository"]["url"].split("/")[2]
    options = {"launch_buttons": settings["launch_buttons"], "repository_branch": settings["repository"]["branch"], "path_to_docs": ""}
    provider = host.split(".")[0]
    context = {"header_buttons": [], "pagename": page, "sourcename": f"{page}.ipynb", f"{provider}_url": f"https://{host}"}
    context |= {f"{provider}_user": owner, f"{provider}_repo": name}
    environment = SimpleNamespace(doc2path=lambda docname: f"{docname}.ipynb", metadata={page: {"kernelspec": {}}})
    add_launch_buttons(SimpleNamespace(env=environment, config={"html_theme_options": options}), page, "", context, None)
    return {button["text"]: button["url"] for group in context["header_buttons"] for button in group["buttons"]}


@pytest.mark.parametrize("branch", ["main", "draft"])
@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_the_buttons_of_a_page_lead_to_its_notebook(monkeypatch, path, branch):
    monkeypatch.setenv("REPOSITORY", "https://github.com/someone/book.git" + ("" if branch == "main" else f"@{branch}"))
    found = launched(site_settings(ROOT / "_config.yml"), f"notebooks/{path.stem}")
    assert set(found) == {"Binder", "Colab"}
    binder, colab = urlsplit(found["Binder"]), urlsplit(found["Colab"])
    assert (binder.netloc, binder.path) == ("mybinder.org", f"/v2/gh/someone/book/{branch}")
    lab = parse_qs(binder.query)["urlpath"][0]
    assert lab.startswith("lab/tree/") and (ROOT / lab.removeprefix("lab/tree/")) == path
    prefix = f"/github/someone/book/blob/{branch}/"
    assert colab.netloc == "colab.research.google.com" and (ROOT / colab.path.removeprefix(prefix)) == path


def test_gitlab_has_no_colab_and_a_known_line_installs_the_library():
    assert set(launched(repository("https://gitlab.com/a/b").settings(), "notebooks/01_quickstart")) == {"Binder"}
    line = repository("https://github.com/a/b@draft").install
    assert line.startswith('%pip install "diffseg-lib[book] @ git+https://github.com/a/b@draft"')
    assert line.endswith("https://raw.githubusercontent.com/a/b/draft/requirements.lock") and (ROOT / "requirements.lock").is_file()


def test_what_binder_builds_installs_the_library_and_jupyterlab():
    script = ROOT / "postBuild"
    assert os.access(script, os.X_OK)
    assert re.search(r"pip install .*-e \.", script.read_text())
    packages = next(one["pip"] for one in yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"] if isinstance(one, dict))
    assert any(one.startswith("jupyterlab==") for one in packages)


def test_make_lab_opens_the_chapters():
    done = subprocess.run(["make", "--dry-run", "--no-print-directory", "lab"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip().endswith("-m jupyter lab notebooks")


# -- PDF


def test_a_tag_is_outside_of_the_split_that_latex_forbids_it_in():
    from docutils import nodes

    tree = nodes.section("", nodes.math_block("", "a = b \\\\ c, \\tag{Eq. 4}", nowrap=False), nodes.math_block("", "x", nowrap=False))
    tag_for_latex(tree)
    assert tree[0]["nowrap"] and tree[0].astext().endswith("\\tag{Eq. 4}\n\\end{equation*}")
    assert tree[0].astext().count("tag") == 1 and not tree[1]["nowrap"]


def test_without_latex_a_sentence_says_what_is_missing(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert main(["book", "pdf", "--out", str(tmp_path / "book.pdf")]) == 0
    told = capsys.readouterr()
    assert "latexmk, xelatex, rsvg-convert missing" in told.out and "apt-get install latexmk texlive-xetex" in told.out
    assert main(["book", "pdf", "--require", "--out", str(tmp_path / "book.pdf")]) == 1
    assert "latexmk" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="no PDF"):
        pdf.build_pdf(tmp_path, tmp_path / "book.pdf")


# -- the library's pages


def test_the_pages_of_the_library_are_listed_and_hold_each_module_once():
    listed = yaml.safe_load((ROOT / "_toc.yml").read_text())["parts"]
    [index] = [one for part in listed for one in part["chapters"] if one["file"] == "api"]
    pages = sorted(path.relative_to(ROOT).with_suffix("").as_posix() for path in (ROOT / "api").glob("*.md"))
    assert sorted(one["file"] for one in index["sections"]) == pages
    texts = [path.read_text() for path in [ROOT / "api.md", *(ROOT / "api").glob("*.md")]]
    modules = re.findall(r"automodule:: (\S+)", "\n".join(texts))
    assert len(modules) == len(set(modules)) > 50
    assert all(f"{{ref}}`{page.replace('/', '-')}`" in texts[0] for page in pages)


# -- all of it on a small site


@pytest.mark.parametrize("source", ["", "https://github.com/some/book"])
def test_a_small_site_says_how_it_is_cited_and_opens_elsewhere_only_where_that_is_known(tmp_path, source):
    for name in ("_static", "_templates"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "references.bib", tmp_path)
    (tmp_path / "notebooks").mkdir()
    prose = "(a)=\n# Fusion & `code`\n\nAs {cite:t}`wang2023diffusion` say, this is a first paragraph of some length.\n\n$$ a = b \\tag{Eq. 4} $$"
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(prose)], metadata=kernel), tmp_path / "notebooks" / "01_a.ipynb")
    (tmp_path / "intro.md").write_text("# Welcome\n\n```{toctree}\nnotebooks/01_a\nbibliography\n```\n")
    (tmp_path / "bibliography.md").write_text("# Bibliography\n\n```{bibliography}\n:all:\n```\n")
    place = repository(source)
    told = place.settings() if place else {}
    options = {"launch_buttons": told["launch_buttons"], "repository_url": told["repository"]["url"], "repository_branch": "main"} if told else {}
    settings = {
        "extensions": ["myst_nb", "sphinxcontrib.bibtex", "diffseg_lib.book.sphinx"],
        "bibtex_bibfiles": ["references.bib"],
        "html_theme": "sphinx_book_theme",
        "html_theme_options": options,
        "html_static_path": ["_static"],
        "html_context": {"default_mode": "auto"},
        "html_math_renderer": "mathml",
        "templates_path": ["_templates"],
        "root_doc": "intro",
        "nb_execution_mode": "off",
        "myst_enable_extensions": ["dollarmath"],
    }
    (tmp_path / "conf.py").write_text("\n".join(f"{name} = {value!r}" for name, value in settings.items()))
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", str(tmp_path), str(tmp_path / "out")]
    done = subprocess.run(command, env=os.environ | {"REPOSITORY": source}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "out" / "notebooks" / "01_a.html").read_text()
    assert read_citation().author in page and "@incollection{diffsegmenter-book-01_a," in page and r"{Fusion \&amp; code}" in page
    assert "<math" in page and "(Eq. 4)" in page and 'data-entry="id' in page and "MathJax" not in page
    elsewhere = set(re.findall(r'href="https://(mybinder|colab)[^"]*notebooks/01_a\.ipynb"', page))
    assert elsewhere == ({"mybinder", "colab"} if source else set())
    assert ("%pip install" in page) == bool(source)
    assert "fontawesome.js" not in page and "searchindex.js" not in page
    search = (tmp_path / "out" / "search.html").read_text()
    assert "searchtexts.js" in search and "Search.query = " in search
    texts = json.loads((tmp_path / "out" / "searchtexts.js").read_text().partition("=")[2].strip().rstrip(";"))
    assert "first paragraph" in texts["notebooks/01_a"]["fusion-code"]
