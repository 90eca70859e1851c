"""Fig. 7: word swaps by Prompt-to-Prompt, unlimited, within its own local blend, and within our masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from ..applications.generation import to_uint8
from ..applications.prompt_to_prompt import Gate, LocalBlend, PromptToPrompt, Trajectory, ddim_invert, edit
from ..data import Dataset
from ..evaluation.sources import open_dataset
from ..prompts import multi_object_prompt
from ..segmenter import DiffSegmenter
from ..vision_language import Clip
from .claims import effect_texts, effect_verdicts
from .measure import Effect, Estimate, StudyResult, mean_effect, mean_estimate

CODED, PLAIN, BLEND, ATTENTION, LATENTS, BOTH, PASTED = "coded", "plain", "blend", "attention", "latents", "both", "pasted"
LABELS: Mapping[str, str] = {
    CODED: "encoded and decoded, no edit",
    PLAIN: "Prompt-to-Prompt",
    BLEND: "its local blend",
    ATTENTION: "our mask on attention",
    LATENTS: "our mask on latents",
    BOTH: "our mask on both",
    PASTED: "on both, pixels pasted",
}
TRIED = tuple(PromptToPrompt(*shares, guidance=weight) for shares, weight in (((0.2, 0.0), 7.5), ((0.5, 0.3), 4.0), ((0.5, 0.3), 7.5), ((0.8, 0.4), 7.5)))
BLENDS = tuple((stride, threshold) for stride in (2, 4) for threshold in (0.3, 0.5))
PARTS: Mapping[str, str] = {"psnr": "PSNR outside", "ssim": "SSIM outside", "success": "success", "first": "ranked first"}  # see :class:`Judgement`
LEAST = 0.05  # of the picture, that a thing must take to be edited
MARGIN = 0.1  # of its side, around the box in which an edit is judged


@dataclass(frozen=True)
class Judgement:
    """What one edit left alone, and whether it succeeded.

    Args:
        psnr: PSNR outside the thing's true mask, dB.
        ssim: Structural similarity there, at most 1.
        success: Success, 100 if CLIP finds the new word likelier than the old inside the thing's box, else 0.
        first: First place, 100 if CLIP finds the new word likelier than all others there, else 0.
    """

    psnr: float
    ssim: float
    success: float
    first: float


@dataclass(frozen=True, kw_only=True)
class EditRow(Estimate):
    """Means over edits of what :class:`Judgement` says of one; the row's own value is PSNR outside the thing, dB.

    Args:
        ssim: Structural similarity outside the thing, at most 1.
        success: Share of the edits in which CLIP finds the new word likelier than the old, percent.
        first: Share of the edits in which CLIP finds the new word likelier than all words, percent.
    """

    ssim: Estimate
    success: Estimate
    first: Estimate


@dataclass(frozen=True, kw_only=True)
class BlendSettings:
    """The local blend that was chosen.

    Args:
        stride: Stride, relative to the latents, of the layers whose maps it reads.
        threshold: Threshold of the maps divided by their maximum, 0 to 1.
        start: Share of the steps before the first blend, 0 to 1.
    """

    stride: int
    threshold: float
    start: float


@dataclass(frozen=True, kw_only=True)
class EditResult(StudyResult):
    """Word swaps by what limits them, keys of :data:`LABELS`.

    ``effects`` are "psnr_both_minus_plain" and so on: each of :data:`PARTS`, our masks against plain Prompt-to-Prompt and its blend.

    Args:
        rows: Means over edits by what limits them.
        judge: How often the judge names the unedited thing, percent.
        iou: IoU of our masks with the true ones, percent, the mean over things.
        settings: The settings of Prompt-to-Prompt that were chosen.
        blend: The settings of its local blend that were chosen.
        unit: Unit of the rows' values.
        steps: The number of steps of inversion and edit.
        tuning_images: The number of edits on which settings were chosen.
        split: The split that was measured.
    """

    rows: Mapping[str, EditRow]
    judge: Estimate
    iou: Estimate
    settings: PromptToPrompt
    blend: BlendSettings
    unit: str = "PSNR outside, dB"
    steps: int
    tuning_images: int
    split: str
    words: ClassVar[str] = ""


@dataclass(frozen=True)
class Task:
    """One swap of a thing in a picture for another.

    Args:
        id: Id of the picture.
        pixels: The picture, H W 3, uint8.
        source: The prompt that describes it.
        target: The prompt that is asked for.
        word: The thing.
        new: What the thing is to become.
        inside: The true mask of the thing, H W, bool.
        mask: Our mask of the thing, H W, bool.
    """

    id: str
    pixels: np.ndarray
    source: str
    target: str
    word: str
    new: str
    inside: np.ndarray
    mask: np.ndarray


def make_tasks(segmenter: DiffSegmenter, dataset: Dataset, count: int, seed: int) -> list[Task]:
    """The first so many pictures with a thing large enough: its largest becomes a thing that is not in the picture, drawn by (seed, place in the split)."""
    found: list[Task] = []
    for place, name in enumerate(dataset.ids):
        if len(found) == count:
            break
        sample = dataset.load(name)
        shares = {one: float((sample.truth == dataset.names.index(one)).mean()) for one in sample.classes}
        if not shares or max(shares.values()) < LEAST:
            continue
        thing = max(shares, key=lambda one: shares[one])
        others = [one for one in sample.classes if one != thing]
        absent = [one for one in dataset.names[1:] if one not in sample.classes]
        [word], [new] = dataset.words([thing]), dataset.words([str(np.random.default_rng([seed, place]).choice(absent))])
        rest, template = dataset.words(others), segmenter.template
        mask = segmenter.segment(sample.image, [word, *rest]).labels == 1
        prompts = multi_object_prompt([word, *rest], template), multi_object_prompt([new, *rest], template)
        found.append(Task(name, sample.image, *prompts, word, new, sample.truth == dataset.names.index(thing), mask))
    return found


def box(pixels: np.ndarray, mask: np.ndarray, margin: float = MARGIN) -> np.ndarray:
    """The square around a mask, with a margin, inside the picture."""
    ys, xs = np.nonzero(mask)
    side = min(int((max(np.ptp(ys), np.ptp(xs)) + 1) * (1 + 2 * margin)), *mask.shape)
    y, x = (min(max(0, (int(at.min()) + int(at.max()) + 1) // 2 - side // 2), full - side) for at, full in ((ys, mask.shape[0]), (xs, mask.shape[1])))
    return pixels[y : y + side, x : x + side]


def judge(task: Task, picture: np.ndarray, clip: Clip, words: Sequence[str]) -> Judgement:
    """Judge a picture as the edit of a task: outside the thing's true mask against the picture before, inside its box by CLIP among `words`."""
    from skimage.metrics import structural_similarity

    error = (picture.astype(float) - task.pixels)[~task.inside]
    # An error of nothing has no PSNR: count it as that of one value in ten thousand being off by one.
    psnr = 10 * np.log10(255**2 / max(float((error**2).mean()), 1e-4))
    alike = structural_similarity(task.pixels, picture, channel_axis=2, data_range=255, full=True)[1]
    likeness = dict(zip(words, clip.similarities([box(picture, task.inside)], words)[0].tolist(), strict=True))
    success, first = likeness[task.new] > likeness[task.word], likeness[task.new] == max(likeness.values())
    return Judgement(float(psnr), float(alike[~task.inside].mean()), 100.0 * success, 100.0 * first)


