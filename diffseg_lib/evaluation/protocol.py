"""The protocol of a figure: what was given, what was chosen where, and how IoU became one number, in a line of plain words.

Two mean IoUs can be compared if their lines agree. What a line says under "uses the truth" is known to nobody who segments a picture of their own; the truth
that every figure is scored against is not meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Annotated, Any

from pydantic import Field

from ..support.settings import NotNegativeInteger, Share, one_of, settings
from .metrics import Mean

WORDS: Mapping[str, str] = {
    "true": "the classes in each image",
    "filter": "a filter's choice for each image",
    "all": "all classes of the data set",
    "list": "a list from a file, whoever made it",
    "altered": "the classes in each image, some added or left out",
    "row": "as each row says",
    "none": "none, the network knows its classes",
}
THRESHOLDS: Mapping[str, str] = {
    "given": "given",
    "profile": "the profile's",
    "train": "fixed on train images",
    "swept": "the best on these very images (oracle)",
    "none": "none",
}
SWEPT = "the measured images themselves (oracle)"  # in place of a phrase on where a threshold was fixed


@settings
class Protocol:
    """The protocol of one mean IoU.

    Args:
        dataset: Name of the data set; "" is not known.
        split: Split that was measured; "" is not known.
        images: Number of images measured.
        listed: Number of images that the split has; 0 is not known.
        words: Where the words came from, a key of :data:`WORDS`.
        masked: Whether predictions of classes outside the image's true ones became background.
        threshold: Where the background's threshold came from, a key of :data:`THRESHOLDS`.
        value: The threshold, 0 to 1; None where it is not known, or there is none.
        background: Whether the background is one of the classes of the mean.
        per_image: Whether the mean is over each image's own mean; else all pixels are counted together.
        void_below: Share of the picture, 0 to 1, below which a true object is void; 0 keeps all.
        trained_on: Whether a network was trained on some of the images that it was measured on.

    Raises:
        ValueError: On an unknown name or a number out of range.
    """

    dataset: str = ""
    split: str = ""
    images: NotNegativeInteger = 0
    listed: NotNegativeInteger = 0
    words: Annotated[str, one_of(WORDS)] = "filter"
    masked: bool = False
    threshold: Annotated[str, one_of(THRESHOLDS)] = "train"
    value: Annotated[float, Field(ge=0, le=1)] | None = None
    background: bool = True
    per_image: bool = False
    void_below: Share = 0.0
    trained_on: bool = False

    @property
    def mean(self) -> Mean:
        """How IoU becomes one figure."""
        return Mean(self.background, self.per_image)

    @property
    def uses_truth(self) -> tuple[str, ...]:
        """What a figure takes from the truth of the images that it is measured on, beside being scored against it: phrases."""
        used = {
            "the words": self.words in ("true", "altered"),
            "the words, where a row says so": self.words == "row",
            "predictions outside the true classes dropped": self.masked,
            "the threshold": self.threshold == "swept",
        }
        return tuple(name for name, uses in used.items() if uses)

    @property
    def line(self) -> str:
        """The protocol in one line of plain words.

        >>> Protocol(dataset="voc", split="val", images=100, listed=1449, value=0.5).line
        "voc val, 100 of 1449 images (partial list); words: a filter's choice for each image; threshold .500, fixed on train images; mean IoU over all \
pixels of the split; background counted; uses the truth: nothing"
        """
        counted = f"{self.images} images"
        if self.listed:
            counted = f"all {counted}" if self.images == self.listed else f"{self.images} of {self.listed} images (partial list)"
        value = "" if self.value is None else f"{self.value:.3f}, ".removeprefix("0")
        parts = [
            f"{' '.join(filter(None, (self.dataset, self.split))) or 'data not known'}, {counted}",
            f"words: {WORDS[self.words]}",
            *(["predictions outside the true classes dropped"] if self.masked else []),
            *([f"threshold {value}{THRESHOLDS[self.threshold]}"] if self.threshold != "none" else []),
            f"mean IoU {'of each image, averaged' if self.per_image else 'over all pixels of the split'}",
            f"background {'counted' if self.background else 'left out'}",
            *([f"objects below {100 * self.void_below:g} % of the picture void"] if self.void_below else []),
            *(["uses images it was trained on"] if self.trained_on else []),
            f"uses the truth: {', '.join(self.uses_truth) or 'nothing'}",
        ]
        return "; ".join(parts)

    def facts(self) -> dict[str, Any]:
        """The fields, :attr:`uses_truth` and :attr:`line`, as a result file keeps them."""
        return asdict(self) | {"uses_truth": list(self.uses_truth), "line": self.line}


USUAL = Protocol()  # a filter's words, a threshold from train, VOC's mean


def protocol(run: Any, figure: str = "") -> Protocol:
    """The protocol of a run's figure.

    Args:
        run: Summary of an evaluation, as ``summary.json`` holds it, an older one too; or the result or the kept run of an experiment.
        figure: Of an evaluation "miou" or "miou_oracle"; of an experiment the key of a row. "" is the headline figure, or what all rows share.

    Raises:
        ValueError: On something else, or a figure that the run does not have.

    >>> old = {"dataset": "voc", "split": "val", "labels": "image", "images": 8, "expected_images": 8, "threshold": 0.5, "threshold_chosen_on": "given"}
    >>> protocol(old).uses_truth, protocol(old, "miou_oracle").uses_truth
    (('the words',), ('the words', 'the threshold'))
    """
    if not isinstance(run, Mapping):
        if not hasattr(run, "protocol"):
            raise ValueError(f"{type(run).__name__} has no protocol: expected the summary of an evaluation, or an experiment's result")
        found: Protocol = run.protocol(figure)
        return found
    lacking = [key for key in ("labels", "threshold", "images") if key not in run]
    if lacking or figure not in ("", "miou", "miou_oracle"):
        raise ValueError(f"no protocol of {figure or 'miou'!r}: expected miou or miou_oracle of a summary with labels, threshold and images")
    swept = figure == "miou_oracle"
    if "protocol" in run:
        return Protocol(**{one.name: run["protocol"][figure or "miou"][one.name] for one in fields(Protocol)})
    return Protocol(  # of a summary from before protocols were written, when there was one way to read the counts
        dataset=str(run.get("dataset", "")),
        split=str(run.get("split", "")),
        images=run["images"],
        listed=run.get("split_images", 0) or 0,
        words=words_of(str(run["labels"])),
        threshold="swept" if swept else threshold_source(str(run.get("threshold_chosen_on", ""))),
        value=run.get("threshold_oracle") if swept else run["threshold"],
    )


def words_of(labels: str) -> str:
    """The kind of the words that a choice of labels gives, a key of :data:`WORDS`.

    >>> [words_of(one) for one in ("image", "filter", "all", "frozen.json")]
    ['true', 'filter', 'all', 'list']
    """
    return {"image": "true", "filter": "filter", "all": "all"}.get(labels, "list")


def threshold_source(chosen_on: str) -> str:
    """The kind of a threshold, a key of :data:`THRESHOLDS`, by the phrase that says where it is from.

    >>> [threshold_source(one) for one in ("given", "60 train images", SWEPT, "the paper's values")]
    ['given', 'train', 'swept', 'profile']
    """
    if chosen_on == SWEPT:
        return "swept"
    return "given" if chosen_on == "given" else "train" if "train" in chosen_on else "profile"
