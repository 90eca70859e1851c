"""Captions and alternative texts say nothing that the data could refute.

They describe form. A word that ranks or judges is in them only where it is filled from numbers (``{glue:text}`` in the same sentence),
or where it is listed here with the check that holds it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from diffseg_lib.support.paths import repository_root

ROOT = repository_root()
CLAIMS = re.compile(
    r"\b(best|better|worst|worse|mostly|lowers?|raises?|leads?|rises?|falls?|falling|beats?|far|closely|close to|nearly|nearest|never|always|alike|evenly"
    r"|exactly|hardly|succeeds?|success(?:es)?|costs?|grows?|gains?|loses?|lost|fails?|improves?|clear(?:ly|er)?|well|brightens?|brightest|dark(?:er)?|bright(?:er)?"
    r"|higher|highest|lowest|largest|smallest|faint|diffuse|coarsest?|sharp|exact|blobs?|ragged|recognisable|visibl[ey]|dominates?|nine in ten|most)\b",
    re.IGNORECASE,
)


def _source(*parts: str) -> str:
    return "\n".join((ROOT / "diffseg_lib" / part).read_text() for part in parts)


def _cells(chapter: str) -> str:
    return "\n".join(
        "".join(cell["source"]) for cell in json.loads((ROOT / "notebooks" / f"{chapter}.ipynb").read_text())["cells"] if cell["cell_type"] == "code"
    )


def _score_limits() -> bool:
    """Score maps are drawn from 0, dark, to 1, bright, by a colour map whose lightness rises."""
    import matplotlib

    ramp = matplotlib.colormaps["cividis"]([0.0, 0.5, 1.0])[:, :3] @ [0.2126, 0.7152, 0.0722]
    return bool(ramp[0] < ramp[1] < ramp[2])


def _argmax() -> bool:
    """A pixel takes the word of the largest score, and none below the threshold."""
    import torch

    from diffseg_lib.scoremaps import label

    scores = torch.tensor([[[0.9, 0.2, 0.6]], [[0.8, 0.3, 0.7]]])
    return label(scores, 0.5).tolist() == [[1, 0, 2]]


def _shares() -> bool:
    """The words shown are those of the largest areas."""
    return "key=lambda i: -areas[i])[:SHOWN]" in _source("experiments/asking.py")


def _sorted_by_miou() -> bool:
    return "live[name].best[:3] + live[name].worst[:3]" in _cells("11_benchmark")


def _sorted_by_change() -> bool:
    return "live.changed[:2] + live.changed[-2:]" in _cells("13_pseudo_labels")


def _weakest() -> bool:
    return "folder.weakest(draft.file" in _cells("16_folder")


def _class_order() -> bool:
    return "sorted(known.items(), key=lambda one: -one[1])" in _source("book/plots/studies.py")


def _welcome_order() -> bool:
    return "(order[0], order[len(order) // 2], order[-1])" in _source("book/plots/files.py")


# (figure, word) to the check that holds the sentence that the word stands in.
HELD: dict[tuple[str, str], Callable[[], bool]] = {
    ("fig-quickstart", "brighter"): _score_limits,
    ("fig-quickstart", "largest"): _argmax,
    ("fig-holes", "largest"): _argmax,
    ("fig-holes", "brighter"): _argmax,
    ("fig-holes", "dark"): _argmax,
    ("fig-asked", "largest"): _shares,
    ("fig-elbo-errors", "bright"): _score_limits,
    ("fig-elbo-errors", "dark"): _score_limits,
    ("fig-best-worst", "highest"): _sorted_by_miou,
    ("fig-best-worst", "lowest"): _sorted_by_miou,
    ("fig-crf-images", "raises"): _sorted_by_change,
    ("fig-crf-images", "most"): _sorted_by_change,
    ("fig-crf-images", "lowers"): _sorted_by_change,
    ("fig-folder-corrected", "lowest"): _weakest,
    ("fig-classes", "highest"): _class_order,
    ("fig-hero", "best"): _welcome_order,
    ("fig-hero", "worst"): _welcome_order,
    ("hero of README.md", "best"): _welcome_order,
    ("hero of README.md", "worst"): _welcome_order,
}


def texts() -> list[tuple[str, str]]:
    """Every caption and alternative text of the book: the figure's name and the text."""
    found = []
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in json.loads(path.read_text())["cells"]:
            shown = cell["metadata"].get("mystnb", {})
            name = shown.get("figure", {}).get("name", path.stem)
            found += [(name, text) for text in (shown.get("figure", {}).get("caption"), shown.get("image", {}).get("alt")) if text]
    for page in sorted(ROOT.glob("*.md")):
        text = page.read_text()
        for block in re.findall(r"```\{figure\}.*?```", text, re.DOTALL):
            name = re.search(r":name: (\S+)", block)
            found.append((name[1] if name else page.name, re.sub(r"^:(?:name|width): .*$", "", block, flags=re.MULTILINE)))
        found += [(f"{Path(source).stem} of {page.name}", alt) for alt, source in re.findall(r"!\[(.*?)\]\((.*?)\)", text, re.DOTALL)]
    return found


def claims(name: str, text: str) -> set[tuple[str, str]]:
    """The words of a text that claim something, with the figure's name; sentences that are filled from numbers are left out."""
    sentences = [one for one in re.split(r"(?<=[.;])\s+", text) if "{glue:" not in one]
    return {(name, word.lower()) for one in sentences for word in CLAIMS.findall(one)}


def test_no_caption_claims_what_nothing_holds():
    found = {claim for name, text in texts() for claim in claims(name, text)}
    assert sorted(found - HELD.keys()) == []


def test_what_is_held_is_still_said():
    found = {claim for name, text in texts() for claim in claims(name, text)}
    assert sorted(HELD.keys() - found) == []


@pytest.mark.parametrize("claim", HELD, ids=" ".join)
def test_what_is_said_holds(claim):
    assert HELD[claim]()


@pytest.mark.parametrize(
    "text",
    [
        "The completed maps lead on every data set.",
        "Each saving lowers it.",
        "The caption alone finds about nine in ten.",
        "ELBO comes out worst.",
        "Their outlines follow closely.",
    ],
)
def test_a_claim_is_seen(text):
    assert claims("fig-x", text)


def test_a_sentence_filled_from_numbers_may_claim():
    assert not claims("fig-x", "The best layer reaches {glue:text}`cross_best_auc` percent.")
    assert claims("fig-x", "It reaches {glue:text}`cross_best_auc` percent. It is the best.")