def choose(segmenter: DiffSegmenter, tasks: Sequence[Task], clip: Clip, words: Sequence[str], steps: int) -> tuple[PromptToPrompt, LocalBlend]:
    """Prompt-to-Prompt's settings of most success, then its blend's of the highest mean IoU with the true masks."""
    backbone, sources = segmenter.backbone, [ddim_invert(segmenter, task.pixels, task.source, steps) for task in tasks]

    def success(settings: PromptToPrompt) -> float:
        return sum(judge(t, edit(backbone, s, t.target, settings).picture, clip, words).success for t, s in zip(tasks, sources, strict=True))

    settings = max(TRIED, key=success)

    def overlap(given: tuple[int, float]) -> float:
        return float(np.mean([_iou(t, s, given) for t, s in zip(tasks, sources, strict=True)]))

    def _iou(task: Task, source: Trajectory, given: tuple[int, float]) -> float:
        found = edit(backbone, source, task.target, settings, blend=blend_of(task, given)).allowed
        if found is None:  # too few steps for a blend
            return 0.0
        h, w = task.inside.shape
        allowed = np.asarray(Image.fromarray((found > 0).astype(np.uint8)).resize((w, h), Image.Resampling.NEAREST)) > 0
        return float((allowed & task.inside).sum() / (allowed | task.inside).sum())

    stride, threshold = max(BLENDS, key=overlap)
    return settings, LocalBlend("", "", threshold, stride=stride)


