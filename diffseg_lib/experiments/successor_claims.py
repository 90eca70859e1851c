"""Claims of what came after the paper, each judged by the study of the successors as those of the paper are by theirs.

The figures of the literature are quoted as their authors or others print them, each under a protocol of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from .claims import CLAIMS, SUCCESSORS, Claim

CHAPTER, STUDY = "18_after_the_paper", "successors"
_S = "VOC, Context: "


def _claim(claim: str, where: str, names: Sequence[str], quoted: str = "", opposite: bool = False, metric: str = "mIoU, points", untestable: str = "") -> Claim:
    """A claim about effects of these names on both data sets."""
    effects = tuple(f"{data}/{name}" for data in ("voc", "context") for name in names)
    return Claim(claim, where, CHAPTER, STUDY, effects, quoted, metric, opposite, untestable, SUCCESSORS)


def _transformer(claim: str, where: str, effect: str, opposite: bool = False) -> Claim:
    """A claim about joint attention, judged on the pocket transformer."""
    return Claim(claim, where, "19_transformers", "transformers", (effect,), opposite=opposite, table=SUCCESSORS, profile="pocket-transformer")


def _protocol(claim: str, where: str, effect: str) -> Claim:
    """A claim about what a choice of the protocol is worth."""
    return Claim(claim, where, "20_protocols", "protocols", (f"{effect}_minus_base",), table=SUCCESSORS)


SUCCESSOR_CLAIMS: tuple[Claim, ...] = (
    _claim("Less entropy and eight rounds beat one plain application of self-attention", "iSeg", ["iseg_minus_ours"], f"{_S}68.6, 30.9 against 60.1, 27.5"),
    _claim("The product over heads beats their mean", "CLIPer", ["cliper_minus_ours"], f"{_S}72.2, 39.5; without diffusion 64.0, 35.7"),
    _claim("Squares of self-attention at several resolutions beat the finest once", "FA-Seg", ["faseg_minus_ours"], "mean of the benchmarks 43.8"),
    _claim("Two bounces along heads weighted by their second eigenvalue beat one plain step", "attention chains", ["chains_minus_ours"]),
    _claim("A random walk to its limit beats one plain step", "NERVE", ["nerve_minus_ours"], f"{_S}69.7, 37.7"),
    _claim("Any propagation of these beats none", "iSeg to NERVE", [f"{name}_minus_fused" for name in ("iseg", "cliper", "faseg", "chains", "nerve")]),
    _claim("Weights of heads and layers without learning beat the paper's", "GoCA", ["goca_minus_ours"], f"{_S}60.7, 40.4 on train images, disputed"),
    _claim("Heads that were chosen on masks beat all heads", "iSeg's choice by hand", ["heads_minus_ours"]),
    _claim("Maps calibrated by the denoising loss beat plain ones", "ELBO-T2IAlign", ["elbo-t2i_minus_ours"]),
    _claim("Seeds, positive and negative, beat whole maps", "Text-to-Seed", ["text-to-seed_minus_ours"], f"{_S}74.2, 41.7, with SAM and CLIP"),
    _claim(
        "Cuts of features find better regions than merged self-attention",
        "DiffCut",
        ["diffcut_minus_diffseg"],
        f"{_S}62.0, 54.1 against 49.8, 48.8, unsupervised",
    ),
    _claim("Regions without words, named afterwards, fall behind maps of words", "this book", ["diffcut_minus_ours", "diffseg_minus_ours"], opposite=True),
    _claim("Parts of two refinements add up: together they beat the best one alone", "this book", ["pair_minus_single"]),
    _claim("What is best on train is better at edges, too", "this book", ["edges_single_minus_ours"], metric="mIoU within 3 px of edges, points"),
    _protocol("True labels given raise the figure over a filter's words", "Seg4Diff's and ELBO-T2IAlign's protocol", "true_words"),
    _protocol("Predictions outside the true classes dropped raise the figure", "GoCA's protocol", "masked"),
    _protocol("A threshold swept on the measured images raises the figure", "DiffSegmenter's and GoCA's protocol", "swept"),
    _protocol("Leaving the background out of the mean raises the figure", "protocols without a background", "no_background"),
    _protocol("A mean of each image, averaged, lies above the data set's", "this book", "per_image"),
    _claim(
        "Joint attention of text and picture beats a UNet's",
        "GoCA, Seg4Diff",
        [],
        f"{_S}Flux 70.7, 51.1 against 60.7, 40.4, disputed",
        untestable="the pocket transformer was trained far less than the pocket UNet, so that the two differ by more than their attention",
    ),
    _transformer("A transformer's image-to-image attention completes its maps", "this book", "completion"),
    _transformer("One well-chosen block says more than several fused", "Seg4Diff, for block 9 of Stable Diffusion 3", "fusion_minus_block", opposite=True),
    _transformer("What attention gives says where a concept is better than its maps do", "ConceptAttention", "concepts_minus_fused"),
    _claim("SAM's masks lift the seeds", "Text-to-Seed", [], f"{_S}74.2, 41.7", untestable="no model that segments any object belongs to the pocket world"),
    _claim("Optimised tokens lift side prompts", "OVAM", [], untestable="no token is optimised in this book: it would learn from masks"),
    _claim("The mirrored picture's maps, added, help", "FA-Seg", [], untestable="the second pass over the mirrored picture is left out here"),
)
ALL_CLAIMS: tuple[Claim, ...] = (*CLAIMS, *SUCCESSOR_CLAIMS)
