"""``diffseg book run | check | build | pdf | refresh | sweep | figures``: the chapters, the site and the PDF."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..support.errors import nearest
from ..support.paths import build_dir
from .exits import Exit
from .options import page, share, subcommands

RUN = """
Run chapters with papermill into DIR, each unless what is there is current, by a hash of notebook, library, parameters and weights.
Names and types of parameters are checked before anything starts; of several chapters each takes the parameters that it has.
"""
RUN_EXAMPLE = 'diffseg book run 01_quickstart -p image photo.jpg -y "classes: [house, fish]" --out mine'
CHECK = "Tell which chapters break their contract or hold outputs that are no longer current."
COMPARE = "Tell where executed chapters say something else than their kept outputs, in the cells that are tagged nbval-check-output."
BUILD = "Make the site from executed chapters, every warning an error; nothing is executed a second time."
PDF = "Make one PDF of the executed chapters, by LaTeX. Where LaTeX is not installed, say what is missing and how to get it."
REFRESH = "Run chapters with their defaults and keep the normalised outputs in notebooks/."
SWEEP = """
Run one chapter with many parameter sets, each in a folder of its own, and write a table, sweep.csv. What is current is not done
again. The grid is a YAML file: a mapping from parameters to lists of values, of which all combinations are taken, or a list of sets.
"""
SWEEP_EXAMPLE = "diffseg book sweep 05_completion grid.yaml --workers 2    # grid.yaml: seed: [0, 1]"
FIGURES = "Draw a picture beside the JSON of every study in a folder, the library's house into house.svg, or the welcome picture into another file."


def declare(parser: argparse.ArgumentParser) -> None:
    """Give the command its subcommands."""
    page(parser, "Run the chapters of the book, look after their outputs, and build the site.", RUN_EXAMPLE)
    known = {
        "run": ("Run chapters.", declare_run),
        "check": ("Look whether the kept outputs are current.", declare_check),
        "compare": ("Look whether executed chapters say what their kept outputs say.", declare_compare),
        "build": ("Make the site.", declare_build),
        "pdf": ("Make the PDF.", declare_pdf),
        "refresh": ("Run chapters and keep their outputs.", declare_refresh),
        "sweep": ("Run one chapter with many parameter sets.", declare_sweep),
        "figures": ("Draw the studies' pictures.", declare_figures),
    }
    subcommands(parser, known, "subcommand")


def _chapters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("notebooks", nargs="*", metavar="CHAPTER", help="Names or paths of chapters. Without any, all of them.")


def declare_run(parser: argparse.ArgumentParser) -> None:
    """Give ``run`` its options."""
    page(parser, RUN, RUN_EXAMPLE, run=offline(run), kept="chapters that are done are kept and will not be run again")
    _chapters(parser)
    share(parser, "--profile", help="A YAML file of parameters, or its name in notebooks/profiles.")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="A parameter. May be given several times.")
    parser.add_argument("-y", metavar="YAML", help="Parameters as YAML, as in 'classes: [house, fish]'.")
    parser.add_argument("--online", action="store_true", help="Let models be downloaded.")
    share(parser, "--timeout", "--force")
    parser.add_argument("--at-once", type=int, default=0, metavar="N", help="Chapters that run at once, the cores shared among them. 0 is one a core.")
    share(parser, "--out", default=build_dir() / "notebooks", help="The folder of the executed chapters.")


def declare_check(parser: argparse.ArgumentParser) -> None:
    """Give ``check`` its options."""
    page(parser, CHECK, "diffseg book check 05_completion", run=offline(check), kept="nothing was written")
    _chapters(parser)


def declare_compare(parser: argparse.ArgumentParser) -> None:
    """Give ``compare`` its options."""
    page(parser, COMPARE, "diffseg book compare 05_completion", run=compare, kept="nothing was written")
    _chapters(parser)
    parser.add_argument("--notebooks-folder", type=Path, default=build_dir() / "notebooks", metavar="DIR", help="The folder of the executed chapters.")


def declare_build(parser: argparse.ArgumentParser) -> None:
    """Give ``build`` its options."""
    page(parser, BUILD, "diffseg book build --committed --out build/test-site", run=offline(build), kept="the site that was there stays")
    parser.add_argument("--notebooks", type=Path, default=build_dir() / "notebooks", metavar="DIR", help="The folder of the executed chapters.")
    parser.add_argument("--committed", action="store_true", help="Show the outputs that are kept in git.")
    share(parser, "--force")
    share(parser, "--out", default=build_dir() / "site", help="The folder of the site.")


def declare_pdf(parser: argparse.ArgumentParser) -> None:
    """Give ``pdf`` its options."""
    page(parser, PDF, "diffseg book pdf --committed --out build/book.pdf", run=offline(pdf), kept="the PDF that was there stays")
    parser.add_argument("--notebooks", type=Path, default=build_dir() / "notebooks", metavar="DIR", help="The folder of the executed chapters.")
    parser.add_argument("--committed", action="store_true", help="Show the outputs that are kept in git.")
    parser.add_argument("--require", action="store_true", help="Fail where LaTeX is missing, rather than pass over it.")
    share(parser, "--out", metavar="FILE", default=build_dir() / "book.pdf", help="The PDF. Its LaTeX sources go to a folder beside it.")


def declare_refresh(parser: argparse.ArgumentParser) -> None:
    """Give ``refresh`` its options."""
    page(parser, REFRESH, "diffseg book refresh 05_completion", run=offline(refresh), kept="chapters that are done will not be run again")
    _chapters(parser)
    share(parser, "--timeout", "--force")


def declare_sweep(parser: argparse.ArgumentParser) -> None:
    """Give ``sweep`` its options."""
    page(parser, SWEEP, SWEEP_EXAMPLE, run=offline(sweep), kept="parameter sets that are done are kept")
    parser.add_argument("notebook", metavar="CHAPTER", help="Its name or path.")
    parser.add_argument("grid", metavar="GRID", help="A YAML file with parameters and the lists of their values, or a list of parameter sets.")
    share(parser, "--workers", "--scheduler", "--timeout", "--force")
    share(parser, "--out", help="The folder of the sweep. Without it, build/sweeps/CHAPTER-GRID.")


def declare_figures(parser: argparse.ArgumentParser) -> None:
    """Give ``figures`` its options."""
    page(parser, FIGURES, "diffseg book figures data/results/pocket", run=figures)
    parser.add_argument("target", type=Path, metavar="TARGET", help="A folder of studies' JSON, or the picture file to draw the welcome into.")


def offline(command: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """A command whose chapters download nothing, unless it is asked to."""

    def run(o: argparse.Namespace) -> int:
        if not getattr(o, "online", False):
            os.environ.setdefault("HF_HUB_OFFLINE", "1")
        return command(o)

    return run


def find(names: Sequence[str]) -> list[Path]:
    """Chapters by name or path; all of them where none is named.

    Raises:
        ValueError: On a name that no chapter has; the nearest is told.
    """
    from ..book.run import all_notebooks

    known = {p.stem: p for p in all_notebooks()}
    stems = [Path(name).stem if name.endswith(".ipynb") else name for name in names]
    for stem in stems:
        if stem not in known:
            raise ValueError(f"no notebook {stem!r}: {nearest(stem, list(known))}")
    return [known[stem] for stem in stems] or list(known.values())


def jobs_of(o: argparse.Namespace) -> list[tuple[Path, dict[str, Any]]]:
    """The chapters asked for, each with its parameters, checked.

    Raises:
        ValueError: On a parameter that no chapter has, or one of another type.
    """
    import yaml

    from ..book.run import declared, load_profile_file, parameters_for

    profile = load_profile_file(o.profile)
    given = yaml.safe_load(o.y) if o.y else {}
    if not isinstance(given, dict):
        raise ValueError(f"-y expects a YAML mapping such as 'classes: [house, fish]', got {o.y!r}")
    paths, typed = find(o.notebooks), dict(o.p)
    known = {path: set(declared(path)) for path in paths}
    shared = set().union(*known.values())
    unused = sorted(set(profile["all"]) - shared)
    if unused and paths and not o.notebooks:
        raise ValueError(f"profile {o.profile}: no notebook has a parameter {', '.join(unused)}")
    unknown_keys = [name for name in (*given, *typed) if name not in shared]
    if unknown_keys and len(paths) > 1:
        raise ValueError(f"no notebook has a parameter {unknown_keys[0]!r}: {nearest(unknown_keys[0], sorted(shared))}")
    jobs = []
    for path in paths:  # of several notebooks each takes those of the given parameters that it has
        own = [{key: value for key, value in some.items() if key in known[path] or key not in shared} for some in (given, typed)]
        jobs.append((path, parameters_for(path, profile, *own)))
    return jobs


def run(o: argparse.Namespace) -> int:
    """Run chapters; 1 if one failed."""
    from ..book import run as book

    return Exit.SOME_FAILED if book.report(book.run(jobs_of(o), o.out, force=o.force, timeout=o.timeout, workers=o.at_once)) else Exit.OK


def check(o: argparse.Namespace) -> int:
    """Print what is wrong with chapters; 1 if anything is."""
    from ..book.check import faults

    paths = find(o.notebooks)
    found = [fault for path in paths for fault in faults(path)]
    print("\n".join(found) or f"{len(paths)} notebooks keep the contract and hold current outputs")
    return Exit.SOME_FAILED if found else Exit.OK


def compare(o: argparse.Namespace) -> int:
    """Print what executed chapters say differently; 1 if anything."""
    from ..book.compare import compare as compare_outputs

    paths = find(o.notebooks)
    found = compare_outputs(paths, o.notebooks_folder)
    print("\n".join(found) or f"{len(paths)} chapters say what their kept outputs say")
    return Exit.SOME_FAILED if found else Exit.OK


def build(o: argparse.Namespace) -> int:
    """Make the site; 1 if a page has a fault."""
    from ..book.build import build as build_site
    from ..book.run import notebooks_dir

    try:
        first = build_site(notebooks_dir() if o.committed else o.notebooks, o.out, force=o.force)
    except RuntimeError as error:  # its lines are the pages' faults
        print(f"error: {error}", file=sys.stderr)
        return Exit.SOME_FAILED
    print(f"open {first}")
    return Exit.OK


def pdf(o: argparse.Namespace) -> int:
    """Make the PDF; 1 if a page has a fault, or if LaTeX is missing and required."""
    from ..book.pdf import build_pdf, missing_programs
    from ..book.run import notebooks_dir

    if missing := missing_programs():
        print(missing, file=sys.stderr if o.require else sys.stdout)
        return Exit.SOME_FAILED if o.require else Exit.OK
    try:
        print(f"open {build_pdf(notebooks_dir() if o.committed else o.notebooks, o.out)}")
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return Exit.SOME_FAILED
    return Exit.OK


def refresh(o: argparse.Namespace) -> int:
    """Run chapters and keep their outputs; 1 if one failed."""
    from ..book.refresh import refresh as refresh_outputs
    from ..book.run import report

    return Exit.SOME_FAILED if report(refresh_outputs(find(o.notebooks), force=o.force, timeout=o.timeout)) else Exit.OK


def sweep(o: argparse.Namespace) -> int:
    """Run a chapter with every parameter set of a grid; 1 if one failed."""
    import yaml
    from tqdm import tqdm

    from ..book.sweep import points, table
    from ..book.sweep import sweep as sweep_grid

    [path] = find([o.notebook])
    grid_file = Path(o.grid)
    if not grid_file.is_file():
        raise ValueError(f"no grid {o.grid}: expected a YAML file such as 'seed: [0, 1, 2]'")
    grid, out = yaml.safe_load(grid_file.read_text()), o.out or build_dir() / "sweeps" / f"{path.stem}-{grid_file.stem}"
    with tqdm(total=len(points(grid)), unit="set", file=sys.stderr, disable=None) as bar:
        rows = sweep_grid(path, grid, out, workers=o.workers, scheduler=o.scheduler, force=o.force, timeout=o.timeout, tick=bar.update)
    print(table(rows).drop(columns=["message"]).to_string(index=False))
    failed = [row for row in rows if row["state"] == "failed"]
    for row in failed:
        print(f"{row['folder']}: {row['message']}", file=sys.stderr)
    skipped = sum(row["state"] == "skipped" for row in rows)
    print(f"{len(rows) - len(failed) - skipped} passed, {len(failed)} failed, {skipped} current; {out / 'sweep.csv'}")
    return Exit.SOME_FAILED if failed else Exit.OK


def figures(o: argparse.Namespace) -> int:
    """Draw the studies' pictures, or the welcome picture."""
    from ..book.plots import draw

    for path in draw(o.target):
        print(path)
    return Exit.OK
