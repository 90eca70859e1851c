"""The ledger: what the paper claims, what was measured for it, and a verdict that follows by rule.

It reads the JSON of the studies under ``data/results`` and nothing else: another JSON, another verdict.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..support.files import write_json
from ..support.paths import data_dir


@dataclass(frozen=True)
class Claim:
    """One claim of the paper.

    claim; where: section, table or figure; chapter: that tests it; study: whose JSON; effects: names in it
    that must all be above zero; paper: the paper's own figure, quoted ("" if it gives none); metric: of the
    effects; opposite: the claim says that the effects lie *below* zero.
    """

    claim: str
    where: str
    chapter: str
    study: str
    effects: tuple[str, ...]
    paper: str = ""
    metric: str = "mIoU, points"
    opposite: bool = False


_A, _T, _E = "10_ablation", "07_timesteps", "02_elbo"
CLAIMS: tuple[Claim, ...] = (
    Claim("Cross-attention alone localises the words", "Sec. 3.3, Table 4", _A, "ablation", ("cross attention against nothing found",), "61.25 mIoU"),
    Claim("Weighting the sides beats averaging them", "Sec. 4.4, Table 4", _A, "ablation", ("chosen weights instead of equal",), "67.89 to 70.49: +2.60"),
    Claim("The weights .3 .5 .1 .1 beat averaging", "Sec. 4.4, Table 4", _A, "ablation", ("paper's weights instead of equal",), "67.89 to 70.49: +2.60"),
    Claim("Self-attention of all layers completes the maps", "Sec. 4.4, Table 4", _A, "ablation", ("self-attention of all layers",), "61.25 to 65.01: +3.76"),
    Claim(
        "The finest self-attention beats that of all layers", "Sec. 4.4, Table 4", _A, "ablation", ("finest layers instead of all",), "65.01 to 67.89: +2.88"
    ),
    Claim("The finest self-attention completes the maps", "Sec. 3.4, Table 4", _A, "ablation", ("finest self-attention",), "61.25 to 67.89: +6.64"),
    Claim("Prompts completed by BLIP help", "Sec. 3.5, Table 4", _A, "ablation", ("BLIP on plain",), "65.32 to 67.99: +2.67"),
    Claim("Re-weighting the class, “++”, helps", "Sec. 3.5, Table 4", _A, "ablation", ("++ on plain",), "65.32 to 69.46: +4.14"),
    Claim("BLIP and “++” together beat the plain prompt", "Sec. 4.4, Table 4", _A, "ablation", ("both on plain",), "65.32 to 70.49: +5.17"),
    Claim("BLIP adds to “++”", "Sec. 4.4, Table 4", _A, "ablation", ("BLIP on ++",), "69.46 to 70.49: +1.03"),
    Claim("“++” adds to BLIP", "Sec. 4.4, Table 4", _A, "ablation", ("++ on BLIP",), "67.99 to 70.49: +2.50"),
    Claim("Adjectives written into the prompt help", "Sec. 3.5", "06_prompts", "prompts", ("adjectives fused minus plain",)),
    Claim("Fusing the modifiers' maps helps", "Sec. 3.5", "06_prompts", "prompts", ("adjectives fused minus written",)),
    Claim("t = 100 beats t = 1", "Table 5", _T, "timesteps", ("t=100 minus t=1",), "69.10 to 70.30: +1.20"),
    Claim("t = 100 beats its neighbours 50 and 150", "Table 5", _T, "timesteps", ("t=100 minus t=50", "t=100 minus t=150"), "+.36 and +.61"),
    Claim("Too much noise hurts", "Sec. 4.4", _T, "timesteps", ("t=100 minus t=500",)),
    Claim("The mean of four timesteps beats t = 100", "Table 5", _T, "timesteps", ("average minus t=100",), "70.30 to 70.49: +.19"),
    Claim("The ELBO baseline segments", "Sec. 3.1", _E, "elbo", ("ELBO against nothing found",)),
    Claim("The ELBO baseline needs many samples", "Sec. 3.1", _E, "elbo", ("most samples minus one",)),
    Claim("Attention beats the ELBO baseline", "Sec. 3.1, 3.2", _E, "benchmark_voc", ("diffsegmenter minus elbo, image",)),
    Claim("Beats dense CLIP on VOC", "Table 1", "09_benchmark", "benchmark_voc", ("diffsegmenter minus denseclip, filter",), "60.1 against 38.8 (MaskCLIP)"),
    Claim(
        "Beats dense CLIP on Context",
        "Table 1",
        "09_benchmark",
        "benchmark_context",
        ("diffsegmenter minus denseclip, filter",),
        "27.5 against 23.6 (MaskCLIP)",
    ),
    Claim(
        "Beats dense CLIP on COCO-Object",
        "Table 1",
        "09_benchmark",
        "benchmark_object",
        ("diffsegmenter minus denseclip, filter",),
        "37.9 against 20.6 (MaskCLIP)",
    ),
    Claim("Filtering the classes first is better than asking for all", "Sec. 3.6", "08_words", "benchmark_voc", ("filter minus all classes",)),
    Claim("The union of BLIP and CLIP beats each alone", "Sec. 3.6", "08_words", "benchmark_voc", ("union minus caption", "union minus clip")),
    Claim(
        "Objects are segmented more completely than by a discriminative rival",
        "Sec. 4.2, Fig. 4",
        "11_qualitative",
        "qualitative",
        ("recall at the precision: diffsegmenter minus denseclip",),
        metric="recall at 80 % precision, points",
    ),
    Claim(
        "Boundaries are clearer than a discriminative rival's",
        "Sec. 4.2, Fig. 4",
        "11_qualitative",
        "qualitative",
        ("mIoU at edges: diffsegmenter minus denseclip",),
        metric="mIoU within 3 px of edges, points",
    ),
    Claim(
        "Its pseudo-labels are better than a discriminative rival's",
        "Sec. 4.3, Table 2",
        "17_network",
        "network",
        ("masks: our pseudo-labels minus dense CLIP's pseudo-labels",),
        "70.5 against 61.7 (MCTformer)",
    ),
    Claim(
        "A network trained on its masks beats one trained on a discriminative rival's",
        "Sec. 4.3, Table 3",
        "17_network",
        "network",
        ("our pseudo-labels minus dense CLIP's pseudo-labels",),
        "69.1 against 68.5 (ReCAM)",
    ),
    Claim(
        "Its masks preserve the background of an edit better than Prompt-to-Prompt",
        "Sec. 4.5, Fig. 7",
        "18_editing",
        "edits",
        ("PSNR outside: our mask on both minus Prompt-to-Prompt",),
        metric="PSNR outside the thing, dB",
    ),
)


def verdict(intervals: Sequence[Sequence[float]], opposite: bool = False) -> str:
    """What 95 % intervals of effects say of a claim that all of them are above zero (`opposite`: below).

    "reproduced" if every interval lies on the claimed side of zero, "not reproduced" if one lies wholly on
    the other, else "inconclusive".

    >>> verdict([(1.0, 2.0)]), verdict([(1.0, 2.0), (-3.0, -1.0)]), verdict([(-1.0, 1.0)])
    ('reproduced', 'not reproduced', 'inconclusive')
    """
    directed = [(-high, -low) if opposite else (low, high) for low, high in intervals]
    if not directed:
        return "not run"
    if all(low > 0 for low, _ in directed):
        return "reproduced"
    return "not reproduced" if any(high < 0 for _, high in directed) else "inconclusive"


def judge(claim: Claim, run: Mapping[str, Any] | None) -> dict[str, Any]:
    """Effect, interval, seeds, images, verdict and command of one claim from one study's JSON (None: not run)."""
    found = [run["results"]["effects"].get(name) for name in claim.effects] if run else []
    if run is None or any(one is None for one in found):
        return {"effect": None, "ci95": None, "seeds": [], "images": 0, "verdict": "not run", "command": ""}
    effects = [one for one in found if one is not None]
    weakest = min(effects, key=lambda one: -one["value"] if claim.opposite else one["value"])
    return {
        "effect": weakest["value"],
        "ci95": list(weakest["ci95"]),
        "seeds": weakest.get("seeds", []),
        "images": weakest["images"],
        "verdict": verdict([one["ci95"] for one in effects], claim.opposite),
        "command": run["command"],
    }


