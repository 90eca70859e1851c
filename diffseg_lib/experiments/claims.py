"""The ledger: what the paper claims, what was measured for it, and a verdict that follows by rule.

It reads the JSON of the studies under ``data/results`` and nothing else: another JSON, another verdict.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..evaluation.metrics import MANY
from ..support.files import write_json
from ..support.paths import POCKET, data_dir
from .measure import CommittedRun, Effect, Estimate, StudyResult, check_models, format_effect, read_run, side_of_zero

UNMEASURED = "not measured yet"  # a study that was run before it measured an effect
UNTESTABLE = "cannot be tested here"  # a claim on models or pictures that the book does not have
VERDICTS = ("reproduced", "not reproduced", "inconclusive", "undecided", "not run", UNMEASURED, UNTESTABLE)
PAPER, SUCCESSORS = "claims of the paper", "claims of the successors"  # the two tables


@dataclass(frozen=True)
class Claim:
    """One claim of the paper.

    Args:
        claim: The claim, for people.
        where: Section, table or figure of the paper.
        chapter: The chapter that tests it.
        study: The study whose JSON is read; "" of a claim that cannot be tested here.
        effects: Keys of the effects in it that must all be above zero.
        paper: The paper's own figure, quoted; "" if it gives none.
        metric: What the effects are measured in.
        opposite: The claim says that the effects lie *below* zero.
        untestable: Why it cannot be tested here, and what it would take; "" of a claim that can.
        table: Table that it stands in, "claims of the paper" or "claims of the successors".
        profile: Profile whose study is read; "" is the ledger's.
    """

    claim: str
    where: str
    chapter: str
    study: str = ""
    effects: tuple[str, ...] = ()
    paper: str = ""
    metric: str = "mIoU, points"
    opposite: bool = False
    untestable: str = ""
    table: str = PAPER
    profile: str = ""


_A, _T, _E, _B, _Q = "10_ablation", "08_timesteps", "09_elbo", "11_benchmark", "12_qualitative"
_RECALL, _EDGES = "recall at 80 % precision, points", "mIoU within 3 px of edges, points"
_W = "67.89 to 70.49: +2.60"  # what the paper's weights bring over equal ones
CLAIMS: tuple[Claim, ...] = (
    Claim("Cross-attention alone localises the words", "Sec. 3.3, Table 4", _A, "ablation", ("fused_over_nothing",), "61.25 mIoU"),
    Claim("The profile's weights (the pocket's keep one resolution) beat equal ones", "Sec. 4.4, Table 4", _A, "ablation", ("chosen_weights",), _W),
    Claim("Weights that keep several resolutions beat equal ones", "Sec. 4.4, Table 4", _A, "ablation", ("several_over_equal",), _W),
    Claim("Resolutions complement each other: several fused beat the best one alone", "Sec. 3.2, Eq. (5)", _A, "ablation", ("several_over_single",)),
    Claim("The two coarsest resolutions hold the strongest semantics", "Sec. 3.3, 4.4, Fig. 3", _A, "ablation", ("coarse_over_fine",)),
    Claim("The weights .3 .5 .1 .1 beat averaging", "Sec. 4.4, Table 4", _A, "ablation", ("paper_weights",), _W),
    Claim("Self-attention of all layers completes the maps", "Sec. 4.4, Table 4", _A, "ablation", ("completion_by_all",), "61.25 to 65.01: +3.76"),
    Claim("The finest self-attention beats that of all layers", "Sec. 4.4, Table 4", _A, "ablation", ("finest_over_all",), "65.01 to 67.89: +2.88"),
    Claim("The finest self-attention completes the maps", "Sec. 3.4, Table 4", _A, "ablation", ("completion_by_finest",), "61.25 to 67.89: +6.64"),
    Claim("Self-attention closes the holes of cross-attention", "Sec. 3.4", _Q, "qualitative", ("recall_ours_minus_cross",), metric=_RECALL),
    Claim("Self-attention makes the boundaries clearer", "Sec. 3.4, Fig. 5", _Q, "qualitative", ("edges_ours_minus_cross",), metric=_EDGES),
    Claim("Prompts completed by BLIP help", "Sec. 3.5, Table 4", _A, "ablation", ("caption_on_plain",), "65.32 to 67.99: +2.67"),
    Claim("Re-weighting the class, “++”, helps", "Sec. 3.5, Table 4", _A, "ablation", ("emphasis_on_plain",), "65.32 to 69.46: +4.14"),
    Claim("BLIP and “++” together beat the plain prompt", "Sec. 4.4, Table 4", _A, "ablation", ("both_on_plain",), "65.32 to 70.49: +5.17"),
    Claim("BLIP adds to “++”", "Sec. 4.4, Table 4", _A, "ablation", ("caption_on_emphasis",), "69.46 to 70.49: +1.03"),
    Claim("“++” adds to BLIP", "Sec. 4.4, Table 4", _A, "ablation", ("emphasis_on_caption",), "67.99 to 70.49: +2.50"),
    Claim("Adjectives written into the prompt help", "Sec. 3.5", "07_prompts", "prompts", ("adjectives_fused_minus_plain",)),
    Claim("Fusing the modifiers' maps helps", "Sec. 3.5", "07_prompts", "prompts", ("fused_minus_written",)),
    Claim("t = 100 beats t = 1", "Table 5", _T, "timesteps", ("t100_minus_t1",), "69.10 to 70.30: +1.20"),
    Claim("t = 100 beats its neighbours 50 and 150", "Table 5", _T, "timesteps", ("t100_minus_t50", "t100_minus_t150"), "+.36 and +.61"),
    Claim("Too much noise hurts", "Sec. 4.4", _T, "timesteps", ("t100_minus_t500",)),
    Claim("The mean of four timesteps beats t = 100", "Table 5", _T, "timesteps", ("average_minus_t100",), "70.30 to 70.49: +.19"),
    Claim("The ELBO baseline segments", "Sec. 3.1", _E, "elbo", ("elbo_over_nothing",)),
    Claim("The ELBO baseline needs many samples", "Sec. 3.1", _E, "elbo", ("most_minus_least",)),
    Claim("Attention beats the ELBO baseline", "Sec. 3.1, 3.2", _E, "benchmark_voc", ("over_elbo/image",)),
    Claim("Beats dense CLIP on VOC", "Table 1", _B, "benchmark_voc", ("over_denseclip/filter",), "60.1 against 38.8 (MaskCLIP)"),
    Claim(
        "Beats dense CLIP on Context",
        "Table 1",
        _B,
        "benchmark_context",
        ("over_denseclip/filter",),
        "27.5 against 23.6 (MaskCLIP)",
    ),
    Claim(
        "Beats dense CLIP on COCO-Object",
        "Table 1",
        _B,
        "benchmark_object",
        ("over_denseclip/filter",),
        "37.9 against 20.6 (MaskCLIP)",
    ),
    Claim("Filtering the classes first is better than asking for all", "Sec. 3.6", "06_words", "benchmark_voc", ("filter_minus_all",)),
    Claim("The union of BLIP and CLIP beats each alone", "Sec. 3.6", "06_words", "benchmark_voc", ("filter_minus_caption", "filter_minus_clip")),
    Claim(
        "Objects are segmented more completely than by a discriminative rival",
        "Sec. 4.2, Fig. 4",
        _Q,
        "qualitative",
        ("recall_ours_minus_rival",),
        metric=_RECALL,
    ),
    Claim(
        "Boundaries are clearer than a discriminative rival's",
        "Sec. 4.2, Fig. 4",
        _Q,
        "qualitative",
        ("edges_ours_minus_rival",),
        metric=_EDGES,
    ),
    Claim(
        "Its pseudo-labels are better than a discriminative rival's",
        "Sec. 4.3, Table 2",
        "14_network",
        "network",
        ("masks_ours_minus_rival",),
        "70.5 against 61.7 (MCTformer)",
    ),
    Claim(
        "A network trained on its masks beats one trained on a discriminative rival's",
        "Sec. 4.3, Table 3",
        "14_network",
        "network",
        ("ours_minus_rival",),
        "69.1 against 68.5 (ReCAM)",
    ),
    Claim(
        "Its masks preserve the background of an edit better than Prompt-to-Prompt",
        "Sec. 4.5, Fig. 7",
        "15_editing",
        "edits",
        ("psnr_both_minus_plain",),
        metric="PSNR outside the object, dB",
    ),
    Claim(
        "Its masks make edits more accurate than Prompt-to-Prompt: the new word is found inside",
        "Sec. 4.5, Fig. 7",
        "15_editing",
        "edits",
        ("success_both_minus_plain",),
        metric="successful edits, points",
    ),
    Claim(
        "Small objects may be lost in the small maps of the latents (a limitation)",
        "Sec. 5",
        "13_pseudo_labels",
        untestable="The measured images of the pocket world have no object below 2 % of the picture; the chapter compares those that there are by size.",
    ),
    Claim(
        "It reaches 60.1, 27.5 and 37.9 mean IoU on VOC, Context and COCO-Object",
        "Table 1",
        _B,
        paper="60.1, 27.5 and 37.9",
        untestable="It is about photographs and Stable Diffusion 1.5, neither of which is shipped; diffseg study --profile sd15 measures it with both.",
    ),
    Claim(
        "It beats methods that were trained on image-text pairs, such as GroupViT, TCL and SegCLIP",
        "Table 1",
        _B,
        paper="60.1 against 52.3, 51.2 and 52.6 on VOC",
        untestable="Their weights were learnt from millions of photographs and have no counterpart in the pocket world; the chapter takes a GroupViT of yours.",
    ),
    Claim(
        "Among training-free methods OVDiff alone is better, and only on VOC and Context",
        "Sec. 4.2, Table 1",
        _B,
        paper="OVDiff 67.1, 30.1 and 34.8",
        untestable="OVDiff draws a gallery for each class and compares features of further networks; it is not implemented here.",
    ),
    Claim(
        "Its pseudo-labels are comparable to those of CLIP-ES",
        "Sec. 4.3, Table 2",
        "13_pseudo_labels",
        paper="70.5 against 70.8",
        untestable="CLIP-ES takes its maps from the gradients of a large CLIP on photographs; it is not implemented here.",
    ),
    Claim(
        "A network trained on its pseudo-labels is comparable to the state of the art",
        "Sec. 4.3, Table 3",
        "14_network",
        paper="69.1 on VOC val, 68.6 on test",
        untestable="It takes VOC's photographs, a ResNet-101 trained on ImageNet, and VOC's server for the test split; the chapter says how to train it.",
    ),
)


def verdict(intervals: Sequence[Sequence[float] | None], opposite: bool = False, images: int = MANY) -> str:
    """What 95 % intervals of effects say of a claim that all of them are above zero.

    "reproduced" if every interval lies on the claimed side of zero, "not reproduced" if one lies wholly on the other, else
    "inconclusive"; "not run" without an effect. Fewer than 100 images (``evaluation.metrics.MANY``) decide nothing: "undecided: 40 images".

    Args:
        intervals: The effects' intervals, (low, high) each; None of an effect of too few images to have one.
        opposite: The claim is that the effects are below zero.
        images: The number of images, of several effects the smallest.

    >>> verdict([(1.0, 2.0)]), verdict([(1.0, 2.0), (-3.0, -1.0)]), verdict([(-1.0, 1.0)]), verdict([(1.0, 2.0)], images=40)
    ('reproduced', 'not reproduced', 'inconclusive', 'undecided: 40 images')
    """
    if not intervals:
        return "not run"
    known = [one for one in intervals if one is not None]
    if images < MANY or len(known) < len(intervals):
        return f"undecided: {images} images"
    directed = [(-high, -low) if opposite else (low, high) for low, high in known]
    if all(low > 0 for low, _ in directed):
        return "reproduced"
    return "not reproduced" if any(high < 0 for _, high in directed) else "inconclusive"


def effect_verdict(effect: Estimate | None, opposite: bool = False) -> str:
    """The verdict on the claim that one effect is above zero (`opposite`: below it); "not run" without an effect."""
    return "not run" if effect is None else verdict([effect.ci95], opposite, effect.images)


def shown(effect: Estimate) -> str:
    """For prose, what a measured effect says of the claim that it is above zero: that the claim "holds in the pocket world", or not."""
    told = {1: "holds in the pocket world", None: f"is undecided: {effect.images} images"}
    return told.get(side_of_zero(effect), "is not shown by these scenes")


def effect_texts(effects: Mapping[str, Estimate], names: Mapping[str, str]) -> dict[str, str]:
    """Effects for prose: name in the prose to an effect's key; "not run" for one that was not measured."""
    return {name: format_effect(effects[key]) if key in effects else "not run" for name, key in names.items()}


