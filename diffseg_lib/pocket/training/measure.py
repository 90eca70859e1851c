"""What the pocket models can do, on test scenes: ``diffseg pocket measure NAME``.

Each measurement appends to ``measurements.json`` beside the models; ``cards`` writes the model cards
from that file, so that no figure in them is typed by hand. Measured on the test split, whose scenes no
model was trained on; what is chosen (timestep, weights, threshold) is chosen on the train split.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...evaluation.fusion_search import choose_weights, collect, gain, score, score_histograms, separation, short_name
from ...evaluation.metrics import best_threshold, iou, mean_interval
from ...prompts import fill_template
from ...segmenter import DiffSegmenter
from ...support.files import write_json
from ...support.images import to_numpy
from ...vision_language import Clip
from ..scenes import VOC_NAMES, voc_samples
from ..world import CLASS_NAMES, WORLD_SEED, compose, describe, paint
from .judge import Truth, load_judge, see, truth_of
from .pictures import classes_named


def _test_pictures(n: int, batch: int = 25) -> Iterator[tuple[list[int], np.ndarray]]:
    for start in range(0, n, batch):
        rows = list(range(start, min(n, start + batch)))
        yield rows, np.stack([paint(compose("test", i)) for i in rows])


def _to_range(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def measure_vae(models: Path, n: int) -> dict[str, Any]:
    """Peak signal-to-noise ratio of the reconstruction, dB, mean over `n` test pictures."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(models / "diffusion" / "vae", torch_dtype=torch.float32)
    ratios: list[float] = []
    for _, images in _test_pictures(n):
        decoded = vae.decode(vae.encode(_to_range(images)).latent_dist.mean).sample
        drawn = ((decoded.clamp(-1, 1) + 1) * 127.5).round()
        error = (drawn - torch.from_numpy(images).permute(0, 3, 1, 2)).square().mean((1, 2, 3))
        ratios += (10 * torch.log10(255**2 / error)).tolist()
    values = np.array(ratios)
    return {"psnr_db": values.mean().item(), "ci95": mean_interval(values), "images": n}


def load_clip(models: Path) -> tuple[Any, Any]:
    """The pocket CLIP and its processor."""
    from transformers import CLIPModel, CLIPProcessor

    return CLIPModel.from_pretrained(models / "clip", dtype=torch.float32).eval(), CLIPProcessor.from_pretrained(models / "clip")


@torch.no_grad()
def clip_scores(clip: Any, processor: Any, images: np.ndarray) -> np.ndarray:
    """Image-text scores of pictures (n H W 3, uint8) with "a photograph of a {class}": n x classes."""
    prompts = [fill_template(name) for name in CLASS_NAMES]
    batch = processor(images=list(images), text=prompts, padding="max_length", return_tensors="pt")
    return to_numpy(clip(**batch).logits_per_image)


def asked_ranks(scores: np.ndarray, wishes: Sequence[str]) -> list[int]:
    """The rank, 1 the best, that each picture's asked class has among the scores of all classes.

    Args:
        scores: Scores of n pictures by class, n x classes, as of :func:`clip_scores`.
        wishes: What each picture was to show; each names one class.
    """
    asked = [CLASS_NAMES.index(name) for wish in wishes for name in classes_named(wish)]
    return (1 + (scores > scores[np.arange(len(wishes)), asked][:, None]).sum(1)).tolist()


def measure_clip(models: Path, n: int) -> dict[str, Any]:
    """Mean average precision of the ranking of all classes, the classes present being the relevant ones."""
    from sklearn.metrics import average_precision_score

    clip, processor = load_clip(models)
    precisions = []
    for rows, images in _test_pictures(n):
        for i, scores in zip(rows, clip_scores(clip, processor, images), strict=True):
            present = set(compose("test", i).classes)
            precisions.append(average_precision_score([name in present for name in CLASS_NAMES], scores))
    return {"mean_average_precision": float(np.mean(precisions)), "ci95": mean_interval(np.array(precisions)), "images": n}


