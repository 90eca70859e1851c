# PYTHON_ARGCOMPLETE_OK
"""The program: ``diffseg COMMAND ...``, which is the same as ``python -m diffseg_lib COMMAND ...``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from .. import __version__
from . import book, check, claims, edit, evaluate, explore, fetch, heads, maps, network, pocket, pseudo, segment, study
from .exits import MEANINGS, guarded, spelled
from .options import Page, subcommands

ABOUT = """
Training-free open-vocabulary segmentation with diffusion models. Without further options the commands work on the pocket world, whose
models come with the library; --profile sd15 takes Stable Diffusion.
"""
COMMANDS: Mapping[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "segment": ("Segment photos by words.", segment.declare),
    "maps": ("Show the attention maps of a word in a photo.", maps.declare),
    "explore": ("Write a page in which a photo's attention can be looked at.", explore.declare),
    "evaluate": ("Measure a method on a data set.", evaluate.declare),
    "heads": ("Choose heads of cross-attention on masks.", heads.declare),
    "check": ("Say which models and data are ready, and what is wrong.", check.declare),
    "fetch": ("Fetch a profile's models, and data sets.", fetch.declare),
    "pseudo": ("Write masks of a train split from its image-level labels.", pseudo.declare),
    "edit": ("Draw a photo again as another prompt has it.", edit.declare),
    "network": ("Train a segmentation network on masks, or measure one.", network.declare),
    "study": ("Run the paper's experiments at their larger size.", study.declare),
    "claims": ("Print the ledger of claims.", claims.declare),
    "book": ("Run the chapters, and build the site.", book.declare),
    "pocket": ("Write, train, measure and ship the pocket world.", pocket.declare),
}


def make_parser(program: str = "diffseg") -> argparse.ArgumentParser:
    """The parser of all commands.

    Args:
        program: Its name, as the help pages show it.
    """
    parser = argparse.ArgumentParser(prog=program, description=ABOUT, formatter_class=Page)
    parser.add_argument("--version", action="version", version=f"diffseg {__version__}")
    subcommands(parser, COMMANDS, "command")
    parser.epilog = "exit codes:\n" + "\n".join(f"  {int(code):>3}  {text}" for code, text in MEANINGS.items())
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run a command in this process.

    Args:
        arguments: The command line without the program's name.

    Returns:
        An exit code of :data:`~diffseg_lib.cli.exits.MEANINGS`. Above 0 standard error says why.

    Raises:
        SystemExit: After a help page (0), and on a command line that cannot be read (2).
    """
    return _run(arguments, bounded=False)


def program(*command: str) -> int:
    """Run the process's own command line, and end the process soon after Ctrl-C; returns an exit code.

    Args:
        command: What stands before it: ``python -m diffseg_lib.book run`` is ``diffseg book run``.
    """
    return _run([*command, *sys.argv[1:]], bounded=True)


def _run(arguments: Sequence[str], bounded: bool) -> int:
    parser = make_parser()
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)
    options = parser.parse_args(arguments)
    options.arguments = list(arguments)
    return guarded(lambda: options.run(options), spelled(arguments), getattr(options, "kept", ""), bounded)
