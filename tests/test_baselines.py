"""The discriminative rivals, and the measures of completeness and boundaries that compare them."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from diffseg_lib.baselines.dense_clip import DenseClip, _pixels, mean_of_shifts, window_offsets
from diffseg_lib.baselines.group_vit import GroupVit
from diffseg_lib.data.samples import VOID
from diffseg_lib.evaluation.methods import make_method
from diffseg_lib.evaluation.metrics import boundary_band, boundary_confusion, recall_at_precision
from diffseg_lib.evaluation.sources import open_dataset
from diffseg_lib.experiments.qualitative import (
    COARSE,
    CROSS,
    MEASURES,
    METHODS,
    OURS,
    RIVAL,
    first_with,
    mean_recall,
    qualitative_study,
    score_both,
    score_image,
)
from diffseg_lib.pocket.scenes import VOC_NAMES, voc_samples
from diffseg_lib.scoremaps import resize, upsample
from diffseg_lib.segmenter import DiffSegmenter
from diffseg_lib.vision_language import Clip


def _text(tokenizer, **more):
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 24}
    return {"vocab_size": len(tokenizer), **sizes, **ids, **more}


def _processor(tokenizer, side):
    from transformers import CLIPImageProcessorPil, CLIPProcessor

    mean, deviation = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    return CLIPProcessor(CLIPImageProcessorPil(size={"height": side, "width": side}, do_center_crop=False, image_mean=mean, image_std=deviation), tokenizer)


@pytest.fixture(scope="module")
def tiny_clip_folder(pipeline_folder, tmp_path_factory):
    """A random CLIP on disk: 2 vision layers, 4 px patches at 16 px."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(pipeline_folder / "tokenizer")
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 4}
    model = CLIPModel(CLIPConfig(text_config=_text(tokenizer), vision_config=vision, projection_dim=8))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    folder = tmp_path_factory.mktemp("models") / "clip"
    model.save_pretrained(folder)
    _processor(tokenizer, 16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny_clip(tiny_clip_folder):
    return Clip.load(tiny_clip_folder)


@pytest.fixture(scope="module")
def group_vit_folder(pipeline_folder, tmp_path_factory):
    """A random GroupViT on disk: 16 patches to 8 groups to 4, at 16 px."""
    from transformers import CLIPTokenizer, GroupViTConfig, GroupViTModel

    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(pipeline_folder / "tokenizer")
    vision = {"hidden_size": 16, "intermediate_size": 32, "depths": [1, 1, 1], "num_hidden_layers": 3, "num_group_tokens": [8, 4, 0]}
    vision |= {"num_output_groups": [8, 4, 0], "num_attention_heads": 2, "image_size": 16, "patch_size": 4}
    model = GroupViTModel(GroupViTConfig(text_config=_text(tokenizer), vision_config=vision, projection_dim=8, projection_intermediate_dim=8))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
        for name, weight in model.named_parameters():  # words and groups far apart
            weight.mul_(10 if any(part in name for part in ("token_embedding", "group_token", "mlp_inter")) else 1)
    folder = tmp_path_factory.mktemp("models") / "groupvit"
    model.save_pretrained(folder)
    _processor(tokenizer, 16).save_pretrained(folder)
    return folder


# -- CLIP's patches --


@pytest.mark.parametrize("layer", ["value", "residual"])
def test_the_value_path_is_the_one_computed_by_hand(tiny_clip, layer):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)  # the model's own size: nothing is resized
    vision, found = tiny_clip.model.vision_model, DenseClip(tiny_clip, shifts=1, layer=layer).features(pixels)
    mean, deviation = torch.tensor([0.5, 0.4, 0.3])[:, None, None], torch.tensor([0.2, 0.3, 0.4])[:, None, None]
    image = (torch.from_numpy(pixels).permute(2, 0, 1) / 255 - mean) / deviation
    with torch.no_grad():
        x = vision.encoder.layers[0](vision.pre_layrnorm(vision.embeddings(image[None])), attention_mask=None)
        last = vision.encoder.layers[1]
        values = last.layer_norm1(x) @ last.self_attn.v_proj.weight.T + last.self_attn.v_proj.bias
        values = values @ last.self_attn.out_proj.weight.T + last.self_attn.out_proj.bias
        by_hand = vision.post_layernorm(values + x if layer == "residual" else values) @ tiny_clip.model.visual_projection.weight.T
    by_hand = (by_hand / by_hand.norm(dim=-1, keepdim=True))[0, 1:].reshape(4, 4, 8).permute(2, 0, 1)
    torch.testing.assert_close(found, by_hand)


