"""What came after the paper: identities, naive loops over stored matrices, and every method by its name on every family."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import torch

from diffseg_lib.cli.evaluate import METHOD_NAMES
from diffseg_lib.cli.main import main
from diffseg_lib.config import Config
from diffseg_lib.evaluation.jobs import Job, evaluate_ids
from diffseg_lib.evaluation.methods import METHODS, make_method
from diffseg_lib.evaluation.sources import with_masks
from diffseg_lib.loading import load_backbone
from diffseg_lib.propagation import operators
from diffseg_lib.propagation.operators import attention_head, mean_of, rescale
from diffseg_lib.recording import Projections, Recording
from diffseg_lib.refinements.base import Refined, Refinement
from diffseg_lib.refinements.chains import attention_chain, second_eigenvalue, token_rank
from diffseg_lib.refinements.cliper import cliper
from diffseg_lib.refinements.diffcut import affinity, best_cut, cut_recursively, diffcut, normalised_cut
from diffseg_lib.refinements.diffseg_merge import aggregate, diffseg, divergence
from diffseg_lib.refinements.elbo_t2i import elbo_t2i, exponents
from diffseg_lib.refinements.fa_seg import fa_seg
from diffseg_lib.refinements.goca import goca, head_weights, layer_agreement
from diffseg_lib.refinements.heads import best_heads, choose_heads, head_scores, read_heads, selected_heads, write_heads
from diffseg_lib.refinements.iseg import iseg
from diffseg_lib.refinements.naming import name_regions
from diffseg_lib.refinements.nerve import nerve
from diffseg_lib.refinements.registry import REFINEMENTS
from diffseg_lib.refinements.text_to_seed import text_to_seed
from diffseg_lib.scoremaps import complete, normalise, resize
from diffseg_lib.segmenter import DiffSegmenter

K, SIZE, HEADS, D = 3, (4, 6), 2, 5
FAMILIES = ("sd15", "sd21-v", "sdxl")


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def recording(rows=1, heads=HEADS, layers=2):
    """Random attention: `layers` at 4 x 6 pixels and one at 2 x 3, one prompt or one a map; cross maps of both, and projections."""
    made = Recording(size=SIZE, finest_size=SIZE)
    for i, (side, name) in enumerate([(SIZE, "down_blocks.0.a"), ((2, 3), "down_blocks.1.a"), *[(SIZE, f"up_blocks.{j}.a") for j in range(1, layers)]]):
        n = side[0] * side[1]
        query, key, value = (2 * random(rows, heads, n, D, seed=10 * i + j) for j in range(3))
        hidden, output = random(rows, n, 7, seed=10 * i + 3), random(7, heads * D, seed=10 * i + 4)
        made.queries[f"{name}.attn1"], made.keys[f"{name}.attn1"] = query, key
        made.projections[f"{name}.attn1"] = Projections(query, key, value, output, hidden, side)
        words = (random(rows, heads, 8, D, seed=10 * i + j) for j in (5, 6))
        made.projections[f"{name}.attn2"] = Projections(query, *words, output, hidden, side)
        made.cross[f"{name}.attn2"] = random(K, heads, *side, seed=10 * i + 7).exp()
    return made


MAPS = random(K, *SIZE, seed=99).exp()


def matrices(made, row):
    """Every head of the finest self-attention of one prompt, stored: layers, heads, n n."""
    layers = zip(*made.finest(), strict=True)
    return [(query[min(row, len(query) - 1)] @ key[min(row, len(key) - 1)].mT / math.sqrt(D)).softmax(-1) for query, key in layers]


def naive(made, rule):
    """A rule on the stored matrices, for each map by a loop."""
    return torch.stack([rule(matrices(made, c), MAPS[c].flatten()).reshape(SIZE) for c in range(K)])


def rescaled(matrix, change):
    changed = change(matrix / matrix.amax(0))
    return changed / changed.sum(1, keepdim=True)


def naive_iseg(layers, v, epsilon=0.015, rounds=8):
    matrix = rescaled(torch.cat(layers).mean(0), lambda a: torch.clamp(a + epsilon * (1 + a.log()) / math.log(10), min=0))
    for _ in range(rounds):
        v = matrix @ v
        v = (v - v.min()) / (v - v.min()).sum()
    return v


def naive_cliper(layers, v):
    results = []
    for heads in layers:
        product = torch.eye(len(v))
        for head in heads:
            product = product @ rescaled(head, lambda a: a * (a >= 0.1).float())
        results.append(product @ v)
    return sum(results) / len(results)


def naive_chain(layers, v):
    heads = torch.cat(layers)
    weights = torch.tensor([sorted(torch.linalg.eigvals(head).abs().tolist())[-2] for head in heads])
    matrix = (weights[:, None, None] * heads).sum(0) / weights.sum()
    return v / v.sum() @ matrix @ matrix


def naive_nerve(layers, v, alpha=0.8):
    heads = torch.cat(layers)
    weights = (heads * heads.log()).sum(-1).mean(-1).softmax(0)
    matrix = (weights[:, None, None] * heads).sum(0)
    return (1 - alpha) * torch.linalg.solve(torch.eye(len(v)) - alpha * matrix, v)


@pytest.fixture(params=["small", "chunked"])
def chunked(request, monkeypatch):
    """Rows kept, and rows computed seven at a time, with none kept."""
    if request.param == "chunked":
        monkeypatch.setattr(operators, "CHUNK", 7)
        monkeypatch.setattr(operators, "SMALL", 5)


@pytest.mark.parametrize("rows", [1, K])
@pytest.mark.parametrize(
    ("refine", "rule"),
    [
        (iseg, naive_iseg),
        (cliper, naive_cliper),
        (lambda made, maps: attention_chain(made, maps, steps=400), naive_chain),
        (lambda made, maps: nerve(made, maps, tolerance=1e-6), naive_nerve),
    ],
    ids=["iseg", "cliper", "chains", "nerve"],
)
def test_propagation_equals_a_loop_over_stored_matrices(chunked, rows, refine, rule):
    made = recording(rows)
    atol = 2e-3 * float(MAPS.max()) / MAPS[0].numel() if rule is naive_chain else 1e-5  # a pair of eigenvalues may be complex
    torch.testing.assert_close(refine(made, MAPS), naive(made, rule), atol=atol, rtol=1e-4)


# -- identities --


def test_propagation_on_the_simplest_terms_is_the_plain_application():
    one, made = recording(heads=1, layers=1), recording()
    [[matrix]] = matrices(one, 0)
    applied = rescaled(matrix, lambda a: a) @ MAPS.flatten(1).mT
    torch.testing.assert_close(cliper(one, MAPS, floor=0).flatten(1).mT, applied)
    shifted = applied - applied.amin(0)
    torch.testing.assert_close(iseg(one, MAPS, epsilon=0, rounds=1).flatten(1).mT, shifted / shifted.sum(0))
    torch.testing.assert_close(fa_seg(made, MAPS, {1: 1.0}, rounds=1), normalise(complete(MAPS, *made.finest())))
    assert torch.equal(nerve(made, MAPS, alpha=0), MAPS)
    torch.testing.assert_close(attention_chain(made, MAPS, bounces=0), MAPS / MAPS.sum((1, 2), keepdim=True))
    torch.testing.assert_close(elbo_t2i(made, MAPS, torch.ones(K)), complete(normalise(MAPS), *made.finest()))


def test_squares_at_several_resolutions_are_weighed_and_added():
    made, weights = recording(), {2: 1.5, 1: 0.5, 8: 3.0}  # nothing attends at a stride of 8
    coarse = normalise(complete(resize(MAPS, (2, 3)), *made.self_attention()[2, 3], iterations=2))
    fine = normalise(complete(MAPS, *made.finest(), iterations=2))
    torch.testing.assert_close(fa_seg(made, MAPS, weights), 0.75 * resize(coarse, SIZE) + 0.25 * fine)
    with pytest.raises(ValueError, match=r"expected one above 0 among strides \[1, 2\]"):
        fa_seg(made, MAPS, {8: 1.0})


def test_the_second_eigenvalue_and_the_stationary_vector_are_those_of_the_stored_matrix(chunked):
    a, b = 0.1, 0.3
    chain = torch.tensor([[1 - a, a], [b, 1 - b]])
    operator = operators.Operator(lambda start, stop: chain[start:stop], 2)
    assert second_eigenvalue(operator) == pytest.approx(1 - a - b, abs=1e-5)
    torch.testing.assert_close(token_rank(operator, 0.9999, 1e-7), torch.tensor([b, a]) / (a + b), atol=1e-3, rtol=0)
    made = recording()
    head = attention_head(made.finest()[0][0][0, 0], made.finest()[1][0][0, 0])
    rank, [matrix, *_] = token_rank(head), matrices(made, 0)[0]
    torch.testing.assert_close(0.85 * rank @ matrix + 0.15 / len(rank), rank, atol=1e-5, rtol=0)
    torch.testing.assert_close(token_rank(head, 0), torch.full_like(rank, 1 / len(rank)))


def test_weights_of_matrices_are_divided_by_their_sum_and_empty_rows_stay_empty():
    one, two = torch.eye(2), torch.ones(2, 2) / 2
    made = [operators.Operator(lambda start, stop, m=m: m[start:stop], 2) for m in (one, two)]
    torch.testing.assert_close(mean_of(made, (3, 1)).rows(0, 2), 0.75 * one + 0.25 * two)
    assert not rescale(made[0], torch.zeros_like).rows(0, 2).any()
    with pytest.raises(ValueError, match="one at least above 0"):
        mean_of(made, (0, 0))


def test_goca_weighs_heads_by_their_part_in_the_output_and_layers_by_likeness():
    made = recording(K)
    total, sizes = torch.zeros(K, *SIZE), torch.zeros(K, 1, 1)
    for name, cross in made.cross.items():
        layer, beside = made.projections[name], made.projections[name.replace("attn2", "attn1")]
        for c in range(K):
            attention = (layer.query[c] @ layer.key[c].mT / math.sqrt(D)).softmax(-1)
            added = [attention[e] @ layer.value[c, e] @ layer.output[:, e * D : (e + 1) * D].mT for e in range(HEADS)]
            dots = torch.stack([(one * sum(added)).sum(-1) for one in added]).clamp(min=0)
            weights = dots / dots.sum(0)
            torch.testing.assert_close(head_weights(layer)[c], weights, atol=1e-5, rtol=1e-4)
            likeness = (beside.hidden[c] @ beside.hidden[c].mT / math.sqrt(7)).softmax(-1)
            own = (beside.query[c] @ beside.key[c].mT / math.sqrt(D)).softmax(-1).mean(0)
            agreement = torch.nn.functional.cosine_similarity(likeness.flatten(), own.flatten(), dim=0)
            torch.testing.assert_close(layer_agreement(beside)[c], agreement, atol=1e-5, rtol=1e-4)
            map_ = (weights.unflatten(1, cross.shape[2:]) * cross[c]).sum(0)
            total[c] += agreement * resize(map_[None], SIZE)[0]
            sizes[c] += agreement
    torch.testing.assert_close(goca(made, MAPS), complete(total / sizes, *made.finest(), iterations=2), atol=1e-5, rtol=1e-4)


def test_exponents_are_one_for_the_class_that_explains_best_and_least_for_the_worst():
    torch.testing.assert_close(exponents(torch.tensor([3.0, 1.0, 2.0]), 4.0), torch.tensor([0.25, 1.0, 0.5]))
    assert exponents(torch.tensor([2.0])).tolist() == [1.0]
    brighter = elbo_t2i(recording(), MAPS, torch.tensor([0.5, 1.0, 1.0]))
    assert (brighter[0] > elbo_t2i(recording(), MAPS, torch.ones(K))[0]).all()


def test_heads_that_draw_the_masks_are_the_ones_that_are_chosen(tmp_path):
    made, masks = recording(), torch.zeros(K, 8, 12, dtype=torch.bool)
    masks[:, 2:6, 4:10] = True
    layer = "up_blocks.1.a.attn2"
    made.cross[layer][:, 1] = torch.nn.functional.adaptive_avg_pool2d(masks.float(), SIZE)
    scores = head_scores(made, masks)
    assert len(scores) == len(made.cross) * HEADS and scores[layer, 1] == pytest.approx(1, abs=1e-5)
    assert best_heads(scores)[0] == (layer, 1) and len(best_heads(scores)) == round(len(scores) / 4)
    kept = read_heads(write_heads(best_heads(scores, 0.01), tmp_path / "heads.json", "a test"))
    torch.testing.assert_close(selected_heads(made, MAPS, kept), complete(normalise(made.cross[layer][:, 1]), *made.finest()))
    with pytest.raises(ValueError, match="choose them anew"):
        selected_heads(made, MAPS, [(layer, HEADS)])
    with pytest.raises(ValueError, match="make one by: diffseg heads"):
        read_heads(tmp_path / "none.json")


def test_cuts_part_what_is_apart_and_leave_whole_what_is_one():
    features = torch.tensor([[1.0, 0.1], [1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 1.0], [-1.0, 0.0], [-1.0, 0.1]])
    matrix = affinity(features)
    assert float(matrix.max()) == 1 and float(matrix[0, 5]) == pytest.approx(0, abs=1e-6)
    assert sorted(sorted(part.tolist()) for part in cut_recursively(matrix)) == [[0, 1, 2], [3, 4], [5, 6]]
    part, value = best_cut(matrix)
    assert value == pytest.approx(normalised_cut(matrix, part)) and value < 0.1
    loose = 0.05 + 0.95 * torch.block_diag(torch.ones(2, 2), torch.ones(4, 4))
    assert sorted(best_cut(loose)[0].tolist()) in ([False] * 2 + [True] * 4, [False] * 4 + [True] * 2) and best_cut(loose)[1] < 0.3
    assert len(cut_recursively(torch.ones(4, 4))) == 1 and len(cut_recursively(matrix, limit=0)) == 1


def test_distributions_are_merged_as_rows_of_the_stored_matrix_are(chunked):
    made = recording()
    matrix = torch.cat([rows for _, rows in aggregate(made).chunks()])
    total = torch.zeros(24, 24)
    for side, (queries, keys) in made.self_attention().items():
        for query, key in zip(queries, keys, strict=True):
            own = (query[0] @ key[0].mT / math.sqrt(D)).softmax(-1).mean(0)
            for p in range(24):
                y, x = p // SIZE[1] * side[0] // SIZE[0], p % SIZE[1] * side[1] // SIZE[1]
                fine = resize(own[y * side[1] + x].reshape(1, *side), SIZE).flatten()
                total[p] += side[0] * fine / fine.sum()
    torch.testing.assert_close(matrix, total / total.sum(1, keepdim=True), atol=1e-5, rtol=1e-4)
    p, q = matrix[:3], matrix[3:5]
    expected = torch.tensor([[float((a * (a / b).log()).sum() + (b * (b / a).log()).sum()) / 2 for b in q] for a in p])
    torch.testing.assert_close(divergence(p, q), expected, atol=1e-5, rtol=1e-4)
    near = (divergence(matrix, matrix) <= 0.5).float()
    proposals = near @ matrix / near.sum(1, keepdim=True)
    assert torch.equal(diffseg(made, limit=0.5, rounds=1), proposals.argmax(0).unflatten(0, SIZE))
    assert not diffseg(made, limit=1e9).any()


def test_regions_take_the_mean_of_what_clip_sees_in_them():
    regions = torch.tensor([[4, 4, 7], [4, 7, 7]])
    seen = torch.arange(12.0).reshape(2, 2, 3)
    found = name_regions(regions, seen)
    first = torch.tensor([[4.0, 4, 11], [4, 11, 11]]) / 3
    torch.testing.assert_close(found, torch.stack([first, first + 6]))


def test_seeds_spread_to_their_own_side_of_the_picture():
    """Two halves whose pixels attend to their own half alone, each class bright in one of them."""
    made, n = Recording(size=SIZE, finest_size=SIZE), SIZE[0] * SIZE[1]
    left = (torch.arange(n) % SIZE[1] < 3).float()
    one = 20 * torch.stack([left, 1 - left], dim=1)[None, None]
    coarse = 20 * torch.tensor([[1.0, 0], [1, 0], [0, 1]] * 2)[None, None]
    made.queries, made.keys = {"a": one, "b": coarse}, {"a": one, "b": coarse}
    bright = torch.zeros(2, 2, 3)
    bright[0, 0, 0] = bright[1, 1, 2] = 1
    made.cross = {"c": bright}
    found = text_to_seed(made, torch.zeros(2, *SIZE))
    halves = left.reshape(SIZE) > 0
    assert (found[0] > 0)[halves].all() and (found[1] > 0)[~halves].all()
    torch.testing.assert_close(found[0][~halves], torch.full((12,), -1.0), atol=1e-3, rtol=0)  # where all negative seeds are


# -- as methods --


def segmenter_of(folder, **changes):
    return DiffSegmenter(load_backbone(folder), Config(**changes))


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, family_folders):
    return family_folders[request.param]


@pytest.mark.parametrize("one_pass", ["none", "side", "joint"])
def test_refinements_read_any_family_in_any_way_of_calling_it(family, picture, one_pass):
    segmenter = segmenter_of(family, one_pass=one_pass, class_batch=2, timesteps=(50, 100))
    classes = ("house", "fish", "red fish")
    for name, refinement in REFINEMENTS.items():
        if refinement.unsupervised or name == "heads":
            continue
        found = make_method(name, segmenter)(picture, classes)
        assert found.scores.shape == (3, 48, 80) and np.ptp(found.scores, axis=(1, 2)) == pytest.approx(1)
        assert found.calls == segmenter.unet_rows(classes) * 2 + (9 if name == "elbo-t2i" else 0)


def test_plain_and_optimized_recordings_refine_alike(family, picture):
    for name in ("iseg", "goca", "text-to-seed"):
        optimized, plain = (make_method(name, segmenter_of(family, optimized=on))(picture, ("house", "fish")).scores for on in (True, False))
        np.testing.assert_allclose(optimized, plain, atol=2e-3)


def test_a_refinement_that_completes_is_the_segmenter(family, picture):
    segmenter = segmenter_of(family, class_batch=2, timesteps=(50, 100))
    plain = Refined(segmenter, Refinement(lambda made, maps: complete(maps, *made.finest())))
    np.testing.assert_allclose(plain(picture, ("house", "fish", "red")).scores, segmenter.segment(picture, ("house", "fish", "red")).scores, atol=1e-4)


def test_content_words_share_all_of_a_pixels_attention(family, picture):
    """A class that is the whole prompt receives all of what its words receive."""
    segmenter = segmenter_of(family, template="{class}")
    method = Refined(segmenter, Refinement(goca, heads=True, content=True))
    [[made]] = method.record(picture, ("fish", "red house"))
    for maps in made.cross.values():
        assert maps.shape[:1] == (2,) and maps.ndim == 4
        torch.testing.assert_close(maps[0], torch.ones_like(maps[0]))
        torch.testing.assert_close(2 * maps[1], torch.ones_like(maps[1]))  # the mean over two tokens


def test_evaluate_runs_every_refinement_by_its_name(family_folders, tree, data, tmp_path):
    """On one scene and a tiny model of random weights; regions are named by the shipped CLIP. The program is run where a method reads a file or a CLIP."""
    folder, path = family_folders["sd15"], tmp_path / "heads.json"
    chosen = choose_heads(segmenter_of(folder), with_masks(data.first(1)))
    write_heads(chosen, path, "one val scene")
    assert len(chosen) == 7  # a quarter of 26, rounded
    models = {name: str(path) if name == "heads" else "" for name in REFINEMENTS}
    for name, model in models.items():
        job = Job("voc", root=str(tree), labels="image", method=name, model=model, profile=str(folder), clip="pocket")
        [row] = evaluate_ids(job, data.ids[:1])
        assert row.status == "ok" and row.counted is not None, (name, row.error)
    for name in ("heads", "diffcut"):
        out, more = tmp_path / name, ["--model", models[name]] if models[name] else []
        given = ["--dataset", "voc", "--root", str(tree), "--split", "val", "--limit", "1", "--labels", "image", "--threshold", "0.5", "--out", str(out)]
        assert main(["evaluate", *given, "--profile", str(folder), "--clip", "pocket", "--method", name, *more]) == 0
        found = json.loads((out / "summary.json").read_text())
        assert found["method"] == name and found["images"] == 1 and found["miou"] is not None and not found["errors"]


def test_regions_are_the_classes_that_they_show(data):
    """With the shipped models, on one scene."""
    segmenter, sample = DiffSegmenter.from_profile("pocket"), data.load(data.ids[0])
    for name in ("diffcut", "diffseg"):
        found = make_method(name, segmenter)(sample.image, sample.classes)
        assert found.calls == len(segmenter.timesteps) and found.scores.shape == (len(sample.classes), *sample.truth.shape)


def test_what_a_refinement_cannot_use_is_refused(backbone):
    segmenter = DiffSegmenter(backbone)
    with pytest.raises(ValueError, match="leave --model out"):
        make_method("iseg", segmenter, "somewhere")
    with pytest.raises(ValueError, match="did you mean iseg"):
        make_method("isge", segmenter)
    with pytest.raises(ValueError, match="self_attention='finest' or 'all'"):
        iseg(Recording(size=SIZE, finest_size=SIZE), MAPS)
    with pytest.raises(ValueError, match=r"projections=\('self',\)"):
        diffcut(Recording(size=SIZE, finest_size=SIZE))


def test_the_program_names_every_method():
    assert set(re.split(r", (?:or of what came after the paper: )?| and |: ", METHOD_NAMES)) == set(METHODS)
