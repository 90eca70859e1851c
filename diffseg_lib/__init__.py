"""Training-free open-vocabulary segmentation with a frozen diffusion model.

The method of "Diffusion Model is Secretly a Training-free Open Vocabulary Semantic Segmenter" (DiffSegmenter, Wang et al. 2023), small and exact, on
Stable Diffusion or on the pocket models that come with the repository.

Shapes, as every docstring uses them:

==========  ======================================
``b``       prompts in a batch
``k``       classes
``c``       channels of the latents
``h w``     height and width of the latents
``n``       pixels of a map, h*w
``l``       tokens of a prompt
``d``       width of a head
``H W``     height and width of the image
==========  ======================================
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Backbone": "backbone",
    "Config": "config",
    "DiffSegmenter": "segmenter",
    "ImageError": "support.images",
    "Profile": "profiles",
    "Prompt": "prompts",
    "Recording": "recording",
    "Segmentation": "segmenter",
    "complete": "scoremaps",
    "complete_materialised": "scoremaps",
    "fuse": "scoremaps",
    "load_backbone": "loading",
    "load_photo": "support.images",
    "load_profile": "profiles",
    "make_prompt": "prompts",
    "recipe": "config",
    "record_attention": "attention",
    "reweight": "prompts",
}
__all__ = list(_HOME)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
