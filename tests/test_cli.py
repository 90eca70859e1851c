"""The command line's contract: what it writes, and one clear line for what it cannot do."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from diffseg_lib.cli.main import main


@pytest.fixture
def photo(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def segment(pipeline_folder, out, photos, *options, classes=("house", "red fish")):
    return main(["segment", *map(str, photos), "--classes", *classes, "--profile", str(pipeline_folder), "--out", str(out), *options])


def test_one_photo(pipeline_folder, photo, tmp_path):
    out = tmp_path / "out"
    assert segment(pipeline_folder, out, [photo], "--seed", "3", "--threshold", "0.6") == 0
    assert {p.name for p in out.iterdir()} == {"labels.png", "overlay.png", "segments.json", "scores.npz", "result.json"}
    scores = np.load(out / "scores.npz")["scores"]
    assert scores.shape == (2, 48, 80) and scores.min() >= 0 and scores.max() <= 1
    with Image.open(out / "labels.png") as image:
        assert image.mode == "P" and image.size == (80, 48)
        labels = np.asarray(image)
    assert np.array_equal(labels, np.where(scores.max(0) > 0.6, scores.argmax(0) + 1, 0))
    assert Image.open(out / "overlay.png").size == (80, 48)
    facts = json.loads((out / "result.json").read_text())
    assert facts["classes"] == ["house", "red fish"] and facts["threshold"] == 0.6 and facts["seed"] == 3
    assert facts["areas"]["red fish"] == pytest.approx((labels == 2).mean(), abs=1e-6)
    assert facts["seconds"] > 0 and {"torch", "diffusers", "transformers", "diffseg_lib"} <= set(facts["versions"])
    assert facts["prompts"][1] == {"text": "a photograph of a red fish", "span": [5, 6], "modifiers": []}
    assert facts["config"]["timesteps"] == [100] and facts["config"]["weights"] == {"8": 0.3, "4": 0.5, "2": 0.1, "1": 0.1}


def test_the_arithmetic_can_be_done_again_from_the_files(pipeline_folder, photo, tmp_path):
    assert segment(pipeline_folder, tmp_path, [photo], "--save-intermediates") == 0
    kept, facts = np.load(tmp_path / "intermediates.npz"), json.loads((tmp_path / "result.json").read_text())
    assert set(kept) == {"latents", "noise", "timestep", "tokens", "cross_2", "cross_4", "cross_8", "cross_16", "fused", "completed"}
    assert kept["latents"].shape == kept["noise"].shape == (1, 4, 16, 24) and kept["timestep"].tolist() == [100]
    assert [np.flatnonzero(row).tolist() for row in kept["tokens"]] == [p["span"] for p in facts["prompts"]]
    fused = np.zeros((2, 16, 24))
    for stride, weight in facts["config"]["weights"].items():
        maps = kept[f"cross_{16 // int(stride)}"]
        for k in range(2):
            grown = np.asarray(Image.fromarray(maps[k]).resize((24, 16), Image.Resampling.BILINEAR))
            fused[k] += weight * (grown - grown.min()) / (grown.max() - grown.min())
    np.testing.assert_allclose(kept["fused"], fused, atol=1e-3)


def test_several_photos_get_a_folder_each(pipeline_folder, photo, tmp_path, picture):
    Image.fromarray(picture.transpose(1, 0, 2)).save(tmp_path / "other.png")
    assert segment(pipeline_folder, tmp_path / "out", [photo, tmp_path / "other.png"]) == 0
    assert np.load(tmp_path / "out" / "photo" / "scores.npz")["scores"].shape == (2, 48, 80)
    assert np.load(tmp_path / "out" / "other" / "scores.npz")["scores"].shape == (2, 80, 48)


def test_the_same_command_writes_the_same_scores(pipeline_folder, photo, tmp_path):
    for name in ("a", "b"):
        segment(pipeline_folder, tmp_path / name, [photo])
    segment(pipeline_folder, tmp_path / "c", [photo], "--seed", "1")
    a, b, c = (np.load(tmp_path / name / "scores.npz")["scores"] for name in "abc")
    assert np.array_equal(a, b) and not np.array_equal(a, c)


def test_recipes_change_the_result(pipeline_folder, photo, tmp_path):
    for name in ("paper", "released"):
        assert segment(pipeline_folder, tmp_path / name, [photo], "--recipe", name, "--captioner", "pocket") == 0
        assert json.loads((tmp_path / name / "result.json").read_text())["recipe"] == name
    paper, released = (np.load(tmp_path / name / "scores.npz")["scores"] for name in ("paper", "released"))
    assert released.max((1, 2)).tolist() == [1, 1] and not np.allclose(paper, released)


def error(capsys) -> str:
    """The one line on standard error."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