@torch.no_grad()
def captions(models: Path, images: np.ndarray) -> list[str]:
    """The pocket BLIP's greedy captions of pictures (n H W 3, uint8)."""
    from transformers import BlipForConditionalGeneration, BlipProcessor

    blip = BlipForConditionalGeneration.from_pretrained(models / "blip", dtype=torch.float32).eval()
    processor = BlipProcessor.from_pretrained(models / "blip")
    pixels = processor(images=list(images), return_tensors="pt").pixel_values
    return processor.batch_decode(blip.generate(pixels, max_new_tokens=36), skip_special_tokens=True)


def measure_blip(models: Path, n: int) -> dict[str, Any]:
    """Precision and recall, over all pictures together, of the classes that greedy captions name."""
    right = said = there = 0
    examples = []
    for rows, images in _test_pictures(n):
        written = captions(models, images)
        for i, caption in zip(rows, written, strict=True):
            named, present = classes_named(caption), set(compose("test", i).classes)
            right, said, there = right + len(named & present), said + len(named), there + len(present)
        examples += written[:1]
    return {"precision": right / max(said, 1), "recall": right / there, "images": n, "examples": examples[:5]}


STEPS, GUIDANCE = 25, 4.0  # with which scenes are drawn


@torch.no_grad()
def draw(models: Path, model: str, prompts: Sequence[str], seed: int = 0) -> list[np.ndarray]:
    """What a shipped model draws of prompts, in :data:`STEPS` steps at guidance :data:`GUIDANCE`: pictures, H W 3, uint8.

    Args:
        models: The folder of the models.
        model: The one that draws, "diffusion" or "transformer".
        prompts: What is to be drawn.
        seed: Seed of the noise, together with a prompt's place.
    """
    from diffusers import StableDiffusion3Pipeline, StableDiffusionPipeline

    joint = model == "transformer"
    kind, left_out = (StableDiffusion3Pipeline, ("text_encoder_3", "tokenizer_3")) if joint else (StableDiffusionPipeline, ("safety_checker",))
    pipeline = kind.from_pretrained(models / model, torch_dtype=torch.float32, **dict.fromkeys(left_out))
    more = {"max_sequence_length": 0} if joint else {}
    pipeline.set_progress_bar_config(disable=True)
    images: list[np.ndarray] = []
    for start in range(0, len(prompts), 20):
        part = list(prompts[start : start + 20])
        seeds = [torch.Generator().manual_seed(seed * 100_003 + start + i) for i in range(len(part))]
        made = pipeline(part, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=seeds, output_type="np", **more).images
        images += list((made * 255).round().astype(np.uint8))
    return images


