"""DenseCRF (Krähenbühl and Koltun 2011): a fully connected random field that moves labels to the edges of colour.

Mean-field inference is pydensecrf's. It knows the picture's colours and positions and nothing of words: what it mends and what it
breaks is a matter of contrast.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from ..support.settings import NotNegative, NotNegativeInteger, Positive, settings

LEAST = 1e-6  # probability of a label that the scores rule out


@settings
class Crf:
    """Settings of the field.

    Args:
        iterations: The number of iterations of mean-field inference.
        smooth_xy: Width of the Gaussian kernel on positions, which removes specks, px.
        smooth_weight: Weight of that kernel; 0 leaves it out.
        colour_xy: Width of the bilateral kernel, which follows edges, in positions, px.
        colour_rgb: Width of the bilateral kernel in colours, of 0 to 255.
        colour_weight: Weight of the bilateral kernel; 0 leaves it out.
        source: Where the numbers come from, for people.

    Raises:
        ValueError: On a width of 0 or less, a negative weight or number of iterations, values of another type, or an unknown name.
    """

    iterations: NotNegativeInteger = 10
    smooth_xy: Positive = 3.0
    smooth_weight: NotNegative = 3.0
    colour_xy: Positive = 50.0
    colour_rgb: Positive = 5.0
    colour_weight: NotNegative = 10.0
    source: str = ""


PRESETS: Mapping[str, Crf] = {
    "clip-es": Crf(10, 1, 3, 67, 3, 4, "CLIP-ES (Lin et al. 2023)"),
    "irn": Crf(10, 3, 3, 50, 5, 10, "IRN (Ahn et al. 2019)"),
    "psa": Crf(10, 3, 3, 80, 13, 10, "PSA (Ahn and Kwak 2018)"),
}


def preset(name: str) -> Crf:
    """Settings by name.

    Raises:
        ValueError: On a name that is none of :data:`PRESETS`.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown CRF {name!r}: expected {', '.join(PRESETS)}")
    return PRESETS[name]


def probabilities(scores: Float[np.ndarray, "k H W"], threshold: float) -> Float[np.ndarray, "c H W"]:
    """Scores as probabilities of background and classes, c = k + 1: the threshold is the background's score, and each pixel's scores are divided by their sum.

    The most probable label is the one that the threshold gives, so that a field without kernels changes nothing.

    >>> probabilities(np.array([[[0.75]], [[0.0]]], np.float32), 0.25)[:, 0, 0].tolist()
    [0.25, 0.75, 0.0]
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold {threshold}: expected a number above 0 and up to 1, so that every pixel has a probability")
    background = np.full((1, *scores.shape[1:]), threshold, np.float32)
    joint = np.concatenate([background, scores.astype(np.float32)])
    return joint / joint.sum(0)


def refine(image: UInt8[np.ndarray, "H W 3"], given: Float[np.ndarray, "c H W"], crf: Crf) -> Float[np.ndarray, "c H W"]:
    """The field's posterior, the mean-field approximation of exp(-E), E the sum of -log of what is `given` and of both kernels over all pairs of pixels.

    Args:
        image: The picture whose colours the field follows, H W 3, uint8.
        given: Probabilities of the labels, c H W, which sum to one at every pixel.
        crf: Settings of the field.

    Raises:
        ValueError: If sizes differ, or these are no probabilities.
        ModuleNotFoundError: If pydensecrf is not installed.
    """
    from pydensecrf.densecrf import DenseCRF2D

    labels, height, width = given.shape
    if image.shape != (height, width, 3):
        raise ValueError(f"a picture of shape {image.shape} for probabilities of {height} x {width} px: expected one size")
    if not (np.isfinite(given).all() and given.min() >= 0 and np.allclose(given.sum(0), 1, atol=1e-3)):
        raise ValueError("expected probabilities: numbers of 0 or more that sum to one at every pixel")
    if labels == 1:
        return given.copy()
    field = DenseCRF2D(width, height, labels)
    field.setUnaryEnergy(np.ascontiguousarray(-np.log(given.clip(LEAST, 1)).reshape(labels, -1), np.float32))
    if crf.smooth_weight:
        field.addPairwiseGaussian(sxy=crf.smooth_xy, compat=crf.smooth_weight)
    if crf.colour_weight:
        field.addPairwiseBilateral(sxy=crf.colour_xy, srgb=crf.colour_rgb, rgbim=np.array(image, order="C"), compat=crf.colour_weight)
    return np.asarray(field.inference(crf.iterations), np.float32).reshape(labels, height, width)


def sharpen(image: UInt8[np.ndarray, "H W 3"], scores: Float[np.ndarray, "k H W"], threshold: float, crf: Crf, longest: int = 1024) -> UInt8[np.ndarray, "H W"]:
    """Labels of a photo by its scores and the field: 0 is the background, i the i-th class.

    The widths of the presets are pixels of photos of about 500 px, and a field over millions of pixels takes minutes. A larger photo is therefore shrunk for
    the field, and the posterior, not the labels, is enlarged again.

    Args:
        image: The photo, H W 3, uint8.
        scores: Scores of the classes, k H W in [0, 1].
        threshold: Score of the background, above 0 and up to 1.
        crf: Settings of the field.
        longest: The longest side at which the field is computed, px.
    """
    height, width = image.shape[:2]
    if (longer := max(height, width)) <= longest:
        return refine(image, probabilities(scores, threshold), crf).argmax(0).astype(np.uint8)
    size = (max(1, round(width * longest / longer)), max(1, round(height * longest / longer)))
    small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
    shrunk = np.stack([np.asarray(Image.fromarray(one.astype(np.float32)).resize(size, Image.Resampling.BOX)) for one in scores])
    best, labels = np.full((height, width), -1, np.float32), np.zeros((height, width), np.uint8)
    for label, posterior in enumerate(refine(small, probabilities(shrunk, threshold), crf)):  # one at a time: a large photo's would not fit
        large = np.asarray(Image.fromarray(posterior).resize((width, height), Image.Resampling.BILINEAR))
        labels[large > best] = label
        np.maximum(best, large, out=best)
    return labels