def effect_verdicts(effects: Mapping[str, Estimate], names: Mapping[str, str]) -> dict[str, str]:
    """Verdicts for prose on the claims that effects are above zero: name in the prose to an effect's key."""
    return {name: effect_verdict(effects.get(key)) for name, key in names.items()}


def quoted_table(effects: Mapping[str, Estimate], quoted: Mapping[str, float]) -> Any:
    """Effects beside those that the paper prints, as a table (pandas): key of an effect to the paper's points."""
    import pandas as pd

    lines = {}
    for key, points in quoted.items():
        one = effects[key]
        line = {"pocket, points": format_effect(one), "verdict in the pocket world": effect_verdict(one)}
        lines[one.label] = line | {"paper on VOC train, quoted": f"{points:+.2f}"}
    return pd.DataFrame(lines).T


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What one study's run says of a claim; without a run the verdict is "not run", for an effect that it did not measure "not measured yet".

    Args:
        effect: The effect; of several the one that decides the verdict (:func:`deciding`). None if it was not measured.
        label: What that effect is the difference of, for people.
        ci95: The 95 % interval of the effect, (low, high); None if it was not measured, or of too few images.
        seeds: Seeds of the noise, those of the effect or else of its study.
        images: The number of images; of several effects the smallest.
        verdict: The verdict on all effects together, see :func:`verdict`.
        command: The command that measured them; of an effect that was not measured yet, the one that will.
    """

    effect: float | None = None
    label: str = ""
    ci95: tuple[float, float] | None = None
    seeds: tuple[int, ...] = ()
    images: int = 0
    verdict: str = "not run"
    command: str = ""


@dataclass(frozen=True, kw_only=True)
class LedgerRow(Judged):
    """A claim with what was measured for it.

    Args:
        claim: The claim, for people.
        where: Section, table or figure of the paper.
        chapter: The chapter that tests it.
        metric: What the effects are measured in.
        paper: The paper's own figure, quoted; "" if it gives none.
        why: Why it cannot be tested here; "" of a claim that can.
        real: What runs of other profiles say, by profile; "not run" where there is none.
        table: Table that it stands in.
    """

    claim: str
    where: str
    chapter: str
    metric: str
    paper: str
    why: str
    real: Mapping[str, Judged] | str
    table: str = PAPER

    @property
    def measured(self) -> str:
        """:func:`measured_text` of the row."""
        return measured_text(self)


def deciding(effects: Sequence[Effect], opposite: bool = False) -> Effect:
    """Of several effects the one on which the verdict rests.

    The one whose whole interval lies on the other side, where there is one, else the one whose interval reaches nearest to that side or farthest
    into it; of effects without an interval the smallest.

    >>> low, wide = Effect(label="low", value=1.0, ci95=(0.5, 1.5), images=500), Effect(label="wide", value=2.0, ci95=(-1.0, 5.0), images=500)
    >>> deciding([low, wide]).label
    'wide'
    """
    sign = -1 if opposite else 1
    if any(one.ci95 is None for one in effects):
        return min(effects, key=lambda one: (one.ci95 is not None, sign * one.value))
    ends = [sorted(sign * end for end in one.ci95 or ()) for one in effects]
    against = [i for i, (_, high) in enumerate(ends) if high < 0]
    return effects[min(against or range(len(effects)), key=lambda i: ends[i][1] if against else ends[i][0])]


def judge(claim: Claim, run: CommittedRun[StudyResult] | None) -> Judged:
    """Judge one claim by one study's run; None is a study that was not run."""
    if claim.untestable:
        return Judged(verdict=UNTESTABLE)
    if run is None:
        return Judged()
    effects = [run.result.effects[name] for name in claim.effects if name in run.result.effects]
    if len(effects) < len(claim.effects):
        return Judged(verdict=UNMEASURED, command=f"python -m diffseg_lib study {claim.study}")
    images = min(one.images for one in effects)
    shown = deciding(effects, claim.opposite)
    return Judged(
        effect=shown.value,
        label=shown.label,
        ci95=shown.ci95,
        seeds=shown.seeds or run.result.seeds,
        images=images,
        verdict=verdict([one.ci95 for one in effects], claim.opposite, images),
        command=run.command,
    )