def test_with_its_attention_the_last_layer_is_the_models_own(tiny_clip, picture):
    square, vision = picture[:40, :40], tiny_clip.model.vision_model
    whole = DenseClip(tiny_clip, shifts=1, layer="attention").features(square)
    assert not torch.allclose(whole, DenseClip(tiny_clip, shifts=1).features(square), atol=1e-3)
    with torch.no_grad():
        tokens = vision(pixel_values=_pixels(square, (16, 16), tiny_clip.processor.image_processor)).last_hidden_state[0, 1:]
        expected = tiny_clip.model.visual_projection(vision.post_layernorm(tokens))
    torch.testing.assert_close(whole.flatten(1).T, expected / expected.norm(dim=-1, keepdim=True))


def test_reading_patches_leaves_the_picture_embedding_alone(tiny_clip, picture):
    before = tiny_clip.images([picture])
    DenseClip(tiny_clip)(picture, ["house"])
    assert torch.equal(before, tiny_clip.images([picture]))


def test_a_larger_size_and_more_shifts_give_finer_grids(tiny_clip, picture):
    def shape(**changes):
        return tuple(DenseClip(tiny_clip, **changes).features(picture).shape)

    assert shape(shifts=1) == (8, 4, 7)  # 48 x 80 px: the short side at 16 px, 4 px patches
    assert shape(shifts=1, size=32) == (8, 8, 13)
    assert shape(shifts=2, size=32) == (8, 16, 26)


def test_shifted_patches_lie_where_they_were_seen(tiny_clip):
    """Two shifts: every second cell is one window's, and the window that began a px up and left sees the picture moved."""
    pixels = np.random.default_rng(1).integers(0, 256, (16, 16, 3), np.uint8)
    fine = DenseClip(tiny_clip, shifts=2).features(pixels)
    assert window_offsets(4, 2) == [-1, 1]
    moved = np.pad(pixels, ((1, 0), (1, 0), (0, 0)), mode="edge")[:16, :16]  # what begins a px before the edge
    torch.testing.assert_close(fine[:, ::2, ::2], DenseClip(tiny_clip, shifts=1).features(moved))


@pytest.mark.parametrize("shifts", [1, 2, 4])
def test_the_mean_of_shifts_is_the_mean_of_their_interpolations(shifts):
    maps = torch.rand(2, 5 * shifts, 6 * shifts, generator=torch.Generator().manual_seed(0))
    total = torch.zeros_like(maps)
    for y in range(shifts):
        for x in range(shifts):
            total += _interpolated(maps[:, y::shifts, x::shifts], shifts, y, x)
    inside = slice(shifts - 1, -shifts + 1 or None)  # away from the edges, which are repeated
    torch.testing.assert_close(mean_of_shifts(maps, shifts)[:, inside, inside], (total / shifts**2)[:, inside, inside])


def _interpolated(coarse, shifts, y, x):
    """One shift's maps at every cell of the fine grid, by numpy's linear interpolation along each axis."""
    found = coarse.numpy()
    for axis, start in ((1, y), (2, x)):
        places, cells = np.arange(found.shape[axis]) * shifts + start, np.arange(found.shape[axis] * shifts)
        found = np.apply_along_axis(lambda row, p=places, c=cells: np.interp(c, p, row), axis, found)
    return torch.from_numpy(found).float()


