"""Diffusion transformers: how Stable Diffusion 3, Flux, PixArt and Qwen-Image are called, and how what their attention computes with is read.

Nothing here knows the method: models and tensors in, tensors out. :class:`diffseg_lib.transformer.TransformerBackbone` makes a backbone of it.
"""