def ledger(folder: Path | None = None, profile: str = "pocket", claims: Sequence[Claim] = CLAIMS) -> list[LedgerRow]:
    """A row a claim; of several effects all must hold, and the one that decides is shown.

    Args:
        folder: The folder with a folder of JSON a profile; None is ``data/results``.
        profile: The profile of the measured columns.
        claims: The claims to judge.

    Raises:
        ValueError: If there is no such folder, or a file in it is damaged or was measured with other models than its profile's.
    """
    folder = folder or data_dir() / "results"
    if not folder.is_dir():
        raise ValueError(f"no results at {folder}: expected a folder with a folder of JSON a profile, as python -m diffseg_lib.studies writes")
    others = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name != profile and not p.name.startswith(POCKET))

    @cache
    def kept(study: str, name: str) -> CommittedRun[StudyResult] | None:
        path = folder / name / f"{study}.json"
        run = read_run(path, StudyResult)
        if run is not None:
            check_models(run, path)
        return run

    rows = []
    for one in claims:
        real = {name: judge(one, kept(one.study, name)) for name in others}
        real = {name: found for name, found in real.items() if found.effect is not None}
        told: dict[str, Any] = {key: getattr(one, key) for key in ("claim", "where", "chapter", "metric", "paper", "table")} | {"why": one.untestable}
        found = judge(one, kept(one.study, one.profile or profile))
        rows.append(LedgerRow(**told, **vars(found), real=real or "not run"))
    return rows


