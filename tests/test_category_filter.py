"""The category filter: what a caption names, what CLIP sees, their union, and why each class was kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffseg_lib.category_filter import CategoryFilter, nouns, precision_recall
from diffseg_lib.pocket.scenes import voc_samples
from diffseg_lib.pocket.world import CLASS_NAMES

IMAGE = np.zeros((8, 8, 3), np.uint8)
AXES = {"house": (1, 0, 0), "cottage": (0.9, 0.436, 0), "fish": (0, 1, 0), "potted plant": (0, 0, 1)}


class Says:
    def __init__(self, text):
        self.text = text

    def caption(self, pictures):
        return [self.text] * len(pictures)


class Sees:
    """Text embeddings by table (anything else lies between the axes), image scores as given."""

    def __init__(self, **scores):
        self.scores = scores

    def texts(self, names):
        return torch.tensor([AXES.get(name, (0.577, 0.577, 0.577)) for name in names])

    def similarities(self, pictures, names):
        return np.array([[self.scores.get(name.replace(" ", "_"), -0.5) for name in names]] * len(pictures))


def kept(caption, names=("house", "fish", "potted plant"), scores=None, **settings):
    return CategoryFilter(tuple(names), Says(caption), Sees(**(scores or {"fish": 0.01})), **settings).filter(IMAGE)


def test_a_caption_names_classes_by_lemma_synonym_and_similarity():
    assert kept("two red houses on grass", sources="caption").names == ("house",)
    assert kept("a potted plant on a table", sources="caption").names == ("potted plant",)
    assert kept("a houseplant", sources="caption").names == ("potted plant",)  # of the table of synonyms
    near = kept("a cottage by the sea", sources="caption")
    assert near.names == ("house",) and "similarity 0.90" in near.kept[0].why
    assert kept("a cottage by the sea", sources="caption", text_similarity_threshold=0.95).names == ()


def test_words_that_name_nothing_keep_nothing():
    empty = kept("", sources="caption")
    assert empty.names == () and empty.caption == ""
    assert nouns("of the and two") == []


def test_clip_keeps_relative_to_the_best_class():
    scores = {"house": 0.30, "fish": 0.295, "potted_plant": 0.1}
    assert kept("", scores=scores, sources="clip").names == ("house", "fish")
    assert kept("", scores=scores, sources="clip", relative_clip_threshold=0.99).names == ("house",)
    assert kept("", scores=scores, sources="clip", relative_clip_threshold=0.3).names == ("house", "fish", "potted plant")


def test_clip_always_keeps_its_best_class_and_negative_scores_keep_none():
    assert kept("", scores={"fish": 0.2}, sources="clip", relative_clip_threshold=1.0).names == ("fish",)
    assert kept("", scores={"fish": -0.2}, sources="clip").names == ()


def test_the_union_gives_every_reason():
    found = kept("a house", scores={"house": 0.3, "fish": 0.3})
    assert found.names == ("house", "fish")
    why = {one.name: one.why for one in found.kept}
    assert "caption says “house”" in why["house"] and "CLIP scores 1.00" in why["house"]
    assert why["fish"] == "CLIP scores 1.00 of the best class"


@pytest.mark.parametrize("wrong", [{"text_similarity_threshold": 1.2}, {"relative_clip_threshold": -0.1}, {"sources": "both"}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        kept("a house", **wrong)


def test_no_names_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        CategoryFilter((), Says(""), Sees())


def test_precision_and_recall_of_nothing():
    assert precision_recall([[]], [["cat"]]) == (0.0, 0.0)


def test_on_pocket_scenes_most_words_are_right():
    category_filter, samples = CategoryFilter.load(CLASS_NAMES), list(voc_samples("train", 20))
    precision, recall = precision_recall([category_filter.filter(s.image).names for s in samples], [s.classes for s in samples])
    assert precision > 0.7 and recall > 0.7


def test_class_names_are_encoded_once_a_filter(monkeypatch):
    category_filter, samples = CategoryFilter.load(CLASS_NAMES), list(voc_samples("train", 3))
    first = [category_filter.filter(sample.image) for sample in samples]
    batches = []
    model = category_filter.clip.model
    inner = model.get_text_features
    monkeypatch.setattr(model, "get_text_features", lambda **coded: batches.append(len(coded["input_ids"])) or inner(**coded))
    fresh = CategoryFilter(CLASS_NAMES, category_filter.captioner, type(category_filter.clip)(model, category_filter.clip.processor))
    assert [fresh.filter(sample.image) for sample in samples] == first
    assert batches.count(len(CLASS_NAMES)) == 1 and len(batches) <= 1 + len(samples)
