"""The options that commands share, each declared once, and the form of a command's help page."""

from __future__ import annotations

import argparse
import ast
import re
import textwrap
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data import READERS
from ..data.names import CONTEXT_ORDERS
from ..profiles import DTYPES, Profile, load_profile
from ..support.paths import POCKET, pocket_source, repository_root

if TYPE_CHECKING:
    from ..segmenter import DiffSegmenter

RECIPES = ("paper", "released", "best")
DATASETS = (*READERS, *(f"{POCKET}-{name}" for name in READERS))
SHARED: Mapping[str, Mapping[str, Any]] = {
    "--profile": {
        "default": "pocket",
        "metavar": "NAME",
        "help": "The models and the numbers chosen for them: a name (pocket, sd15, ...), a YAML file, a hub id, a pipeline's folder or single file.",
    },
    "--one-pass": {
        "choices": ("side", "joint"),
        "default": "none",
        "help": "Let one row of the UNet serve all classes: by side prompts, or by a sentence that names as many as fit. Without it a class costs a row.",
    },
    "--recipe": {
        "choices": RECIPES,
        "help": "Take the switches of the paper's text, of its released code, or the best of what came after, in place of ours.",
    },
    "--captioner": {"default": "", "metavar": "PATH", "help": "The BLIP that captions and filters, in place of the profile's."},
    "--clip": {"default": "", "metavar": "PATH", "help": "The CLIP that filters, in place of the profile's."},
    "--device": {"default": "", "metavar": "NAME", "help": "Where the models run: cpu, cuda, cuda:1, mps. Without it, where the profile says."},
    "--dtype": {"choices": DTYPES, "default": "", "help": "The precision of the diffusion model. Without it, the profile's."},
    "--offload": {"action": "store_true", "help": "Keep the models in main memory and let each visit the card while it works."},
    "--dataset": {
        "choices": DATASETS,
        "default": "voc",
        "metavar": "NAME",
        "help": "The data set: voc, context or object (COCO); pocket-voc and so on are the pocket world's.",
    },
    "--root": {"default": "", "metavar": "DIR", "help": "The folder of the data set. Without it, the profile's; pocket is the pocket world's tree."},
    "--split": {"default": "val", "metavar": "NAME", "help": "The split that is read: train, val, and trainaug of VOC."},
    "--order": {"choices": tuple(CONTEXT_ORDERS), "default": "", "help": "The order of Context's labels, where the tree does not tell."},
    "--labels": {
        "default": "filter",
        "metavar": "image|filter|all|FILE.json",
        "help": "The classes asked for: those present, those that the filter keeps, all of them, or by image id those of a JSON file.",
    },
    "--labels-from": {
        "nargs": "+",
        "default": [],
        "metavar": "NAME",
        "help": "Of a JSON file of several dictionaries, as the released code has, those whose union is taken: image_similarity, text_similarity, "
        "synonym_matching. Without it, the first two.",
    },
    "--limit": {"type": int, "default": 0, "metavar": "N", "help": "Only the first N images. 0 is all of them."},
    "--seed": {"type": int, "default": 0, "metavar": "N", "help": "Seed of the noise, 0 or more."},
    "--threshold": {"type": float, "metavar": "P", "help": "Score of the background, from 0 to 1. Without it, the profile's."},
    "--force": {"action": "store_true", "help": "Do again what is current."},
    "--timeout": {"type": float, "default": 1800.0, "metavar": "SECONDS", "help": "The longest that one notebook may take."},
    "--workers": {"type": int, "default": 0, "metavar": "N", "help": "Processes of a Dask cluster on this machine. Without it, this process does the work."},
    "--scheduler": {"default": "", "metavar": "ADDRESS", "help": "The address of a Dask scheduler that is running, as in tcp://host:8786."},
    "--out": {"type": Path, "metavar": "DIR", "help": "The folder that results are written to."},
}
MODELS = ("--captioner", "--clip")  # beside the diffusion model
PLACES = ("--device", "--dtype", "--offload")


