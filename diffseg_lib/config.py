"""The method's switches, and the settings of the paper and of the released code."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from .support.settings import Count, NotNegativeInteger, Number, Seed, Share, Template, Timesteps, Weights, one_of, settings

CAPTIONS = ("none", "complete", "phrase")
ONE_PASS = ("none", "side", "joint")


@settings
class Config:
    """The method's switches. The defaults are ours; :func:`recipe` gives the paper's and the code's.

    Args:
        template: Template of the prompt, with ``{class}`` in it; None takes the profile's.
        span: Sub-tokens of a class whose maps are averaged: "all", or the "last" only.
        emphasis: Number of "+" that the class's embedding gets; 2 is "++", a weight of 1.21.
        caption: Use of BLIP: "none" leaves the template alone, "complete" lets BLIP continue it (the paper), "phrase" sets before the class the adjectives that
            BLIP's free caption gives it.
        modifiers: Whether the maps of the words that describe the class are fused with its own (Sec. 3.5).
        over_words: Whether a map of joint attention is the share of a word in what a pixel gives to all words of the prompt, and not in what it gives to all
            tokens of text and image.
        scale: Scaling of each map before fusion, "minmax" or "none".
        final_norm: Whether min-max comes "after" or "before" upsampling.
        iterations: Number of rounds of completion, at least 0.
        product: Floor of CLIPer's product over heads (:func:`~diffseg_lib.propagation.product.product_of_heads`), in [0, 1], which completes in place of their
            mean, once; None takes the mean (the paper).
        fused_share: Share of the fused maps beside the completed ones, both min-maxed, in [0, 1]: NERVE's return after one step; 0 is none (the paper).
        timesteps: Timesteps of the noise; None takes the profile's.
        weights: Fusion weights by stride; None takes the profile's.
        threshold: Background threshold, in [0, 1]; None takes the profile's.
        class_batch: Number of classes in one UNet call, at least 1.
        share_self_attention: Whether every class is completed by the first class's self-attention.
        one_pass: How one row of the UNet serves all classes: "side" holds every class's own prompt, its padding thinned, against the queries of a row that a
            sentence with all classes drives (OVAM's way, Marcos-Manchon et al. 2024), however many there are; "joint" reads all classes off such sentences
            themselves, as many as fit in one; "none" takes a row a class (the paper).
        optimized: Whether nothing is computed twice and nothing that is not read (equal to the plain path to rounding).
        seed: Seed of the noise that is added to the latents, from 0 to 2**64 - 1.

    Raises:
        ValueError: On values of another type or out of range, or an unknown name.
    """

    template: Template | None = None
    span: Annotated[str, one_of(("all", "last"))] = "all"
    emphasis: Number = 2.0
    caption: Annotated[str, one_of(CAPTIONS)] = "none"
    modifiers: bool = False
    over_words: bool = False
    scale: Annotated[str, one_of(("minmax", "none"))] = "minmax"
    final_norm: Annotated[str, one_of(("after", "before"))] = "after"
    iterations: NotNegativeInteger = 1
    product: Share | None = None
    fused_share: Share = 0.0
    timesteps: Timesteps | None = None
    weights: Weights | None = None
    threshold: Share | None = None
    class_batch: Count = 32
    share_self_attention: bool = False
    one_pass: Annotated[str, one_of(ONE_PASS)] = "none"
    optimized: bool = True
    seed: Seed = 0


RECIPES: dict[str, Config] = {
    "paper": Config(final_norm="before", caption="complete", modifiers=True),
    "released": Config(template="a photograph of {class}", span="last", caption="complete", modifiers=True),
    "best": Config(product=0.2, fused_share=0.25),  # by the study of the successors, on train images of the pocket world; real families take the same
}
RELEASED_TEMPLATES = dict.fromkeys(("context", "object"), "a photography of {class}")  # the released code's prompt where it is another


def recipe(name: str, dataset: str = "", **changes: Any) -> Config:
    """The switches as the paper or the released code sets them, where the two differ, or as what came after them is best combined.

    Args:
        name: Name of the recipe, "paper", "released" or "best".
        dataset: Data set whose prompt the released code may word in its own way.
        changes: Fields of :class:`Config`.

    >>> recipe("released").span, recipe("paper").final_norm, recipe("released", "object").template
    ('last', 'before', 'a photography of {class}')
    """
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}: expected {', '.join(RECIPES)}")
    wording = {"template": RELEASED_TEMPLATES[dataset]} if name == "released" and dataset in RELEASED_TEMPLATES else {}
    return replace(RECIPES[name], **wording | changes)