def test_scores_are_the_images_size_and_in_the_order_asked(tiny_clip, picture):
    method = DenseClip(tiny_clip)
    one, other = method(picture, ["house", "fish"]), method(picture, ["fish", "house"])
    assert one.calls == 0 and one.scores.shape == (2, 48, 80) and one.scores.dtype == np.float32
    assert one.scores.min() == 0 and one.scores.max() == 1
    np.testing.assert_allclose(one.scores, other.scores[::-1], atol=1e-5)
    assert np.abs(one.scores[0] - one.scores[1]).max() > 0.1


def test_contrasts(tiny_clip, picture):
    plain, empty, among = (DenseClip(tiny_clip, contrast=one) for one in ("none", "empty", "classes"))
    features = plain.features(picture)
    cosines = torch.einsum("kd,dhw->khw", torch.cat([tiny_clip.texts(["house", "fish"]), _empty(tiny_clip)]), features)
    names = ["house", "fish"]
    torch.testing.assert_close(plain.similarities(picture, names), mean_of_shifts(cosines[:2], 4))
    torch.testing.assert_close(empty.similarities(picture, names), mean_of_shifts(cosines[:2] - cosines[2:], 4))
    expected = (cosines * tiny_clip.model.logit_scale.exp()).softmax(0)[:2]
    torch.testing.assert_close(among.similarities(picture, names), mean_of_shifts(expected, 4))


def _empty(clip):
    coded = clip.processor.tokenizer([""], padding="max_length", return_tensors="pt")
    with torch.no_grad():
        found = clip.model.get_text_features(**coded).pooler_output
    return found / found.norm(dim=-1, keepdim=True)


def test_templates_are_averaged(tiny_clip):
    mean = DenseClip(tiny_clip, templates=("a {class}", "red {class}")).texts(["house"])
    parts = [DenseClip(tiny_clip, templates=(one,)).texts(["house"]) for one in ("a {class}", "red {class}")]
    torch.testing.assert_close(mean, torch.nn.functional.normalize(parts[0] + parts[1], dim=-1))
    assert not torch.allclose(*parts)


def test_pocket_maps_point_at_their_objects():
    """Measured when this was written: .92 on 40 train scenes; .5 is chance."""
    method, values = DenseClip.from_path("pocket"), []
    for sample in voc_samples("train", 12):
        seen = sample.truth != VOID
        for name, scores in zip(sample.classes, method(sample.image, sample.classes).scores, strict=True):
            inside = (sample.truth == VOC_NAMES.index(name))[seen]
            values.append(roc_auc_score(inside, scores[seen]))
    assert np.mean(values) > 0.8


def test_the_profiles_clip_is_found_by_name(picture):
    segmenter = DiffSegmenter.from_profile("pocket")
    assert make_method("denseclip", segmenter)(picture, ["house"]).scores.shape == (1, 48, 80)


def test_bad_switches_and_paths_are_refused(tiny_clip, picture, tmp_path):
    with pytest.raises(ValueError, match="layer 'query': expected value, residual, attention"):
        DenseClip(tiny_clip, layer="query")
    with pytest.raises(ValueError, match="contrast 'softmax': expected none, empty, classes"):
        DenseClip(tiny_clip, contrast="softmax")
    with pytest.raises(ValueError, match="shifts 5: expected 1 to 4, the side of a patch"):
        DenseClip(tiny_clip, shifts=5)
    with pytest.raises(ValueError, match="at least one name"):
        DenseClip(tiny_clip)(picture, [])
    for rival in (DenseClip, GroupVit):
        with pytest.raises(FileNotFoundError, match=f"no (CLIP|GroupViT)Model at {re.escape(repr(str(tmp_path)))}.*expected 'pocket', a folder"):
            rival.from_path(tmp_path)
    with pytest.raises(ValueError, match="no pocket GroupViT: expected a folder"):
        GroupVit.from_path("pocket")


