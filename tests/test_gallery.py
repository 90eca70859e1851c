"""A folder of photos through all stages, one scene by several lists of words, the cell that words share, and the mistakes of masks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from diffseg_lib.experiments.asking import ask
from diffseg_lib.experiments.gallery import look, open_gallery, words_of
from diffseg_lib.experiments.layers import sink
from diffseg_lib.experiments.mistakes import KINDS, kinds_of_errors, mistakes, most_of_each
from diffseg_lib.pocket.scenes import photo_or_scene
from diffseg_lib.pocket.world import CLASS_NAMES
from diffseg_lib.segmenter import DiffSegmenter
from diffseg_lib.support.images import ImageError


@pytest.fixture(scope="module")
def segmenter():
    return DiffSegmenter.from_profile("pocket")


class Says:
    """A captioner of one sentence."""

    def __init__(self, sentence):
        self.sentence = sentence

    def caption(self, pictures):
        return [self.sentence for _ in pictures]


def test_a_folder_s_first_photos_by_name_are_opened(tmp_path):
    for name in ("b.png", "a.jpg", "c.png"):
        Image.new("RGB", (20, 10), "red").save(tmp_path / name)
    found = open_gallery(str(tmp_path), 2)
    assert [one.id for one in found] == ["a.jpg", "b.png"] and found[0].image.shape == (10, 20, 3) and (found[0].truth == 255).all()
    assert [one.id for one in open_gallery("", 2, 5)] == ["test scene 5", "test scene 6"]


def test_what_cannot_be_opened_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no folder: expected one with photos"):
        open_gallery(str(tmp_path / "nowhere"))
    with pytest.raises(ImageError, match="no picture in it"):
        open_gallery(str(tmp_path))
    with pytest.raises(ValueError, match="expected at least one"):
        open_gallery("", 0)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"broken\.png"):
        open_gallery(str(tmp_path))


def test_words_are_those_of_the_caption_that_the_model_knows(segmenter):
    assert words_of("a photograph of two red houses and a zeppelin on grass", segmenter) == ["house", "grass"]
    assert words_of("a house, a fish, a cat, a car and a boat", segmenter) == ["house", "fish", "cat", "car"]


def test_every_stage_of_a_photo_is_kept(segmenter):
    sample = photo_or_scene(index=22)
    shown = look(segmenter, Says("a photograph of a house and a fish"), sample)
    assert shown.sample.classes == ("house", "fish") and shown.word == "house" and list(shown.areas) == ["house", "fish"]
    assert list(shown.stages)[-2:] == ["fused", "completed"] and [one.shape[0] for one in list(shown.stages.values())[:4]] == [4, 8, 16, 32]
    assert (shown.labels == segmenter.segment(sample.image, ["house", "fish"]).labels).all()
    given = look(segmenter, Says("never asked"), sample, ["fish"])
    assert given.caption == "" and given.sample.classes == ("fish",)
    nothing = look(segmenter, Says("a photograph of a zeppelin"), sample)
    assert nothing.sample.classes == () and nothing.stages == {} and not nothing.labels.any()


def test_a_scene_is_asked_for_by_three_lists_whose_true_words_have_the_same_maps(segmenter):
    sample = photo_or_scene(index=22)
    true, wrong, whole = (asked := ask(segmenter, sample, CLASS_NAMES, seed=3)).values()
    assert true.words == ("house", "fish") and wrong.words[:2] == true.words and wrong.words[2] not in true.words and sorted(whole.words) == sorted(CLASS_NAMES)
    assert all("mean IoU" in title for title in asked) and ask(segmenter, sample, CLASS_NAMES, seed=3).keys() == asked.keys()
    assert np.allclose(true.maps["house"], wrong.maps["house"], atol=1e-4)
    with pytest.raises(ValueError, match="all 2 words are in the picture"):
        ask(segmenter, sample, ["fish", "house"])


def test_the_cell_that_most_words_light_is_counted(segmenter, monkeypatch):
    image = photo_or_scene(index=22).image
    told, of = sink(segmenter, image, CLASS_NAMES, 100).split(" of ")
    assert 1 <= int(told) <= int(of) == len(CLASS_NAMES)


def test_mistakes_are_sorted_by_kind():
    truth = np.zeros((40, 40), np.uint8)
    truth[10:30, 10:30] = 1
    masks = {"a": truth.copy(), "b": truth.copy(), "c": truth.copy(), "d": truth.copy()}
    masks["a"][10:30, 10] = 0  # a column at the edge
    masks["b"][18:22, 18:22] = 0
    masks["c"][0:4, 0:4] = 1
    masks["d"][18:22, 18:22] = 2

    class Set:
        def __init__(self, held):
            self.held, self.ids = held, list(held)

        def load(self, name):
            return replace(photo_or_scene(index=0), truth=self.held[name])

    for name, kind, pixels in zip(masks, KINDS, (20, 16, 16, 16), strict=True):
        found = kinds_of_errors(Set({name: truth}), Set({name: masks[name]}))
        assert {key: round(one.value * 16) for key, one in found.items()} == {key: pixels if key == kind else 0 for key in KINDS}
    assert most_of_each(Set(dict.fromkeys(masks, truth)), Set(masks)) == dict(zip(KINDS, masks, strict=True))
    assert most_of_each(Set({"a": truth}), Set({"a": truth})) == {}
    unsure = np.where(masks["c"] != truth, 255, masks["c"])
    assert not any(one.any() for one in mistakes(truth, unsure).values()) and not any(one.any() for one in mistakes(np.full_like(truth, 255), truth).values())