def measured_text(row: LedgerRow) -> str:
    """The effect of a claim with its 95 % interval and what it is measured in; the command of one that was not measured yet, why one cannot be, else ""."""
    if row.effect is None:
        return row.command if row.verdict == UNMEASURED else row.why
    return f"{format_effect(Estimate(value=row.effect, ci95=row.ci95, images=row.images))} {row.metric}"


def write_ledger(rows: Sequence[LedgerRow], folder: Path | None = None) -> Path:
    """Write ``claims.json``, a list of the rows of both tables; returns its path."""
    return write_json((folder or data_dir() / "results") / "claims.json", list(rows))


def counts(rows: Sequence[LedgerRow]) -> dict[str, int]:
    """The number of claims by verdict, the most frequent first; "undecided" whatever the number of images."""
    return dict(Counter(_kind(row) for row in rows).most_common())


def _kind(row: Judged) -> str:
    """One of :data:`VERDICTS`: the verdict without the number of images that it was left undecided by."""
    return row.verdict.split(":")[0]


def numbers(rows: Sequence[LedgerRow]) -> dict[str, str]:
    """The numbers that the chapter's prose cites, by name."""
    named = {kind: [row.claim for row in rows if _kind(row) == kind] for kind in VERDICTS}
    still_open, unrun = named["inconclusive"] + named["undecided"], named["not run"] + named[UNMEASURED]
    kinds = {"reproduced": named["reproduced"], "not": named["not reproduced"], "open": still_open, "unrun": unrun, "untestable": named[UNTESTABLE]}
    return {
        "claims_total": str(len(rows)),
        **{f"claims_{name}": str(len(found)) for name, found in kinds.items()},
        **{f"claims_named_{name}": "; ".join(kinds[name]) or "none" for name in ("not", "open", "unrun")},
    }