def test_settings_name_every_switch_but_the_model(tiny_clip):
    assert DenseClip(tiny_clip, size=32).settings == {"size": 32, "shifts": 4, "layer": "residual", "contrast": "empty", "templates": ()}


# -- GroupViT --


def test_group_vit_scores_are_the_images_size_and_in_the_order_asked(group_vit_folder, picture):
    method = GroupVit.from_path(group_vit_folder)
    one, other = method(picture, ["house", "fish", "red"]), method(picture, ["fish", "red", "house"])
    assert one.calls == 0 and one.scores.shape == (3, 48, 80) and one.scores.dtype == np.float32
    assert one.scores.min() == 0 and one.scores.max() == 1
    np.testing.assert_allclose(one.scores, other.scores[[2, 0, 1]], atol=1e-5)
    assert np.abs(one.scores[0] - one.scores[1]).max() > 0.01
    np.testing.assert_array_equal(method(picture, "house").scores, method(picture, ["house"]).scores)
    with pytest.raises(ValueError, match="at least one name"):
        method(picture, [])


def test_group_vit_scores_are_its_own_segmentation(group_vit_folder):
    pixels, method = np.random.default_rng(2).integers(0, 256, (16, 16, 3), np.uint8), GroupVit.from_path(group_vit_folder)
    inputs = method.processor(text=["a photograph of a fish"], images=[pixels], padding="max_length", return_tensors="pt")
    with torch.no_grad():
        maps = method.model(**inputs, output_segmentation=True).segmentation_logits[0]
    np.testing.assert_allclose(method(pixels, ["fish"]).scores, upsample(maps, (16, 16)).numpy(), atol=1e-4)


# -- measures --


def test_the_band_is_near_edges_and_never_void():
    truth = np.zeros((9, 9), np.uint8)
    truth[:, 5:] = 2
    assert boundary_band(truth, 1)[0].tolist() == [False] * 4 + [True, True] + [False] * 3
    assert boundary_band(truth, 2).sum(1).tolist() == [4] * 9
    truth[:, 4] = VOID  # a rim: the band begins beside it
    assert boundary_band(truth, 1)[0].tolist() == [False] * 3 + [True, False, True] + [False] * 3
    assert not boundary_band(np.full((5, 5), 3, np.uint8), 2).any()
    with pytest.raises(ValueError, match="expected 1 px or more"):
        boundary_band(truth, 0)


def test_a_boundary_counts_the_outline_and_not_the_inside():
    truth = np.zeros((20, 20), np.uint8)
    truth[5:15, 5:15] = 1
    hollow, shrunk = truth.copy(), np.zeros_like(truth)
    hollow[8:12, 8:12] = 0  # wrong, and more than 3 px from the edge
    shrunk[6:14, 6:14] = 1  # the outline a px inside
    right = boundary_confusion(truth, truth, 2)
    assert right[0, 1] == right[1, 0] == 0 and right[1, 1] == 100 - 16
    assert np.array_equal(boundary_confusion(truth, hollow, 2), right)
    assert boundary_confusion(truth, shrunk, 2)[1, 0] == 100 - 64
    with pytest.raises(ValueError, match="bring the prediction to"):
        boundary_confusion(truth, truth[:, :10], 2)


def test_recall_at_precision_by_hand():
    inside, scores = np.array([1, 1, 0, 1, 0, 0], bool), np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    assert [recall_at_precision(inside, scores, p) for p in (1.0, 0.75, 0.76)] == [2 / 3, 1.0, 2 / 3]
    assert recall_at_precision(inside, np.ones(6), 0.5) == 1.0  # one score: found together, half is inside
    assert recall_at_precision(inside, np.ones(6), 0.6) == 0.0
    with pytest.raises(ValueError, match="at least one inside"):
        recall_at_precision(np.zeros(3, bool), np.ones(3), 0.5)


