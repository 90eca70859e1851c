"""The site, made from executed notebooks: nothing is executed a second time."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import yaml

from ..profiles import load_profile
from ..support.files import write_json, write_text
from ..support.identity import describe_code, fingerprint, model_keys
from ..support.paths import cache_dir, repository_root
from .citation import read_citation
from .launch import repository
from .run import all_notebooks
from .status import as_json, status_of, title_of

NOT_PAGES = ("README.md", "CHANGELOG.md")  # of the pages at the top: not of the site
EXPLORED = (22, 7)  # test scenes of the attention explorer; the first is the quickstart's
EXPLORED_MODELS = {"pocket": "", "pocket-transformer": " (transformer)"}  # profiles that they are recorded of, and what a scene's title says of it


def stage(notebooks: Path, target: Path) -> None:
    """Lay out what the site is built from: pages, pictures, executed notebooks and their status, the attention explorer.

    Args:
        notebooks: The folder of executed notebooks.
        target: The folder to lay it out in; what was there is deleted.

    Raises:
        FileNotFoundError: If a notebook of the table of contents has not been run.
        ValueError: If ``$REPOSITORY`` is no address of one.
    """
    root = repository_root()
    shutil.rmtree(target, ignore_errors=True)
    (target / "notebooks").mkdir(parents=True)
    write_text(target / "_config.yml", yaml.safe_dump(site_settings(root / "_config.yml"), sort_keys=False, allow_unicode=True))
    for path in [*root.glob("*.md"), *root.glob("*.bib"), root / "_toc.yml"]:
        if path.name not in NOT_PAGES:
            shutil.copy2(path, target / path.name)
    for folder in ("api", "images", "_static", "_templates"):
        if (root / folder).is_dir():
            shutil.copytree(root / folder, target / folder)
    for path in all_notebooks():
        done = notebooks / path.name
        if not done.exists():
            raise FileNotFoundError(f"{done} is missing: run the notebooks first (python -m diffseg_lib.book run)")
        book = nbformat.read(done, 4)
        book.metadata.pop("papermill", None)
        nbformat.write(book, target / "notebooks" / path.name)
    statuses, titles = [status_of(path, notebooks / path.name) for path in all_notebooks()], {path.stem: title_of(path) for path in all_notebooks()}
    write_json(target / "status.json", {"rows": as_json(statuses), "titles": titles})
    shutil.copytree(_explorer(), target / "extra" / "explorer")  # scripts of _static would be loaded by every page


def site_settings(path: Path) -> dict[str, Any]:
    """The site's configuration: a file's, with title, author and year of the citation, and the repository where ``$REPOSITORY`` names one.

    Args:
        path: A file of Jupyter Book's configuration.

    Raises:
        ValueError: If ``$REPOSITORY`` is no address of one.
    """
    book, source = read_citation(), repository()
    settings: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    settings |= {"title": book.title, "author": book.author, "copyright": str(book.released.year)} | (source.settings() if source else {})
    settings["html"] |= {"use_repository_button": source is not None, "use_issues_button": source is not None}
    return settings


def _explorer() -> Path:
    """The folder of the attention explorer's page, made when the models or the code are others than those it was made by."""
    parts = {path.name: path.read_text(encoding="utf-8") for path in sorted((Path(__file__).parent / "explorer").glob("explorer.*"))}
    code = describe_code("book.explorer.page", "pocket.scenes", "segmenter")
    key = fingerprint({"scenes": EXPLORED, "parts": parts, "code": code, "models": {name: model_keys(load_profile(name)) for name in EXPLORED_MODELS}})
    folder = cache_dir() / "explorer" / key
    if not (folder / "index.html").is_file():  # written last
        from ..pocket.scenes import photo_or_scene
        from ..segmenter import DiffSegmenter
        from .explorer import explorer_data, record_scene
        from .explorer.page import write_explorer

        samples, scenes = [photo_or_scene(index=index) for index in EXPLORED], []
        for profile, told in EXPLORED_MODELS.items():
            segmenter = DiffSegmenter.from_profile(profile)
            scenes += [record_scene(segmenter, one.image, one.classes, title=f"{', '.join(one.classes)}{told}") for one in samples]
        write_explorer(folder, [explorer_data(scene) for scene in scenes])
    return folder


def _tree_hash(staged: Path) -> str:
    """Of all that the site shows: the staged files, and the library's sources, docstrings included."""
    digest, package = hashlib.sha256(), Path(__file__).parent.parent
    for root, paths in ((staged, staged.rglob("*")), (package, package.rglob("*.py"))):
        for path in sorted(p for p in paths if p.is_file()):
            digest.update(path.relative_to(root).as_posix().encode() + b"\n")
            digest.update(path.read_bytes())
    return digest.hexdigest()


def build(notebooks: Path, site: Path, *, force: bool = False) -> Path:
    """Build the site, every warning an error; returns its first page.

    Args:
        notebooks: The folder of executed notebooks.
        site: The folder that the pages go to; what they are made from is staged beside it.
        force: Whether to build what is current too.

    Raises:
        RuntimeError: If jupyter-book fails; its warnings are in the message.
    """
    staged, key, page = site.with_name(f"{site.name}-stage"), site.with_name(f"{site.name}.key"), site / "index.html"
    stage(notebooks, staged)
    fresh = _tree_hash(staged)
    if not force and page.exists() and key.exists() and key.read_text() == fresh:
        print("nothing to do: the site is current")
        return page
    key.unlink(missing_ok=True)
    start = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", start, "build", str(staged), "-W", "-n", "--keep-going"], capture_output=True, text=True)
    log = site.with_name(f"{site.name}.log")
    log.write_text(done.stdout + done.stderr)
    html = staged / "_build" / "html"
    if done.returncode or not (html / "index.html").exists():
        lines = log.read_text().splitlines()
        told = [line for line in lines if "WARNING" in line or "ERROR" in line or "rror:" in line]
        raise RuntimeError("the site did not build:\n" + "\n".join((told or lines)[-30:]) + f"\nwhole log: {log}")
    shutil.rmtree(site, ignore_errors=True)
    shutil.move(html, site)
    write_text(key, fresh)
    return page