class Page(argparse.HelpFormatter):
    """A help page: paragraphs are wrapped, lines that begin with spaces stay as they are, a default is told where it says something."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=100)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        parts = textwrap.dedent(text).strip().split("\n\n")
        return "\n\n".join(part if any(line.startswith(" ") for line in part.splitlines()) else textwrap.fill(part, width) for part in parts)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        told, default = action.help or "", action.default
        if action.required or not action.option_strings or default is None or default in ("", False, 0, [], argparse.SUPPRESS):
            return told
        shown = " ".join(map(str, default)) if isinstance(default, list) else str(default)
        return f"{told} Default: {shown.removeprefix(f'{repository_root()}/')}."


def share(parser: argparse.ArgumentParser, *names: str, **changes: Any) -> None:
    """Give a command options of :data:`SHARED`.

    Args:
        parser: Parser of the command.
        names: Names of the options, in the order of the help page.
        changes: For one option alone, what it has otherwise here, as a default of another value or ``required``.

    Raises:
        TypeError: On changes for several options.
    """
    if changes and len(names) != 1:
        raise TypeError("changes are for one option at a time")
    for name in names:
        parser.add_argument(name, **{**SHARED[name], **changes})


def page(parser: argparse.ArgumentParser, about: str, example: str, **defaults: Any) -> None:
    """Give a command its paragraph, its example and the function that it runs.

    Args:
        parser: Parser of the command.
        about: Text of the page, a paragraph or several.
        example: Command lines of the example.
        defaults: Values that the options carry: ``run``, the function from the options to an exit code, and ``kept``, a phrase on what an interruption leaves.
    """
    parser.description = about
    lines = textwrap.dedent(example).strip().splitlines()
    parser.epilog = "example:\n" + "\n".join(f"  {line}" for line in lines)
    parser.set_defaults(**defaults)


def subcommands(parser: argparse.ArgumentParser, known: Mapping[str, tuple[str, Callable[[argparse.ArgumentParser], None]]], dest: str) -> None:
    """Give a command its subcommands.

    Args:
        parser: Parser of the command.
        known: Subcommands by name, each with its line of help and the function that gives it its options.
        dest: Name under which the options hold the subcommand that was chosen.
    """
    group = parser.add_subparsers(dest=dest, required=True, metavar="COMMAND", title="commands")
    for name, (told, declare) in known.items():
        declare(group.add_parser(name, help=told, formatter_class=Page))


@cache
def entries(module: str, owner: str) -> dict[str, str]:
    """What a docstring of this library says of each argument or field, read off the source, so that nothing heavy is loaded.

    Args:
        module: Name of the module below the package, as in "applications.deeplab".
        owner: Name of a function or class of the module.

    >>> entries("cli.options", "entries")["owner"]
    'Name of a function or class of the module.'
    """
    path = Path(__file__).parent.parent.joinpath(*module.split(".")).with_suffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    [node] = [one for one in tree.body if isinstance(one, ast.FunctionDef | ast.ClassDef) and one.name == owner]
    section = re.search(r"^Args:\n((?: {4}.*\n?)+)", ast.get_docstring(node) or "", re.MULTILINE)
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section.group(1) if section else "", re.MULTILINE)
    return {name: re.sub(r":\w+:`~?(?:\w+\.)*(\w+)`|``([^`]*)``", r"\1\2", " ".join(text.split())) for name, text in found}


def told(module: str, owner: str, name: str, more: str = "") -> str:
    """What a docstring says of an argument or field, for a help page.

    Args:
        module: Name of the module below the package, as :func:`entries` takes it.
        owner: Name of a function or class of the module.
        name: Name of the argument or field.
        more: Further sentences that are added.

    Raises:
        KeyError: If the docstring says nothing of it.
    """
    return f"{entries(module, owner)[name]} {more}".strip()


# -- what the options ask for ---------------------------------------------------------------------


def profile_of(o: argparse.Namespace) -> Profile:
    """The profile asked for, with the captioner and the CLIP asked for."""
    return load_profile(o.profile).with_models(o.captioner, o.clip)


def reads_captioner(recipe: str | None) -> bool:
    """Whether a recipe asks for captions.

    >>> reads_captioner("paper"), reads_captioner("best"), reads_captioner(None)
    (True, False, False)
    """
    from ..config import RECIPES as known

    return bool(recipe) and known[str(recipe)].caption != "none"


def recipe_notes(recipe: str | None, profile: Profile) -> tuple[str, ...]:
    """What is to be said of a recipe on the models of a profile: settings that were chosen on others."""
    if recipe != "best" or profile.name == POCKET:
        return ()
    return ("the recipe best takes settings that were chosen on train images of the pocket world, none on these models",)


def source_of(o: argparse.Namespace, profile: Profile) -> tuple[str, str]:
    """The name and the folder of the data set asked for.

    Args:
        o: Options with `dataset` and `root`.
        profile: Profile whose folder it is where none was given.

    Raises:
        ValueError: If there is no folder, or one is given for a tree of the pocket world.
    """
    name, root = pocket_source(o.dataset, o.root)
    return name, profile.data_root(name, root)


def check_device(name: str) -> str:
    """The name of a device itself, if this machine has the device; "" passes.

    Raises:
        ValueError: If torch knows no such device, or this machine has none.
    """
    import torch

    try:
        device = torch.device(name) if name else torch.device("cpu")
        if device.type != "cpu":
            torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device {name!r} cannot be used ({str(error).splitlines()[0]}): expected cpu, cuda, cuda:1 or mps, one that this machine has"
        ) from error
    return name


def segmenter_of(o: argparse.Namespace, profile: Profile, dataset: str = "", **changes: Any) -> DiffSegmenter:
    """The segmenter of a profile on the device and in the precision asked for.

    Args:
        o: Options with `device`, `dtype` and `offload`, and `recipe` and `one_pass` where the command has them.
        profile: Profile, as :func:`profile_of` gives it, whose files are there.
        dataset: Data set whose prompt a recipe may word in its own way.
        changes: Fields of :class:`~diffseg_lib.config.Config`.

    Raises:
        ValueError: On a device that this machine has not, and on settings that cannot be.
    """
    from ..segmenter import DiffSegmenter

    device = check_device(o.device or profile.device)
    recipe = getattr(o, "recipe", None)
    changes |= {"one_pass": o.one_pass} if "one_pass" in o else {}
    return DiffSegmenter.from_profile(profile, recipe, dataset=dataset, device=device, dtype=o.dtype, offloaded=o.offload, **changes)