def test_one_bad_photo_does_not_stop_the_others(pipeline_folder, photo, tmp_path, capsys):
    (tmp_path / "bad.png").write_text("no picture")
    assert segment(pipeline_folder, tmp_path / "out", [tmp_path / "bad.png", photo]) == 1
    assert "bad.png cannot be read as an image" in error(capsys)
    assert (tmp_path / "out" / "photo" / "labels.png").exists() and not (tmp_path / "out" / "bad").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ["house", "house"]}, "named more than once: house"),
        ({"classes": [""]}, "a class name is empty"),
        ({"classes": ["红"]}, "no token"),
        ({"threshold": "1.5"}, "threshold 1.5: expected a number from 0 to 1"),
        ({"seed": "-1"}, "seed -1"),
        ({"profile": "pockett"}, "did you mean pocket?"),
        ({"photo": "nowhere.png"}, "no image at nowhere.png"),
    ],
)
def test_wrong_input_is_one_line_and_exit_2(pipeline_folder, photo, tmp_path, capsys, options, message):
    profile = options.get("profile", str(pipeline_folder))
    extra = [text for name in ("threshold", "seed") if name in options for text in (f"--{name}", options[name])]
    classes = options.get("classes", ["house"])
    assert segment(profile, tmp_path / "out", [options.get("photo", photo)], *extra, classes=classes) == 2
    assert message in error(capsys)
    assert not (tmp_path / "out").exists()


def test_photos_of_one_name_and_an_output_that_is_a_file(pipeline_folder, photo, tmp_path, capsys):
    assert segment(pipeline_folder, tmp_path / "out", [photo, photo]) == 2
    assert "would overwrite each other: photo" in error(capsys)
    assert segment(pipeline_folder, photo, [photo]) == 2
    assert "photo.png" in error(capsys)


def test_a_missing_weight_file_is_named(tmp_path, photo, capsys):
    (tmp_path / "empty").mkdir()
    assert segment(tmp_path / "empty", tmp_path / "out", [photo]) == 2
    assert "config.json is missing" in error(capsys)


@pytest.mark.parametrize("arguments", [[], ["segment", "x.png", "--classes", "--out", "o"], ["segment", "x.png", "--classes", "a"]])
def test_a_command_line_that_is_not_complete(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2 and "error:" in capsys.readouterr().err


def test_the_process_returns_the_code(tmp_path):
    command = [sys.executable, "-m", "diffseg_lib", "segment", "x.png", "--classes", "fish", "--profile", "nowhere", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: unknown profile 'nowhere'") and "Traceback" not in done.stderr


def test_a_folder_is_segmented_picture_by_picture(pipeline_folder, picture, tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("b.png", "a.JPG"):
        Image.fromarray(picture).save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    command = ["segment", str(folder), "--classes", "house", "--profile", str(pipeline_folder), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "b"]
    (tmp_path / "none").mkdir()
    assert main([*command[:1], str(tmp_path / "none"), *command[2:]]) == 2
    assert "has no picture in it" in capsys.readouterr().err


def test_segments_are_cocos_and_draw_the_labels_again(pipeline_folder, picture, tmp_path):
    from pycocotools import mask as runs

    Image.fromarray(picture).save(tmp_path / "photo.png")
    classes = ["house", "red fish", "ein großes Haus"]
    assert main(["segment", str(tmp_path / "photo.png"), "--classes", *classes, "--profile", str(pipeline_folder), "--out", str(tmp_path / "out")]) == 0
    with Image.open(tmp_path / "out" / "labels.png") as image:
        labels = np.asarray(image)
    drawn = np.zeros_like(labels)
    for one in json.loads((tmp_path / "out" / "segments.json").read_text()):
        inside = runs.decode(one["segmentation"]).astype(bool)
        assert one["area"] == inside.sum() and one["category"] == classes[one["category_id"] - 1]
        drawn[inside] = one["category_id"]
    assert np.array_equal(drawn, labels)


@pytest.mark.parametrize("size, said", [((900, 700), "smaller things"), ((20, 24), "less detail"), ((64, 80), "")])
def test_a_picture_of_a_far_size_is_resized_and_said(pipeline_folder, tmp_path, size, said):
    noise = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")
    assert main(["segment", str(tmp_path / "photo.png"), "--classes", "house", "--profile", str(pipeline_folder), "--out", str(tmp_path / "out")]) == 0
    facts = json.loads((tmp_path / "out" / "result.json").read_text())
    assert facts["size"] == list(size) and (said in " ".join(facts["notes"]) if said else facts["notes"] == [])


def test_the_pocket_models_say_that_they_know_only_their_world(tmp_path, capsys):
    photo = "data/pocket/samples/house-fish-umbrella.jpg"
    from diffseg_lib.support.paths import repository_root

    assert main(["segment", str(repository_root() / photo), "--classes", "house", "--out", str(tmp_path)]) == 0
    assert "know only the world they were trained on" in capsys.readouterr().err


def test_words_of_any_kind_are_taken_or_refused_with_the_reason(pipeline_folder, photo, tmp_path, capsys):
    assert segment(pipeline_folder, tmp_path / "words", [photo], classes=["a red house", "café", "größe"]) == 0
    written = json.loads((tmp_path / "words" / "result.json").read_text())
    assert written["classes"] == ["a red house", "café", "größe"] and written["prompts"][0]["text"] == "a photograph of a red house"
    assert segment(pipeline_folder, tmp_path / "long", [photo], classes=["a very long description of a house " * 5]) == 2
    assert "the model reads 24: shorten the class name" in capsys.readouterr().err
