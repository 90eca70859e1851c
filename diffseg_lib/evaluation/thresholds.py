"""The background threshold that an evaluation is reported at, and where it is from."""

from __future__ import annotations

from ..profiles import Profile
from ..support.provenance import committed_json


def fixed_threshold(given: str, profile: Profile, dataset: str, labels: str, method: str) -> tuple[float, str]:
    """The background threshold of an evaluation, and where it is from: a number, or what was chosen before.

    Args:
        given: Number from 0 to 1, or "" for the one that the committed larger run fixed on the train split for this data set, method and labels, or else (for
            diffsegmenter) the profile's.
        profile: Profile of the evaluation.
        dataset: Data set of the evaluation: "voc", "context" or "object".
        labels: Labels of the evaluation: "image", "filter", "all" or a file.
        method: Name of the method that is evaluated.

    Returns:
        The threshold, in [0, 1], and a phrase that says where it is from.

    Raises:
        ValueError: If `given` is no such number, or nothing was chosen before.
    """
    if given:
        try:
            value = float(given)
        except ValueError:
            value = -1.0
        if not 0 <= value <= 1:
            raise ValueError(f"threshold {given!r}: expected a number from 0 to 1, or 'train' to choose it on the train split")
        return value, "given"
    known = committed_json(f"benchmark_{dataset}", profile.name)
    row = known["result"]["rows"].get(f"{method}/{labels}") if known else None
    if known and row:
        return row["threshold"], f"the train split, in the committed run of {known['command']}"
    if method == "diffsegmenter":
        return profile.threshold, profile.chosen_on
    raise ValueError(f"no threshold is known for {method} with labels {labels} on {dataset}: give --threshold train, or a number")
