"""CLIP and BLIP by name or path, and what they say about pocket scenes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffseg_lib import DiffSegmenter
from diffseg_lib.pocket.scenes import photo_or_scene, voc_samples
from diffseg_lib.vision_language import Captioner, Clip


@pytest.fixture(scope="module")
def captioner():
    return Captioner.load()


@pytest.fixture(scope="module")
def scene():
    return photo_or_scene("", (), 22)  # a red house and a fish


def test_a_source_that_is_not_there_says_what_was_expected(tmp_path):
    for load in (Captioner.load, Clip.load):
        with pytest.raises(FileNotFoundError, match="expected 'pocket', a folder"):
            load(tmp_path)


def test_models_load_from_a_folder_as_from_the_name(tmp_path, captioner, scene):
    captioner.model.save_pretrained(tmp_path)
    captioner.processor.save_pretrained(tmp_path)
    assert Captioner.load(tmp_path).caption([scene.image]) == captioner.caption([scene.image])


def test_continuations_leave_out_their_beginning(captioner, scene):
    beginning = "a photograph of a fish"
    [rest] = captioner.continue_captions(scene.image, [beginning])
    assert beginning not in rest and "house" in rest


def test_a_picture_is_encoded_once_and_what_is_written_is_what_the_whole_model_writes(captioner, monkeypatch):
    images = [sample.image for sample in voc_samples("train", 3)]
    beginnings = ["a photograph of a fish", "a photograph of a red house", "a photo of"]
    tokenizer, expected = captioner.processor.tokenizer, []
    for image in images:
        pixels = captioner.processor.image_processor(images=[image], return_tensors="pt").pixel_values
        written = [captioner.model.generate(pixels, max_new_tokens=captioner.length, do_sample=False, num_beams=1)]
        for beginning in beginnings:
            ids = tokenizer(beginning, return_tensors="pt").input_ids
            found = captioner.model.generate(pixels, input_ids=ids.clone(), max_new_tokens=captioner.length, do_sample=False, num_beams=1)
            written.append(found[:, ids.shape[1] - 1 :])
        expected.append([" ".join(tokenizer.decode(one[0], skip_special_tokens=True).split()) for one in written])
    calls, inner = [], captioner.model.vision_model.forward
    monkeypatch.setattr(captioner.model.vision_model, "forward", lambda *given, **named: calls.append(0) or inner(*given, **named))
    found = [captioner.caption([image]) + captioner.continue_captions(image, beginnings) for image in images]
    assert found == expected and len(calls) == 2 * len(images)


def test_a_clip_keeps_the_texts_it_read_last_and_no_more(monkeypatch):
    from diffseg_lib import vision_language

    clip, batches = Clip.load(), []
    inner = clip.model.get_text_features
    monkeypatch.setattr(clip.model, "get_text_features", lambda **coded: batches.append(len(coded["input_ids"])) or inner(**coded))
    monkeypatch.setattr(vision_language, "KEPT_LISTS", 2)
    for names in (["house", "fish"], ["cat"], ["house", "fish"], ["car"], ["house", "fish"], ["cat"]):
        assert clip.texts(names).shape[0] == len(names)
    assert batches == [2, 1, 1, 1] and len(clip._embedded) == 2
    torch.testing.assert_close(clip.texts(["cat", "car"])[1:], clip.texts(["car"]))


def test_captions_of_a_batch_are_those_of_each(captioner):
    images = [sample.image for sample in voc_samples("train", 3)]
    assert captioner.caption(images) == [captioner.caption([one])[0] for one in images]


def test_adjectives_come_from_the_free_caption(captioner, scene):
    assert captioner.describe(scene.image, ["house", "snail"]) == ["red", ""]


def test_clip_ranks_what_is_there_and_its_embeddings_are_units():
    clip, samples = Clip.load(), list(voc_samples("train", 8))
    names = ("house", "car", "fish", "cup", "tree", "cat", "flower", "butterfly")
    scores = clip.similarities([sample.image for sample in samples], names)
    assert sum(names[i] in sample.classes for i, sample in zip(scores.argmax(1), samples, strict=True)) >= 7
    assert np.allclose(clip.texts(names).norm(dim=-1), 1, atol=1e-5)


def test_prompts_of_a_picture_are_completed_and_the_class_is_found_in_them(scene):
    plain = DiffSegmenter.from_profile("pocket")
    completed = plain.with_config(caption="complete").prompts(scene.classes, scene.image)
    assert all(p.text.startswith(q.text) and p.span == q.span for p, q in zip(completed, plain.prompts(scene.classes), strict=True))
    assert any(p.text != q.text for p, q in zip(completed, plain.prompts(scene.classes), strict=True))
    described = plain.with_config(caption="phrase").prompts(["house"], scene.image)[0]
    assert described.text == "a photograph of a red house" and described.modifiers == (described.span[0] - 1,)


def test_without_a_picture_prompts_are_the_bare_template():
    bare = DiffSegmenter.from_profile("pocket", caption="complete").prompts(["house"])
    assert bare[0].text == "a photograph of a house"


def test_a_caption_without_a_captioner_is_refused(backbone):
    from diffseg_lib import Config

    with pytest.raises(ValueError, match="needs a captioner"):
        DiffSegmenter(backbone, Config(caption="complete"))
    with pytest.raises(ValueError, match="expected none, complete, phrase"):
        Config(caption="much")


def test_modifiers_change_the_map_only_where_there_are_any(scene):
    base = DiffSegmenter.from_profile("pocket", caption="phrase")
    fused = base.with_config(modifiers=True)
    one, two = (s.segment(scene.image, scene.classes).scores for s in (base, fused))
    assert not np.array_equal(one[0], two[0]) and np.array_equal(one[1], two[1])  # red house, fish
