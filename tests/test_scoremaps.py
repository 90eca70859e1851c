"""Fusion, completion, normalisation and labelling: identities, and twins computed another way."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from diffseg_lib import scoremaps
from diffseg_lib.scoremaps import _complete_rows as complete_rows
from diffseg_lib.scoremaps import complete, complete_materialised, constant_maps, fuse, label, normalise, resize, self_attention, upsample


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layers(b: int, n: int, shapes: list[tuple[int, int]], seed: int = 0) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Queries and keys of layers with (heads, width) each."""
    queries = [2 * random(b, e, n, d, seed=seed + i) for i, (e, d) in enumerate(shapes)]
    return queries, [random(b, e, n, d, seed=seed + 50 + i) for i, (e, d) in enumerate(shapes)]


def resolutions(size=(8, 12)) -> dict[int, torch.Tensor]:
    return {d: random(3, max(1, size[0] // d), max(1, size[1] // d), seed=d).sigmoid() for d in (8, 4, 2, 1)}


# -- fuse ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [8, 4, 2, 1])
def test_a_one_hot_weight_selects_one_side(stride):
    cross = resolutions((16, 24))
    chosen = fuse(cross, {d: float(d == stride) for d in cross}, (16, 24), "none")
    torch.testing.assert_close(chosen, resize(cross[stride], (16, 24)))


def test_fusion_is_the_weighted_sum_of_scaled_maps():
    cross, weights = resolutions((16, 24)), {8: 0.3, 4: 0.5, 2: 0.1, 1: 0.1}
    expected = torch.zeros(3, 16, 24)
    for d, maps in cross.items():
        grown = torch.nn.functional.interpolate(maps[:, None], size=(16, 24), mode="bilinear")[:, 0]
        for k in range(3):
            expected[k] += weights[d] * (grown[k] - grown[k].min()) / (grown[k].max() - grown[k].min())
    torch.testing.assert_close(fuse(cross, weights, (16, 24)), expected)


def test_scaled_fusion_does_not_see_a_layers_gain():
    cross, weights = resolutions((16, 24)), {8: 0.25, 4: 0.25, 2: 0.25, 1: 0.25}
    louder = cross | {4: 7 * cross[4] + 3}
    torch.testing.assert_close(fuse(louder, weights, (16, 24)), fuse(cross, weights, (16, 24)))
    assert not torch.allclose(fuse(louder, weights, (16, 24), "none"), fuse(cross, weights, (16, 24), "none"))


def test_fusion_errors_say_what_is_there():
    cross = resolutions()
    del cross[8]
    with pytest.raises(ValueError, match=r"strides or blocks \[8\]; recorded: \[1, 2, 4\]"):
        fuse(cross, {8: 0.5, 4: 0.5}, (8, 12))
    fuse(cross, {8: 0.0, 4: 1.0}, (8, 12))  # a side of weight 0 is not missed
    with pytest.raises(ValueError, match="fusion weights"):
        fuse(cross, {4: 0.0}, (8, 12))
    with pytest.raises(ValueError, match="'minmax' or 'none'"):
        fuse(cross, {4: 1.0}, (8, 12), "softmax")


# -- complete ------------------------------------------------------------------------------------

SHAPES = [
    (1, 4, 4, [(1, 8)]),
    (3, 4, 6, [(2, 8), (4, 4)]),
    (5, 8, 3, [(1, 16), (2, 8), (8, 3)]),
    (12, 6, 6, [(2, 5), (3, 40)]),  # more classes than a head is wide
]


@pytest.mark.parametrize(("k", "h", "w", "shapes"), SHAPES)
@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("shared", [False, True])
def test_apply_only_equals_materialised(k, h, w, shapes, iterations, shared):
    maps = random(k, h, w, seed=9).sigmoid()
    queries, keys = layers(1 if shared else k, h * w, shapes)
    applied, built = complete(maps, queries, keys, iterations), complete_materialised(maps, queries, keys, iterations)
    assert (applied - built).abs().max() <= 1e-5
    assert (applied - maps).abs().max() > 1e-2  # and it did something


def test_many_maps_are_completed_a_strip_of_the_matrix_at_a_time(monkeypatch):
    maps, (queries, keys) = random(20, 20, 15, seed=9).sigmoid(), layers(1, 300, [(2, 5), (3, 8)])
    asked = []
    monkeypatch.setattr(scoremaps, "_complete_rows", lambda *given: asked.append(1) or complete_rows(*given, rows=128))
    torch.testing.assert_close(complete(maps, queries, keys), complete_materialised(maps, queries, keys), atol=1e-5, rtol=0)
    assert asked == [1] and complete(maps[:5], queries, keys).shape == (5, 20, 15) and asked == [1]  # fused kernels take as many as a head is wide


def test_materialised_attention_is_row_stochastic_and_a_mean_of_layers():
    queries, keys = layers(2, 12, [(2, 8), (4, 4)])
    matrix = self_attention(queries, keys)
    torch.testing.assert_close(matrix.sum(-1), torch.ones(2, 12))
    by_layer = [self_attention([q], [k]) for q, k in zip(queries, keys, strict=True)]
    torch.testing.assert_close(matrix, (by_layer[0] + by_layer[1]) / 2)


def test_identity_attention_changes_nothing():
    sharp = 40 * torch.eye(24)[None, None]  # every pixel attends to itself alone
    maps = random(2, 4, 6).sigmoid()
    torch.testing.assert_close(complete(maps, [sharp], [sharp]), maps)


def test_uniform_attention_gives_the_mean():
    nothing = torch.zeros(1, 2, 24, 8)
    maps = random(2, 4, 6).sigmoid()
    torch.testing.assert_close(complete(maps, [nothing], [nothing]), maps.mean((1, 2), keepdim=True).expand(2, 4, 6))


def test_completion_is_linear():
    queries, keys = layers(2, 24, [(2, 8)])
    one, other = random(2, 4, 6, seed=1), random(2, 4, 6, seed=2)
    whole = complete(0.3 * one + 0.7 * other, queries, keys)
    torch.testing.assert_close(whole, 0.3 * complete(one, queries, keys) + 0.7 * complete(other, queries, keys))


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation made."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return made


def test_apply_only_never_makes_the_matrix():
    n = 32 * 32
    maps, (queries, keys) = random(2, 32, 32).sigmoid(), layers(2, n, [(2, 8)])
    with Largest() as applied:
        complete(maps, queries, keys)
    with Largest() as built:
        complete_materialised(maps, queries, keys)
    assert applied.elements < n * n / 8 < n * n <= built.elements


def test_completion_errors_give_the_shapes():
    maps, (queries, keys) = random(2, 4, 6), layers(2, 24, [(2, 8)])
    with pytest.raises(ValueError, match="at least one; got 0 and 0"):
        complete(maps, [], [])
    with pytest.raises(ValueError, match=r"expected b = 2 or 1, n = 20"):
        complete(maps[:, :, :5], queries, keys)
    with pytest.raises(ValueError, match=r"expected b = 3 or 1, n = 24"):
        complete_materialised(random(3, 4, 6), queries, keys)


# -- normalise, upsample, label ------------------------------------------------------------------


def test_normalise_spans_zero_to_one_and_flags_constant_maps():
    maps = torch.stack([random(4, 6), torch.full((4, 6), 0.3)])
    scaled = normalise(maps)
    assert scaled[0].min() == 0 and scaled[0].max() == 1 and not scaled[1].any()
    assert constant_maps(maps).tolist() == [False, True]
    torch.testing.assert_close(normalise(3 * maps - 2), scaled)  # only the order and spacing count


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_map_is_named(value):
    maps = random(3, 4, 6)
    maps[1, 2, 2] = value
    with pytest.raises(ValueError, match=r"score maps \[1\] hold NaN or infinity"):
        normalise(maps)


def test_the_order_of_norm_and_upsampling_is_a_switch():
    maps = random(2, 3, 4).sigmoid()
    after, before = upsample(maps, (7, 9)), upsample(maps, (7, 9), "before")
    assert after.amax((1, 2)).tolist() == [1, 1] and after.amin((1, 2)).tolist() == [0, 0]
    assert (before.amax((1, 2)) < 1).any() and before.min() >= 0
    torch.testing.assert_close(normalise(before), after)
    with pytest.raises(ValueError, match="'after' or 'before'"):
        upsample(maps, (7, 9), "never")


def test_labels_against_a_loop():
    scores, threshold = random(3, 5, 7).sigmoid(), 0.6
    found = label(scores, threshold)
    for y in range(5):
        for x in range(7):
            best = max(range(3), key=lambda k, y=y, x=x: float(scores[k, y, x]))
            assert found[y, x] == (best + 1 if scores[best, y, x] > threshold else 0)
    assert label(torch.full((2, 1, 2), 0.6), 0.6).tolist() == [[0, 0]]  # a score must pass the threshold, not meet it
    assert not label(scores, 1.0).any() and (label(scores, 0.0) > 0).all()


def test_what_interpolation_leaves_of_a_constant_map_is_not_blown_up():
    flat = torch.full((1, 16, 24), 0.2)
    grown = resize(flat, (48, 80))
    assert constant_maps(grown).all() and not upsample(flat, (48, 80)).any()
    slight = flat + 1e-4 * random(1, 16, 24)  # a faint map is a map
    assert upsample(slight, (48, 80)).max() == 1


@pytest.mark.parametrize("norm", ["after", "before"])
@pytest.mark.parametrize(("size", "rows"), [((48, 80), 7), ((375, 500), 64), ((16, 80), 5), ((16, 24), 16), ((9, 11), 4), ((1000, 731), 256)])
def test_labels_made_some_rows_at_a_time_are_those_of_the_whole(norm, size, rows):
    from diffseg_lib.scoremaps import label_rows

    maps = torch.rand(3, 16, 24, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 5.0, 0.2])[:, None, None]
    maps[2] = 0.3  # constant: it says nothing, and wins nowhere
    labels, scaled = label_rows(maps, size, 0.6, norm, rows)
    scores = upsample(maps, size, norm)
    assert labels.dtype == torch.int32 and torch.equal(labels.long(), label(scores, 0.6)) and set(labels.unique().tolist()) == {0, 1, 2}
    torch.testing.assert_close(resize(scaled, size), scores, atol=1e-5, rtol=0)
