"""The whole method done again, naively: plain loops, full matrices, one class at a time, none of the library's code.

Only the picture, the classes and the drawn noise are taken over. It agrees with the library to 1e-4.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from diffseg_lib.config import Config
from diffseg_lib.segmenter import DiffSegmenter

WEIGHTS = {8: 0.3, 4: 0.5, 2: 0.1, 1: 0.1}


def stretch(values):
    low, high = min(map(min, values)), max(map(max, values))
    return [[(v - low) / (high - low) if high > low else 0.0 for v in row] for row in values]


def bilinear(values, height, width):
    """Pixel centres aligned; a list of rows."""
    h, w = len(values), len(values[0])
    result = []
    for i in range(height):
        y = min(max((i + 0.5) * h / height - 0.5, 0), h - 1)
        top, bottom = int(y), min(int(y) + 1, h - 1)
        row = []
        for j in range(width):
            x = min(max((j + 0.5) * w / width - 0.5, 0), w - 1)
            left, right = int(x), min(int(x) + 1, w - 1)
            upper = values[top][left] * (1 - x + left) + values[top][right] * (x - left)
            lower = values[bottom][left] * (1 - x + left) + values[bottom][right] * (x - left)
            row.append(upper * (1 - y + top) + lower * (y - top))
        result.append(row)
    return result


def softmax_scores(layer, inputs, context):
    """Probabilities, heads n l, from a layer's own projection matrices."""
    queries, keys = inputs @ layer.to_q.weight.T.double(), context @ layer.to_k.weight.T.double()
    width = queries.shape[1] // layer.heads
    found = []
    for head in range(layer.heads):
        part = slice(head * width, (head + 1) * width)
        scores = queries[:, part] @ keys[:, part].T / math.sqrt(width)
        powers = torch.exp(scores - scores.max(1, keepdim=True).values)
        found.append(powers / powers.sum(1, keepdim=True))
    return torch.stack(found)


def find_tokens(tokenizer, text, name):
    """Positions of a name's sub-tokens: the run of ids that the name alone has."""
    ids, own = tokenizer(text).input_ids, tokenizer(name).input_ids[1:-1]
    for start in range(len(ids)):
        if ids[start : start + len(own)] == own:
            return list(range(start, start + len(own)))
    raise AssertionError(f"{name} is not in {text}")


def embed(backbone, text):
    length = backbone.tokenizer.model_max_length
    ids = backbone.tokenizer(text).input_ids
    padded = ids + [backbone.tokenizer.pad_token_id] * (length - len(ids))
    return backbone.text_encoder(torch.tensor([padded])).last_hidden_state[0]


@torch.no_grad()
def naive_scores(backbone, pixels, classes, noise, timestep, plus, which):
    """Scores, k H W, and the fused maps before completion."""
    height, width = pixels.shape[:2]
    multiple = backbone.multiple
    scale = backbone.size / min(height, width)
    h, w = (max(multiple, round(side * scale / multiple) * multiple) for side in (height, width))
    resized = np.asarray(Image.fromarray(pixels).resize((w, h), Image.Resampling.BICUBIC), dtype=np.float32)
    image = torch.tensor(resized / 127.5 - 1).movedim(2, 0)[None]
    latents = backbone.vae.encode(image).latent_dist.mean * backbone.vae.config.scaling_factor
    kept = float(backbone.alphas_cumprod[timestep])
    noisy = math.sqrt(kept) * latents + math.sqrt(1 - kept) * noise
    rows, columns = latents.shape[2:]
    empty, result = embed(backbone, ""), []
    for name in classes:
        text = f"a photograph of {'an' if name[0] in 'aeiou' else 'a'} {name}"
        span = find_tokens(backbone.tokenizer, text, name)
        tokens = embed(backbone, text).clone()
        read = span if which == "all" else span[-1:]  # what is re-weighted, and what is read
        for position in read:
            tokens[position] = empty[position] + 1.1**plus * (tokens[position] - empty[position])
        caught = []

        def catch(layer, args, kwargs, caught=caught):
            context = kwargs.get("encoder_hidden_states")
            caught.append((layer, args[0][0].double(), None if context is None else context[0].double()))

        layers = [m for n, m in backbone.unet.named_modules() if n.endswith((".attn1", ".attn2"))]
        hooks = [m.register_forward_pre_hook(catch, with_kwargs=True) for m in layers]
        try:
            backbone.unet(noisy, timestep, encoder_hidden_states=tokens[None])
        finally:
            for hook in hooks:
                hook.remove()
        by_resolution, matrices = {}, []
        for layer, inputs, context in caught:
            stride = next(d for d in (1, 2, 4, 8) if math.ceil(rows / d) * math.ceil(columns / d) == len(inputs))
            if context is None:
                if stride == 1:
                    matrices.append(softmax_scores(layer, inputs, inputs).mean(0))
                continue
            probabilities = softmax_scores(layer, inputs, context)
            one = sum(probabilities[:, :, position].mean(0) for position in read) / len(read)
            by_resolution.setdefault(stride, []).append(one.reshape(math.ceil(rows / stride), math.ceil(columns / stride)))
        fused = [[0.0] * columns for _ in range(rows)]
        for stride, maps in by_resolution.items():
            scaled = stretch(bilinear((sum(maps) / len(maps)).tolist(), rows, columns))
            for i in range(rows):
                for j in range(columns):
                    fused[i][j] += WEIGHTS[stride] * scaled[i][j]
        matrix = sum(matrices) / len(matrices)
        flat = [value for row in fused for value in row]
        completed = [sum(a * v for a, v in zip(line, flat, strict=True)) for line in matrix.tolist()]
        grid = [completed[i * columns : (i + 1) * columns] for i in range(rows)]
        result.append(stretch(bilinear(grid, height, width)))
    return np.array(result)


SHAPES = {"landscape": (48, 80), "square": (64, 64), "portrait": (72, 40)}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed, classes, timestep", [(0, ["house"], 100), (1, ["house", "red fish"], 50), (2, ["fish", "cat", "old umbrella"], 300)])
@pytest.mark.parametrize("optimized", [True, False])
def test_the_naive_method_agrees(backbone, shape, seed, classes, timestep, optimized):
    coarse = np.random.default_rng(seed).integers(0, 256, (SHAPES[shape][0] // 8, SHAPES[shape][1] // 8, 3), dtype=np.uint8)
    pixels = coarse.repeat(8, 0).repeat(8, 1)
    which = "last" if seed == 2 else "all"
    config = Config(timesteps=(timestep,), weights=WEIGHTS, seed=seed, optimized=optimized, span=which, threshold=0.5)
    generator = torch.Generator().manual_seed(seed)
    unet = backbone.unet
    before = {name: weight.clone() for name, weight in unet.state_dict().items()}
    try:  # another random model a seed
        with torch.no_grad():
            for weight in unet.parameters():
                weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
        segmenter = DiffSegmenter(replace(backbone), config)
        found = segmenter.segment(pixels, classes, return_intermediates=True)
        expected = naive_scores(backbone, pixels, classes, found.intermediates.noise, timestep, config.emphasis, which)
    finally:
        unet.load_state_dict(before)
    np.testing.assert_allclose(found.scores, expected, atol=1e-4)
    best = expected.max(0)
    decided = (np.abs(best - 0.5) > 1e-3) & ((np.sort(expected, 0)[-1] - (np.sort(expected, 0)[-2] if len(classes) > 1 else 0)) > 1e-3)
    labels = np.where(best > 0.5, expected.argmax(0) + 1, 0)
    assert np.array_equal(found.labels[decided], labels[decided]) and decided.mean() > 0.9