def blend_of(task: Task, given: tuple[int, float]) -> LocalBlend:
    """A local blend on a task's words, given its stride and threshold."""
    return LocalBlend(task.word, task.new, given[1], stride=given[0])


def variants(segmenter: DiffSegmenter, task: Task, source: Trajectory, settings: PromptToPrompt, blend: LocalBlend) -> dict[str, np.ndarray]:
    """The edited pictures of a task, by row."""
    backbone = segmenter.backbone

    def draw(**limits: Any) -> np.ndarray:
        return edit(backbone, source, task.target, settings, **limits).picture

    both = draw(gate=Gate(task.mask, pixels=False))
    h, w = task.pixels.shape[:2]
    coded = Image.fromarray(to_uint8(backbone.decode_latents(source.latents[0]))[0]).resize((w, h), Image.Resampling.BICUBIC)
    return {
        CODED: np.asarray(coded),
        PLAIN: draw(),
        BLEND: draw(blend=replace(blend, source=task.word, target=task.new)),
        ATTENTION: draw(gate=Gate(task.mask, latents=False, pixels=False)),
        LATENTS: draw(gate=Gate(task.mask, attention=False, pixels=False)),
        BOTH: both,
        PASTED: np.where(task.mask[..., None], both, task.pixels),
    }


def edit_study(
    segmenter: DiffSegmenter,
    clip: Clip,
    dataset: str = "voc",
    root: str = "",
    split: str = "val",
    tuning_images: int = 16,
    images: int = 100,
    steps: int = 15,
    seed: int = 0,
    progress: Callable[[str], Any] = lambda text: None,
) -> EditResult:
    """What word swaps leave alone, and whether they succeed.

    Args:
        segmenter: The model of the masks (with its threshold) and of the edits.
        clip: The CLIP model that judges the edits.
        dataset: Name of the data set.
        root: Folder of the data set; "" is the pocket world's.
        split: The split that is measured, without the pictures that are tuned on.
        tuning_images: The number of edits of train on which the settings of Prompt-to-Prompt and of its blend are chosen.
        images: The number of edits that are measured, one a picture.
        steps: The number of steps of inversion and edit.
        seed: Seed of what becomes what.
        progress: Called with a line now and then.

    Raises:
        ValueError: If the splits have too few pictures with a large enough thing.
    """
    opened = open_dataset(dataset, root, split)
    tuning = make_tasks(segmenter, open_dataset(dataset, root, "train"), tuning_images, seed)
    tuned = {one.id for one in tuning}
    test = make_tasks(segmenter, replace(opened, ids=tuple(one for one in opened.ids if one not in tuned)), images, seed)
    if len(tuning) < tuning_images or len(test) < images:
        raise ValueError(
            f"{len(tuning)} edits to tune on and {len(test)} to measure: expected {tuning_images} and {images}; "
            f"only pictures with an object of at least {LEAST:.0%} are edited, ask for fewer"
        )
    words = opened.words(opened.names[1:])
    settings, blend = choose(segmenter, tuning, clip, words, steps)
    progress(f"chosen on {len(tuning)} train images: {settings}, {blend}")
    found: dict[str, list[Judgement]] = {}
    for number, task in enumerate(test, start=1):
        source = ddim_invert(segmenter, task.pixels, task.source, steps)
        for name, picture in variants(segmenter, task, source, settings, blend).items():
            found.setdefault(name, []).append(judge(task, picture, clip, words))
        if number % 10 == 0:
            progress(f"{number} of {len(test)}")
    named = [100.0 * (words[int(clip.similarities([box(one.pixels, one.inside)], words)[0].argmax())] == one.word) for one in test]
    overlaps = [100.0 * (one.mask & one.inside).sum() / (one.mask | one.inside).sum() for one in test]
    values = {name: {part: np.array([getattr(one, part) for one in held]) for part in PARTS} for name, held in found.items()}
    return EditResult(
        rows={name: _row(one, LABELS[name]) for name, one in values.items()},
        effects=_effects(values, (seed,)),
        judge=mean_estimate(named),
        iou=mean_estimate(overlaps),
        settings=settings,
        blend=BlendSettings(stride=blend.stride, threshold=blend.threshold, start=blend.start),
        steps=steps,
        tuning_images=len(tuning),
        images=len(test),
        seeds=(seed,),
        dataset=opened.name,
        split=split,
    )