def measure_diffusion(models: Path, n: int, model: str = "diffusion", seed: int = 0) -> dict[str, Any]:
    """Share of generated scenes whose asked class the pocket CLIP ranks first among all classes."""
    from PIL import Image

    asked = [i % len(CLASS_NAMES) for i in range(n)]
    images = draw(models, model, [fill_template(CLASS_NAMES[i]) for i in asked], seed)
    ranked = clip_scores(*load_clip(models), np.stack(images)).argmax(1)
    hits = ranked == np.array(asked)
    grid = [np.concatenate(images[row * 6 : row * 6 + 6], axis=1) for row in range(min(6, n // 6))]
    if grid:
        Image.fromarray(np.concatenate(grid)).save(models / model / "samples.png")
    figures = {"asked_class_first": float(hits.mean()), "ci95": mean_interval(hits.astype(float))}
    return figures | {"samples": n, "steps": STEPS, "guidance": GUIDANCE, "seed": seed}


def _agreement(seen: Truth, asked: Truth) -> dict[str, Any]:
    """Shares in which what was seen is what was asked for: of the classes, of the classes seen that have the colours asked for, of the counts."""
    found, colours_right = seen.present & asked.present, (seen.colours == asked.colours).all(-1)
    counted, all_there = seen.count == asked.count, (found == asked.present).all(1)
    return {
        "recall": float(found.sum() / asked.present.sum()),
        "precision": float(found.sum() / max(1, seen.present.sum())),
        "colours_right": float(colours_right[found].mean()) if found.any() else 0.0,
        "count_right": float(counted.mean()),
        "count_right_ci95": mean_interval(counted.astype(float)),
        "all_classes_there": float(all_there.mean()),
        "all_classes_there_ci95": mean_interval(all_there.astype(float)),
    }


def measure_judge(models: Path, n: int) -> dict[str, Any]:
    """How often the judge is right about `n` test pictures: which classes there are, in which colours, how many things."""
    judge = load_judge(models)
    seen = Truth.stack([see(judge, images) for _, images in _test_pictures(n)])
    return _agreement(seen, Truth.stack([truth_of(compose("test", i)) for i in range(n)])) | {"images": n}


def measure_drawings(models: Path, n: int, model: str = "diffusion", seed: int = 0) -> dict[str, Any]:
    """What the judge sees in drawings of the plain captions of `n` test scenes, against what the captions ask for."""
    scenes = [compose("test", i) for i in range(n)]
    images = draw(models, model, [describe(scene) for scene in scenes], seed)
    judge = load_judge(models)
    seen = Truth.stack([see(judge, np.stack(images[start : start + 20])) for start in range(0, n, 20)])
    figures = _agreement(seen, Truth.stack([truth_of(scene) for scene in scenes]))
    return figures | {"samples": n, "steps": STEPS, "guidance": GUIDANCE, "seed": seed}


# To choose from. Of a transformer t stands for the noise level t / 1000, of a UNet t = 300 has noise and signal as s = .45 has, t = 400 as s = .54.
TIMESTEPS = {"diffusion": (50, 100, 150, 200, 300, 400), "transformer": (100, 200, 300, 400, 500, 600, 700)}


def choose(models: Path, n: int, model: str = "diffusion") -> dict[str, Any]:
    """Choose timestep, fusion weights and threshold on `n` train scenes; write them to the profile."""
    segmenter = DiffSegmenter.from_profile(models / model)
    samples, classes = list(voc_samples("train", n)), len(VOC_NAMES)
    tried: dict[int, dict[str, Any]] = {}
    for timestep in TIMESTEPS[model]:
        found = collect(segmenter, samples, VOC_NAMES, timestep)
        weights, threshold, value = choose_weights(found, classes)
        fused_threshold, fused = best_threshold(score_histograms(found, weights, classes, rounds=0), classes)
        tried[timestep] = {"weights": weights, "threshold": threshold, "miou": value, "fused_threshold": fused_threshold, "fused_miou": fused}
    best = max(tried, key=lambda t: tried[t]["miou"])
    path = models / model / "profile.json"
    profile = json.loads(path.read_text()) | {
        "timesteps": [best],
        "weights": {str(d): w for d, w in tried[best]["weights"].items()},
        "threshold": tried[best]["threshold"],
        "chosen_on": f"mean IoU of completed maps on {n} scenes of Pocket-VOC's train split, seed {WORLD_SEED}",
    }
    write_json(path, profile)
    return {"images": n, "chosen": best, "train": {str(t): one for t, one in tried.items()}}


def measure_grounding(models: Path, n: int, model: str = "diffusion") -> dict[str, Any]:
    """Mean IoU on `n` test scenes of Pocket-VOC, true classes given, before and after completion.

    Timestep, weights and both thresholds are those that :func:`choose` found on the train split.
    """
    segmenter = DiffSegmenter.from_profile(models / model)
    known = json.loads((models / "measurements.json").read_text())[name_of("choose", model)]
    classes, weights = len(VOC_NAMES), segmenter.weights
    found = collect(segmenter, voc_samples("test", n), VOC_NAMES, segmenter.timesteps[0])
    completed = score(score_histograms(found, weights, classes), segmenter.threshold, classes)
    fused = score(score_histograms(found, weights, classes, rounds=0), known["train"][str(segmenter.timesteps[0])]["fused_threshold"], classes)
    added, added_ci95 = gain(completed, fused)
    per_class = iou(completed.confusions.sum(0))
    return {
        "miou": completed.miou,
        "ci95": completed.ci95,
        "miou_oracle": completed.oracle,
        "fused_miou": fused.miou,
        "fused_ci95": fused.ci95,
        "fused_oracle": fused.oracle,
        "gain": added,
        "gain_ci95": added_ci95,
        "iou": {name: round(100 * float(value), 2) for name, value in zip(VOC_NAMES, per_class, strict=True)},
        "threshold": segmenter.threshold,
        "timesteps": segmenter.timesteps,
        "weights": {str(d): w for d, w in weights.items()},
        "images": n,
    }


MOST_DOUBTED = 0.05  # share of the words present that a note may doubt


def choose_absent(models: Path, n: int) -> dict[str, Any]:
    """Choose the share of the best word's CLIP score below which a word is noted as absent, on `n` train scenes of all words asked; write it to the profiles.

    It is the largest, in steps of .05, that notes at most 5 % of the words present.
    """
    clip, doubted = Clip.load(str(models / "clip")), {True: list[float](), False: list[float]()}
    for scene in (compose("train", i) for i in range(n)):
        [scores] = clip.similarities([paint(scene)], CLASS_NAMES)
        for name, one in zip(CLASS_NAMES, scores, strict=True):
            doubted[name in scene.classes].append(float(one) / float(scores.max()) if scores.max() > 0 else 1.0)
    present, absent = np.array(doubted[True]), np.array(doubted[False])
    threshold = max((round(0.05 * i, 2) for i in range(20) if np.mean(present < 0.05 * i) <= MOST_DOUBTED), default=0.0)
    for path in models.glob("*/profile.json"):
        write_json(path, json.loads(path.read_text()) | {"absent_clip_threshold": threshold})
    figures = {name: {"share": float(np.mean(values < threshold)), "words": len(values)} for name, values in (("present", present), ("absent", absent))}
    return {"images": n, "chosen": threshold, "noted": figures}


AUC_TIMESTEP = {"diffusion": 100, "transformer": 300}  # one for all versions of a model, so that their figures can be compared


def measure_separation(models: Path, n: int, model: str = "diffusion") -> dict[str, Any]:
    """How well the maps tell the pixels of a class from the rest, by stride (or block) and by layer, on `n` val scenes, true classes given.

    Each figure is a mean over (scene, class) of the area under the ROC curve, in percent: 50 is chance, and below it a map
    points away from the object. The map of a stride is the mean over its layers, as it is fused.
    """
    segmenter, timestep = DiffSegmenter.from_profile(models / model), AUC_TIMESTEP[model]
    found = separation(segmenter, voc_samples("val", n), VOC_NAMES, timestep)

    def percent(values: list[float]) -> dict[str, Any]:
        return {"auc": 100 * float(np.mean(values)), "ci95": [100 * end for end in mean_interval(values) or ()] or None}

    return {
        "strides": {str(d): percent(values) for d, values in found.strides.items()},
        "layers": {short_name(layer): percent(values) for layer, values in found.layers.items()},
        "timestep": timestep,
        "images": n,
    }


def name_of(measure: str, model: str) -> str:
    """What a measurement of a model that draws is called: those of the transformer carry its name.

    >>> name_of("choose", "diffusion"), name_of("choose", "transformer")
    ('choose', 'transformer-choose')
    """
    return measure if model == "diffusion" else f"{model}-{measure}"


_OF_BOTH = {"diffusion": measure_diffusion, "choose": choose, "grounding": measure_grounding, "separation": measure_separation, "drawings": measure_drawings}
MEASURES: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    "vae": measure_vae,
    "clip": measure_clip,
    "blip": measure_blip,
    "absent": choose_absent,
    "judge": measure_judge,
    **_OF_BOTH,
    **{name_of(name, "transformer"): partial(measure, model="transformer") for name, measure in _OF_BOTH.items()},
}


TARGETS: tuple[tuple[str, str, str, float], ...] = (
    ("vae", "psnr_db", "autoencoder: PSNR, dB", 30),
    ("clip", "mean_average_precision", "CLIP: mean average precision of the classes present", 0.90),
    ("blip", "precision", "BLIP: precision of the classes named", 0.85),
    ("blip", "recall", "BLIP: recall of the classes named", 0.85),
    ("diffusion", "asked_class_first", "UNet: asked class ranked first in a generated scene", 0.80),
    ("grounding", "miou", "grounding: mean IoU of completed maps, %", 60),
    ("grounding", "gain", "grounding: points that completion adds", 3),
    ("transformer-diffusion", "asked_class_first", "transformer: asked class ranked first in a generated scene", 0.80),
    ("transformer-grounding", "miou", "transformer, grounding: mean IoU of completed maps, %", 60),
    ("transformer-grounding", "gain", "transformer, grounding: points that completion adds", 3),
)


def against_targets(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of figure, target and verdict, from the content of ``measurements.json``."""
    rows = []
    for name, key, text, target in TARGETS:
        known = measured.get(name, {})
        value = known.get(key)
        verdict = "not measured" if value is None else "met" if value >= target else "missed"
        shown = "" if value is None else f"{value:.2f}"
        rows.append(
            {
                "measure": name,
                "key": key,
                "what": text,
                "figure": shown,
                "target": f"{target:g}",
                "verdict": verdict,
                "images": known.get("images", known.get("samples", "")),
            }
        )
    return rows


def targets_table(models: Path) -> Any:
    """Figures of the shipped models with intervals, targets and verdicts, as a table (pandas)."""
    import pandas as pd

    measured = json.loads((models / "measurements.json").read_text())
    rows = against_targets(measured)
    bounds = [measured.get(row["measure"], {}).get("gain_ci95" if row["key"] == "gain" else "ci95") for row in rows]
    table = pd.DataFrame(rows)
    table.insert(4, "95 % interval", [f"{low:.2f} to {high:.2f}" if bound else "" for bound in bounds for low, high in [bound or (0, 0)]])
    return table.drop(columns=["measure", "key"]).set_index("what").rename_axis(index=None, columns="what")


def targets_text(table: Any) -> str:
    """How many of a table's targets are met, and which are missed or not measured, in one phrase."""
    named = {verdict: "; ".join(rows.index.str.strip()) for verdict, rows in table.groupby("verdict")}
    met = int((table.verdict == "met").sum())
    return ", ".join([f"{met} of {len(table)} are met", *(f"{verdict}: {named[verdict]}" for verdict in ("missed", "not measured") if verdict in named)])


def sizes(folders: dict[str, Path]) -> dict[str, dict[str, str]]:
    """Parameters and size on disk of models, read from their safetensors files."""
    from safetensors import safe_open

    table = {}
    for name, folder in folders.items():
        count = size = 0
        for path in sorted(folder.glob("*.safetensors")):
            size += path.stat().st_size
            with safe_open(path, "pt") as file:
                count += sum(int(np.prod(file.get_slice(key).get_shape())) for key in file.keys())  # noqa: SIM118
        table[name] = {"parameters": f"{count / 1e6:.2f} million", "file": f"{size / 1e6:.1f} MB"}
    return table


def record(models: Path, name: str, figures: dict[str, Any], command: str, seconds: float) -> None:
    """Put one measurement into ``measurements.json``."""
    path = models / "measurements.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    known[name] = figures | {"command": command, "seconds": round(seconds)}
    write_json(path, dict(sorted(known.items())))
