"""The background threshold that an evaluation is reported at, and where it is from."""

from __future__ import annotations

import shlex
from dataclasses import asdict, replace
from typing import Any

from ..config import Config, recipe
from ..refinements.registry import REFINEMENTS
from ..support.provenance import committed_json
from .jobs import Job

DIFFUSION = ("diffsegmenter", "cross", "daam", "elbo", "seg4diff", "conceptattention", *REFINEMENTS)  # methods that read the configuration


def fixed_threshold(given: str, job: Job) -> tuple[float, str]:
    """The background threshold of an evaluation, and where it is from: a number, or what was chosen before for this very setting.

    Args:
        given: Number from 0 to 1, or "" for the one that the committed larger run fixed on the train split, or else (of diffsegmenter under a profile's own
            switches, where there is no such run) the profile's.
        job: Evaluation that it is for.

    Returns:
        The threshold, in [0, 1], and a phrase that says where it is from.

    Raises:
        ValueError: If `given` is no such number, nothing was chosen before, what was chosen was chosen for another setting (what differs is named), or train
            images are measured, on which it was chosen.
    """
    if given:
        try:
            value = float(given)
        except ValueError:
            value = -1.0
        if not 0 <= value <= 1:
            raise ValueError(f"threshold {given!r}: expected a number from 0 to 1, or 'train' to choose it on the train split, or 'oracle'")
        return value, "given"
    advice = "give --threshold train, or a number"
    if job.split.startswith("train"):
        raise ValueError(f"the threshold known before was chosen on train images, and split {job.split!r} is measured: {advice}")
    profile = job.resolved_profile()
    known = committed_json(f"benchmark_{job.dataset}", profile.name)
    if known:
        differs = _differences(setting_of(job), setting_of(_committed_job(job, known)) | {"data set": known["result"]["dataset"], "profile": known["profile"]})
        row = known["result"]["rows"].get(f"{job.method}/{job.labels}")
        if row and not differs:
            return row["threshold"], f"the train split, in the committed run of {known['command']}"
        lacking = [] if row else [f"none was chosen for {job.method} with labels {job.labels}"]
        raise ValueError(f"no threshold is known for this setting ({'; '.join(lacking + differs)}): {advice}")
    if job.method == "diffsegmenter" and not job.recipe and job.one_pass == "none" and not job.void_below:
        return profile.threshold, profile.chosen_on
    raise ValueError(f"no threshold is known for {job.method}{f', recipe {job.recipe}' if job.recipe else ''} under the profile {profile.name}: {advice}")


def setting_of(job: Job) -> dict[str, Any]:
    """What a threshold was chosen for, by name: profile and data set, words and what finds them, the method's model, and the configuration.

    Precision, device, seed and threads are left out: they move scores by less than the step between two thresholds, 1/256, or at random.
    """
    profile, dataset = job.resolved_profile(), job.open()
    found: dict[str, Any] = {"profile": profile.name, "data set": dataset.name, "words to prompt with": dataset.prompts, "model": job.model}
    found |= {"objects void below": job.void_below}
    if job.method in DIFFUSION:
        config = recipe(job.recipe, job.dataset, one_pass=job.one_pass) if job.recipe else Config(one_pass=job.one_pass)
        found |= asdict(replace(config, template=config.template or profile.template, threshold=None, seed=0))
    if job.labels == "filter" or found.get("caption", "none") != "none":
        found["captioner"] = profile.captioner
    if job.labels == "filter" or job.method == "denseclip":
        found["clip"] = profile.clip
    return found


def _committed_job(job: Job, known: dict[str, Any]) -> Job:
    """The evaluation that a committed run amounts to: its profile's switches, with the models that its command names."""
    words = shlex.split(known["command"])
    captioner, clip = (words[words.index(option) + 1] if option in words else "" for option in ("--captioner", "--clip"))
    return replace(job, recipe="", one_pass="none", model="", void_below=0.0, captioner=captioner, clip=clip)


def _differences(asked: dict[str, Any], chosen: dict[str, Any]) -> list[str]:
    """What differs between two settings, a phrase each; a long value is not written out."""

    def text(value: Any) -> str:
        return repr(value) if len(repr(value)) <= 60 else "others"

    return [f"{key} {text(asked.get(key))}, chosen for {text(chosen.get(key))}" for key in asked | chosen if asked.get(key) != chosen.get(key)]