def _row(values: Mapping[str, np.ndarray], label: str) -> EditRow:
    ssim, success, first = (mean_estimate(values[part]) for part in ("ssim", "success", "first"))
    return EditRow(**vars(mean_estimate(values["psnr"], label)), ssim=ssim, success=success, first=first)


def _effects(values: Mapping[str, Mapping[str, np.ndarray]], seeds: Sequence[int]) -> dict[str, Effect]:
    return {
        f"{part}_{mine}_minus_{other}": mean_effect(values[mine][part] - values[other][part], f"{told}: {LABELS[mine]} minus {LABELS[other]}", seeds)
        for part, told in PARTS.items()
        for mine in (ATTENTION, LATENTS, BOTH)
        for other in (PLAIN, BLEND)
    }


def measures_of(rows: Mapping[str, EditRow]) -> dict[str, dict[str, Estimate]]:
    """Each measure of edits with its unit, by row; structural similarity in hundredths."""
    found: dict[str, dict[str, Estimate]] = {"PSNR outside, dB": dict(rows)}
    found["SSIM outside, x 100"] = {name: _times(row.ssim, 100, row.label) for name, row in rows.items()}
    found["success inside, %"] = {name: _times(row.success, 1, row.label) for name, row in rows.items()}
    return found | {"ranked first of all, %": {name: _times(row.first, 1, row.label) for name, row in rows.items()}}


def _times(one: Estimate, factor: float, label: str) -> Estimate:
    interval = (factor * one.ci95[0], factor * one.ci95[1]) if one.ci95 else None
    return Estimate(label=label, value=factor * one.value, ci95=interval, images=one.images)


def edit_table(rows: Mapping[str, EditRow]) -> Any:
    """Each measure of edits by row, as a table (pandas)."""
    import pandas as pd

    return pd.DataFrame({unit: {one.label: f"{one.value:.1f}" for one in measure.values()} for unit, measure in measures_of(rows).items()})


def compare(segmenter: DiffSegmenter, task: Task, settings: PromptToPrompt, steps: int) -> dict[str, np.ndarray]:
    """One task edited by plain Prompt-to-Prompt, within its local blend and within our mask: pictures H W 3, uint8, by title."""
    source = ddim_invert(segmenter, task.pixels, task.source, steps)

    def draw(**limits: Any) -> np.ndarray:
        return edit(segmenter.backbone, source, task.target, settings, **limits).picture

    blended = draw(blend=LocalBlend(task.word, task.new, 0.5, stride=2))
    return {"Prompt-to-Prompt": draw(), "its local blend": blended, "our mask": draw(gate=Gate(task.mask, pixels=False))}


def numbers(result: EditResult) -> dict[str, str]:
    """The numbers that the chapter's prose cites, by name."""
    rows, effects = result.rows, result.effects
    cited = {
        "edit_over_plain": f"psnr_{BOTH}_minus_{PLAIN}",
        "edit_over_blend": f"psnr_{BOTH}_minus_{BLEND}",
        "edit_attention": f"psnr_{ATTENTION}_minus_{PLAIN}",
        "edit_latents": f"psnr_{LATENTS}_minus_{PLAIN}",
        "edit_success_effect": f"success_{BOTH}_minus_{PLAIN}",
        "edit_success_latents": f"success_{LATENTS}_minus_{PLAIN}",
    }
    shares = {"success": rows[BOTH].success, "success_plain": rows[PLAIN].success, "success_blend": rows[BLEND].success}
    shares |= {"first": rows[BOTH].first, "first_plain": rows[PLAIN].first, "judge": result.judge}
    return {
        "edit_images": str(result.images),
        **{f"edit_{name}": f"{rows[name].value:.0f}" for name in (PLAIN, CODED, BOTH)},
        **effect_texts(effects, cited),
        **{f"edit_{name}": f"{one.value:.0f} %" for name, one in shares.items()},
        "edit_iou": f"{result.iou.value:.0f}",
        **effect_verdicts(effects, {"edit_verdict": cited["edit_over_plain"], "edit_verdict_blend": cited["edit_over_blend"]}),
    }