def test_recall_at_precision_is_the_best_point_of_the_curve():
    from sklearn.metrics import precision_recall_curve

    rng = np.random.default_rng(3)
    inside = rng.random(400) < 0.4
    scores = (inside + rng.normal(size=400)).round(1)  # with ties
    precision, recall, _ = precision_recall_curve(inside, scores)
    for wanted in (0.5, 0.7, 0.9):
        assert recall_at_precision(inside, scores, wanted) == pytest.approx(recall[precision >= wanted].max())


def test_covered_is_the_mean_over_present_classes():
    one = np.zeros((1, 4, 4), int)
    one[0, 1] = [1, 3, 0, 0]
    one[0, 2] = [2, 0, 2, 0]
    assert mean_recall(one).tolist() == [pytest.approx(100 * (0.75 + 0.5) / 2)]
    assert np.isnan(mean_recall(np.zeros((1, 4, 4), int))).all()


def test_seeing_a_perfect_map():
    sample = next(voc_samples("train", 1))
    labels = [VOC_NAMES.index(name) for name in sample.classes]
    seen = score_image(sample, np.stack([sample.truth == one for one in labels]).astype(np.float32), labels, len(VOC_NAMES))
    assert set(seen.auc) == set(seen.recall) == {1.0}
    assert seen.edges.counts[:, 3].sum() == boundary_band(sample.truth, 3).sum() < seen.whole.counts[:, 3].sum()


# -- the study --


def test_controls_are_what_they_are_named(picture):
    segmenter, rival = DiffSegmenter.from_profile("pocket"), DenseClip.from_path("pocket", shifts=1)
    sample = next(voc_samples("train", 1))
    found = score_both(segmenter, rival, sample.image, sample.classes)
    assert tuple(found) == (OURS, COARSE, CROSS, RIVAL) and set(METHODS) == set(found)
    kept = segmenter.segment(sample.image, sample.classes, return_intermediates=True).intermediates
    assert rival.grid(sample.image) == (8, 8)
    blocks = kept.completed.unflatten(1, (8, 4)).unflatten(3, (8, 4)).mean((2, 4))
    np.testing.assert_allclose(found[COARSE], upsample(blocks, sample.truth.shape).numpy(), atol=1e-5)
    np.testing.assert_allclose(found[CROSS], upsample(kept.fused, sample.truth.shape).numpy(), atol=1e-5)
    smooth = resize(rival.similarities(sample.image, sample.classes), sample.truth.shape)
    assert np.corrcoef(smooth.flatten(), found[RIVAL].flatten())[0, 1] > 0.9


def test_the_study_measures_every_method_on_the_same_images(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFSEG_CACHE", str(tmp_path))
    study = qualitative_study(DiffSegmenter.from_profile("pocket"), train_images=4, images=5)
    assert set(study.rows) == set(METHODS) and set(study.measures) == set(MEASURES)
    assert study.images == 5 and all(row.images == 5 and 0 <= row.value <= row.oracle + 1e-9 for row in study.rows.values())
    for measure, by_method in study.measures.items():
        assert 0 <= by_method[OURS].value <= 100 and by_method[OURS].ci95 is None  # five images
        effect = study.effects[f"{measure}_{OURS}_minus_{RIVAL}"]
        assert effect.value == pytest.approx(by_method[OURS].value - by_method[RIVAL].value)
        assert effect.label == f"{MEASURES[measure].label}: {METHODS[OURS]} minus {METHODS[RIVAL]}"
    assert study.measures["auc"][OURS].value > 90  # measured: 99


def test_first_with_takes_the_first_of_each_number(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFSEG_CACHE", str(tmp_path))
    opened = open_dataset("voc", split="val", limit=10)
    found = first_with(opened, (1, 2, 3, 9))
    assert [len(one.classes) for one in found] == [1, 2, 3]
    firsts = [next(one for one in opened if len(one.classes) == n) for n in (1, 2, 3)]
    assert [one.id for one in found] == [one.id for one in firsts]
    for one, first in zip(found, firsts, strict=True):
        for i, name in enumerate(first.classes, start=1):
            assert np.array_equal(one.truth == i, first.truth == opened.names.index(name))