def ledger(folder: Path | None = None, profile: str = "pocket", claims: Sequence[Claim] = CLAIMS) -> list[dict[str, Any]]:
    """A row a claim; of several effects the weakest is shown, and all must hold.

    Args:
        folder: with a folder of JSON a profile; ``data/results`` by default.
        profile: of the measured columns.
        claims: to judge.

    Returns:
        ``claim``, ``where``, ``chapter``, ``metric``, ``effect``, ``ci95``, ``seeds``, ``images``, ``verdict``,
        ``command``; ``paper``: its own figure, quoted; ``real``: by other profile the same measured columns,
        or "not run" where there is none.

    Raises:
        ValueError: if there is no such folder.
    """
    folder = folder or data_dir() / "results"
    if not folder.is_dir():
        raise ValueError(f"no results at {folder}: expected a folder with a folder of JSON a profile, as python -m diffseg_lib.studies writes")
    others = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name != profile)
    rows = []
    for one in claims:
        real = {name: judge(one, _read(folder / name / f"{one.study}.json")) for name in others}
        real = {name: found for name, found in real.items() if found["verdict"] != "not run"}
        about = {"claim": one.claim, "where": one.where, "chapter": one.chapter, "metric": one.metric, "paper": one.paper}
        rows.append(about | judge(one, _read(folder / profile / f"{one.study}.json")) | {"real": real or "not run"})
    return rows


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.is_file() else None


def write_ledger(rows: Sequence[Mapping[str, Any]], folder: Path | None = None) -> Path:
    """Write ``claims.json``, a list of rows; returns its path."""
    return write_json((folder or data_dir() / "results") / "claims.json", list(rows))
