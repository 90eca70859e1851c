"""The whole book as one PDF, by LaTeX where it is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from .build import stage

PROGRAMS = ("latexmk", "xelatex", "rsvg-convert")
PACKAGES = "latexmk texlive-xetex texlive-latex-recommended texlive-latex-extra texlive-fonts-recommended texlive-plain-generic fonts-freefont-otf librsvg2-bin"
NAME = "book"


def missing_programs() -> str:
    """What of LaTeX is not on this machine and how to get it, one sentence; "" if all is here."""
    lacking = [name for name in PROGRAMS if not shutil.which(name)]
    return f"no PDF: {', '.join(lacking)} missing; on Debian, apt-get install {PACKAGES}" if lacking else ""


def latex_sources(notebooks: Path, folder: Path) -> Path:
    """Write the book as LaTeX, with its pictures; returns the file to typeset.

    Args:
        notebooks: The folder of executed notebooks.
        folder: The folder of the sources; what was there is deleted, and what they are made from is staged beside it.

    Raises:
        FileNotFoundError: If a notebook of the table of contents has not been run.
        RuntimeError: If Sphinx has a warning or fails; its lines are in the message.
    """
    staged = folder.with_name(f"{folder.name}-stage")
    stage(notebooks, staged)
    _prepare(staged)
    start = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", start, "build", str(staged), "--builder", "latex", "-W", "-n", "--keep-going"]
    done = subprocess.run(command, capture_output=True, text=True)
    made = staged / "_build" / "latex" / f"{NAME}.tex"
    if done.returncode or not made.is_file():
        lines = (done.stdout + done.stderr).splitlines()
        told = [line for line in lines if "WARNING" in line or "ERROR" in line or "rror:" in line]
        raise RuntimeError("the LaTeX sources were not made:\n" + "\n".join((told or lines)[-30:]))
    shutil.rmtree(folder, ignore_errors=True)
    shutil.move(made.parent, folder)
    return folder / made.name


def _prepare(staged: Path) -> None:
    """Name the LaTeX file, and give its pages drawings that LaTeX takes: PDF in place of SVG, or their title alone where nothing converts them."""
    path = staged / "_config.yml"
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    settings["latex"] = {"latex_engine": "xelatex", "use_jupyterbook_latex": False}  # its class asks for fonts of half a gigabyte
    root = yaml.safe_load((staged / "_toc.yml").read_text(encoding="utf-8"))["root"]
    documents = [[root, f"{NAME}.tex", settings["title"], settings["author"], "manual", False]]
    settings["sphinx"]["config"] |= {"latex_documents": documents, "latex_show_urls": "footnote"}
    path.write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), encoding="utf-8")
    for page in staged.glob("*.md"):
        text = page.read_text(encoding="utf-8")
        for name in dict.fromkeys(re.findall(r"images/[\w-]+\.svg", text)):
            drawing = staged / name
            if shutil.which("rsvg-convert"):
                subprocess.run(["rsvg-convert", "-f", "pdf", "-o", str(drawing.with_suffix(".pdf")), str(drawing)], check=True)
                text = text.replace(name, str(Path(name).with_suffix(".pdf")))
        page.write_text(text, encoding="utf-8")


def build_pdf(notebooks: Path, out: Path) -> Path:
    """Make the PDF; returns its path.

    Args:
        notebooks: The folder of executed notebooks.
        out: The PDF; the LaTeX sources go to a folder beside it.

    Raises:
        FileNotFoundError: If a program of LaTeX is missing: the message says which, and how to get it.
        RuntimeError: If the sources were not made, or LaTeX fails.
    """
    if missing := missing_programs():
        raise FileNotFoundError(missing)
    source = latex_sources(notebooks, out.with_name(f"{out.stem}-latex"))
    command = ["latexmk", "-xelatex", "-interaction=nonstopmode", "-halt-on-error", source.name]
    done = subprocess.run(command, cwd=source.parent, capture_output=True, text=True, errors="replace")
    made = source.with_suffix(".pdf")
    if done.returncode or not made.is_file():
        told = [line for line in done.stdout.splitlines() if line.startswith(("!", "l."))]
        raise RuntimeError(f"LaTeX failed:\n{chr(10).join(told[:10]) or done.stdout[-2000:]}\nwhole log: {source.with_suffix('.log')}")
    shutil.copy2(made, out)
    return out
