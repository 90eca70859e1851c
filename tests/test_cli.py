"""The command line's contract: what it writes, and one clear line for what it cannot do."""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image

from diffseg_lib.category_filter import FilterResult
from diffseg_lib.cli import options
from diffseg_lib.cli.exits import Exit, guarded
from diffseg_lib.cli.main import COMMANDS, main, make_parser
from diffseg_lib.support.files import RunError

ROOT = Path(__file__).parent.parent


@pytest.fixture
def photo(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def segment(pipeline_folder, out, photos, *options, classes=("house", "red fish")):
    return main(["segment", *map(str, photos), "--classes", *classes, "--profile", str(pipeline_folder), "--out", str(out), *options])


def test_one_photo(pipeline_folder, photo, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "intermediates.npz").write_text("of an earlier photo")
    assert segment(pipeline_folder, out, [photo], "--seed", "3", "--threshold", "0.6", "--scores", "full") == 0
    assert {p.name for p in out.iterdir()} == {"labels.png", "overlay.png", "segments.json", "scores.npz", "result.json"}
    scores = np.load(out / "scores.npz")["scores"]
    assert scores.shape == (2, 48, 80) and scores.min() >= 0 and scores.max() <= 1
    with Image.open(out / "labels.png") as image:
        assert image.mode == "P" and image.size == (80, 48)
        labels = np.asarray(image)
    clear = (np.abs(scores.max(0) - 0.6) > 1e-3) & (np.abs(scores[0] - scores[1]) > 1e-3)  # half precision rounds
    assert np.array_equal(labels[clear], np.where(scores.max(0) > 0.6, scores.argmax(0) + 1, 0)[clear]) and clear.mean() > 0.9
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
    assert np.load(tmp_path / "out" / "photo" / "scores.npz")["scores"].shape == (2, 16, 24)
    assert np.load(tmp_path / "out" / "other" / "scores.npz")["scores"].shape == (2, 24, 16)


def test_the_same_command_writes_the_same_scores(pipeline_folder, photo, tmp_path):
    for name in ("a", "b"):
        segment(pipeline_folder, tmp_path / name, [photo])
    segment(pipeline_folder, tmp_path / "c", [photo], "--seed", "1")
    a, b, c = (np.load(tmp_path / name / "scores.npz")["scores"] for name in "abc")
    assert np.array_equal(a, b) and not np.array_equal(a, c)


@pytest.mark.parametrize(("which", "shape"), [("model", (2, 16, 24)), ("full", (2, 48, 80)), ("none", None)])
def test_scores_are_written_at_the_size_asked_for_and_give_the_labels(pipeline_folder, photo, tmp_path, which, shape):
    import torch

    from diffseg_lib.scoremaps import resize

    (tmp_path / "scores.npz").write_text("of an earlier photo")
    assert segment(pipeline_folder, tmp_path, [photo], "--scores", which) == 0
    facts = json.loads((tmp_path / "result.json").read_text())
    assert (tmp_path / "scores.npz").exists() == (shape is not None) == ("scores" in facts)
    if shape is None:
        return
    kept = np.load(tmp_path / "scores.npz")
    assert kept["scores"].shape == shape and kept["scores"].dtype == np.float16 and kept["size"].tolist() == [48, 80]
    grown = resize(torch.from_numpy(kept["scores"].astype(np.float32)), (48, 80)).numpy()
    best = grown.max(0)
    clear = (np.abs(best - facts["threshold"]) > 2e-3) & (np.abs(grown[0] - grown[1]) > 2e-3)
    labels = np.where(best > facts["threshold"], grown.argmax(0) + 1, 0)
    assert clear.mean() > 0.9 and np.array_equal(labels[clear], np.asarray(Image.open(tmp_path / "labels.png"))[clear])


def test_recipes_change_the_result(pipeline_folder, photo, tmp_path):
    for name in ("paper", "released"):
        assert segment(pipeline_folder, tmp_path / name, [photo], "--recipe", name, "--captioner", "pocket") == 0
        assert json.loads((tmp_path / name / "result.json").read_text())["recipe"] == name
    paper, released = (np.load(tmp_path / name / "scores.npz")["scores"] for name in ("paper", "released"))
    assert released.shape == (2, 16, 24) and not np.allclose(paper, released)


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


def test_a_photo_given_twice_and_an_output_that_is_a_file(pipeline_folder, photo, tmp_path, capsys):
    assert segment(pipeline_folder, tmp_path / "out", [photo, photo]) == 2
    assert "given twice, whose results would overwrite each other" in error(capsys)
    assert segment(pipeline_folder, photo, [photo]) == 2
    assert "photo.png" in error(capsys)


def test_a_missing_weight_file_is_named(tmp_path, photo, capsys):
    (tmp_path / "empty").mkdir()
    assert segment(tmp_path / "empty", tmp_path / "out", [photo]) == 2
    assert "config.json is missing" in error(capsys)


@pytest.mark.parametrize("arguments", [[], ["segment", "x.png", "--classes", "--out", "o"], ["segment", "x.png", "--out", "o"]])
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


def test_photos_of_one_stem_get_folders_of_their_own_and_what_is_not_taken_is_named(pipeline_folder, picture, tmp_path, capsys):
    folder = tmp_path / "photos"
    for name in ("a.jpg", "a.png", "b.avif", "inner/a.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / name)
    for name in ("logo.svg", "IMG_1.CR2", "._a.jpg"):
        (folder / name).write_text("no pixels")
    options = ["--classes", "house", "--profile", str(pipeline_folder), "--out", str(tmp_path / "out")]
    assert main(["segment", str(folder), *options]) == 1
    said = capsys.readouterr().err
    assert "logo.svg is not taken: it is a drawing" in said and "IMG_1.CR2 is not taken: it is a camera's raw file" in said
    assert "inner is a folder inside a given one" in said and "._a" not in said
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.jpg", "a.png", "b"]
    assert main(["segment", *(str(folder / name) for name in ("a.jpg", "inner/a.jpg")), *options]) == 0
    assert (tmp_path / "out" / "inner" / "a.jpg" / "result.json").exists()


def test_the_filter_drops_words_that_are_not_in_the_picture_and_says_why(tmp_path, capsys):
    from diffseg_lib.support.paths import repository_root

    photo = repository_root() / "data/pocket/samples/house-car.jpg"
    words = ["umbrella", "house", "fish", "car"]
    assert main(["segment", str(photo), "--classes", *words, "--filter", "--scores", "full", "--out", str(tmp_path)]) == 0
    facts, labels = json.loads((tmp_path / "result.json").read_text()), np.asarray(Image.open(tmp_path / "labels.png"))
    assert facts["classes"] == words and set(facts["filter"]["kept"]) | set(facts["filter"]["dropped"]) == set(words)
    assert "car" in facts["filter"]["kept"] and {"umbrella", "fish"} <= set(facts["filter"]["dropped"]), facts["filter"]
    told = capsys.readouterr().out
    for name, why in facts["filter"]["dropped"].items():
        assert facts["areas"][name] == 0 and "of the best word, below" in why and f"no {name}: {why}" in told and f"no {name}: {why}" in facts["notes"]
    assert {words[i - 1] for i in set(labels.reshape(-1).tolist()) - {0}} <= set(facts["filter"]["kept"]) and (labels == 4).any()
    assert np.load(tmp_path / "scores.npz")["scores"].shape == (4, *labels.shape)


def test_a_word_that_may_not_be_in_the_picture_is_noted(tmp_path, capsys):
    from diffseg_lib.support.paths import repository_root

    photo = repository_root() / "data/pocket/samples/house-car.jpg"
    assert main(["segment", str(photo), "--classes", "house", "car", "cat", "--out", str(tmp_path)]) == 0
    notes = [note for note in json.loads((tmp_path / "result.json").read_text())["notes"] if note.startswith("perhaps no ")]
    assert len(notes) == 1 and notes[0].startswith("perhaps no cat: CLIP scores it -") and "--filter asks first" in notes[0]
    assert notes[0] in capsys.readouterr().out
    assert main(["segment", str(photo), "--classes", "house", "car", "cat", "--no-doubts", "--out", str(tmp_path)]) == 0
    assert "perhaps no " not in (tmp_path / "result.json").read_text()


def test_with_no_word_left_all_is_background(pipeline_folder, photo, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("diffseg_lib.category_filter.CategoryFilter.filter", lambda self, _: FilterResult("nothing", (), dict.fromkeys(self.names, -0.1)))
    assert segment(pipeline_folder, tmp_path / "out", [photo], "--filter", "--captioner", "pocket", "--clip", "pocket") == 0
    assert "none of the words is in the picture: all is background" in capsys.readouterr().out
    assert np.asarray(Image.open(tmp_path / "out" / "labels.png")).max() == 0


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


def test_the_prompts_that_were_used_are_recorded_captions_included(pipeline_folder, photo, tmp_path):
    assert segment(pipeline_folder, tmp_path, [photo], "--recipe", "released", "--captioner", "pocket", classes=["house", "fish"]) == 0
    told = [one["text"] for one in json.loads((tmp_path / "result.json").read_text())["prompts"]]
    bare = ["a photograph of house", "a photograph of fish"]
    assert told != bare and all(one.startswith(start) for one, start in zip(told, bare, strict=True))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_writes_all_its_files(pipeline_folder, photo, tmp_path, dtype):
    for name in (dtype, "float32"):
        assert segment(pipeline_folder, tmp_path / name, [photo], "--dtype", name, "--save-intermediates") == 0
    half, whole = (np.load(tmp_path / name / "intermediates.npz") for name in (dtype, "float32"))
    assert set(half) == set(whole) and all(half[name].dtype == np.float32 for name in half if name != "timestep")
    np.testing.assert_allclose(half["latents"], whole["latents"], atol=0.1)
    assert json.loads((tmp_path / dtype / "result.json").read_text())["classes"] == ["house", "red fish"]


def test_what_cannot_be_computed_leaves_no_file_and_what_cannot_be_written_no_result(pipeline_folder, photo, tmp_path, monkeypatch, capsys):
    from diffseg_lib.cli import results

    inner = results.to_numpy
    with monkeypatch.context() as patch:
        patch.setattr(results, "to_numpy", lambda tensor: inner(tensor) if tensor.ndim == 4 else 1 / 0)
        assert segment(pipeline_folder, tmp_path / "out", [photo], "--save-intermediates") == 70
        assert not (tmp_path / "out").exists()
    assert segment(pipeline_folder, tmp_path / "out", [photo]) == 0

    def full(file, **arrays):
        raise OSError("no space left")

    monkeypatch.setattr(results.np, "savez_compressed", full)
    assert segment(pipeline_folder, tmp_path / "out", [photo], "--seed", "1") == 2
    assert "no space left" in capsys.readouterr().err
    assert {one.name for one in (tmp_path / "out").iterdir()} == {"labels.png", "overlay.png", "segments.json"}  # whole, but of no result


# -- help pages ----------------------------------------------------------------------------------


def leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parsers of the commands that do something."""
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not inner:
        yield parser
    for action in inner:
        for one in action.choices.values():
            yield from leaves(one)


LEAVES = {one.prog: one for one in leaves(make_parser())}


def examples(parser: argparse.ArgumentParser) -> list[list[str]]:
    """The command lines below a help page, without the program's name."""
    lines = parser.epilog.removeprefix("example:\n").replace("\\\n", " ")
    return [shlex.split(line, comments=True)[1:] for line in lines.splitlines()]


@pytest.mark.parametrize("name", LEAVES)
def test_a_help_page_has_a_paragraph_sentences_and_an_example_that_can_be_read(name):
    parser = LEAVES[name]
    text = parser.format_help()
    assert len(parser.description.split()) >= 8 and max(map(len, text.splitlines())) <= 160
    for action in parser._actions:
        if not isinstance(action, argparse._HelpAction):
            assert action.help and action.help[0].isupper() and action.help.endswith("."), action
    for words in examples(parser):
        assert make_parser().parse_args(words).run == parser.get_default("run") or "book" in name


def test_every_command_is_reached_and_the_first_page_names_it():
    page = make_parser().format_help()
    assert {name.split()[1] for name in LEAVES} == set(COMMANDS) and all(f"    {name} " in page for name in COMMANDS)
    assert all(f"{int(code)}  " in page for code in Exit)


def test_the_readme_tells_the_exit_codes():
    told = " ".join((ROOT / "README.md").read_text().split()).partition("Exit codes: ")[2].partition(". Ctrl-C")[0]
    assert {int(number) for number in re.findall(r"(?:^|, )(\d+) ", told)} == {int(code) for code in Exit}


def test_shared_options_are_declared_in_one_place():
    again = []
    for path in sorted((ROOT / "diffseg_lib").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument" and node.args:
                first = node.args[0]
                again += [f"{path.name}: {first.value}"] if isinstance(first, ast.Constant) and first.value in options.SHARED else []
    assert again == []
    with pytest.raises(TypeError, match="one option"):
        options.share(argparse.ArgumentParser(), "--seed", "--out", required=True)


def test_choices_that_are_written_out_are_those_of_the_modules_they_name():
    from diffseg_lib.applications.crf import PRESETS
    from diffseg_lib.applications.deeplab import NETS, POCKET, Recipe
    from diffseg_lib.cli import network, pocket, pseudo
    from diffseg_lib.config import RECIPES
    from diffseg_lib.pocket.layouts import LAYOUTS
    from diffseg_lib.pocket.training.measure import MEASURES
    from diffseg_lib.pocket.world import SPLITS

    assert (tuple(PRESETS), tuple(NETS), tuple(RECIPES)) == (pseudo.CRFS, network.NETS, options.RECIPES)
    assert (tuple(LAYOUTS), tuple(SPLITS), set(MEASURES)) == (pocket.LAYOUTS, pocket.SPLITS, set(pocket.MEASURES))
    page = LEAVES["diffseg network train"].format_help()
    for field in ("iterations", "batch", "crop"):
        told = f"{getattr(POCKET, field):,} for small and {getattr(Recipe(), field):,} for 101"
        assert told in " ".join(page.split()), field


def test_several_negative_and_yaml_values_are_read():
    o = make_parser().parse_args(["segment", "a.png", "b.png", "--classes", "house", "red fish", "--seed", "-1", "--out", "o"])
    assert (o.photos, o.classes, o.seed) == ([Path("a.png"), Path("b.png")], ["house", "red fish"], -1)
    o = make_parser().parse_args(["book", "run", "x", "-p", "seed", "-3", "-p", "threshold", "-.5", "-y", "classes: [house, fish]"])
    assert o.p == [["seed", "-3"], ["threshold", "-.5"]] and o.y == "classes: [house, fish]"
    for name in ("--sure", "--min-confidence"):
        assert make_parser().parse_args(["pseudo", name, "0.6", "--out", "o"]).min_confidence == 0.6


def test_help_and_completion_load_no_model_library():
    start = "import sys; from diffseg_lib.cli.main import make_parser; make_parser(); print([m for m in ('torch', 'pandas', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", start], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_shell_completes_commands_and_options(tmp_path):
    def completed(line: str) -> set[str]:
        found = tmp_path / "found"
        shell = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_STDOUT_FILENAME": str(found), "_ARGCOMPLETE_IFS": "|"}
        start = "import sys; from diffseg_lib.cli.main import program; sys.exit(program())"
        subprocess.run([sys.executable, "-c", start], env=os.environ | shell, check=True, timeout=120)
        return {word.strip() for word in found.read_text().split("|")}

    assert completed("diffseg se") == {"segment"}
    assert {"--device", "--dtype", "--dataset"} <= completed("diffseg evaluate --d")
    assert {"run", "check", "build", "refresh", "sweep", "figures"} <= completed("diffseg book ")


# -- what the pages of the project tell a reader to type -----------------------------------------

PAGES = ("README.md", "real.md", "intro.md", *(f"data/pocket/models/{name}/README.md" for name in ("diffusion", "clip", "blip")))
ALIASES = {
    "diffseg_lib": [],
    "diffseg_lib.book": ["book"],
    "diffseg_lib.pocket": ["pocket"],
    "diffseg_lib.studies": ["study"],
    "diffseg_lib.deeplab": ["network"],
}


def told_commands() -> list[str]:
    """Command lines of the project's pages and chapters that call a module of Python: in blocks for a shell, and between backquotes."""
    found = []
    prose = [cell.source for path in sorted((ROOT / "notebooks").glob("*.ipynb")) for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown"]
    for text in [*((ROOT / page).read_text() for page in PAGES), *prose]:
        for i, part in enumerate(text.split("```")):
            lines = part.removeprefix("bash").replace("\\\n", " ").splitlines() if i % 2 else part.replace("\n", " ").split("`")[1::2]
            found += [line.strip() for line in lines if "python -m " in line or "launch -m " in line]
    return list(dict.fromkeys(found))


def module_of(line: str) -> tuple[str, list[str]]:
    """The module of a command line, and what follows it."""
    words = shlex.split(line, comments=True)
    place = words.index("-m") + 1
    return words[place], words[place + 1 :]


def test_the_pages_name_every_form():
    modules = {module_of(line)[0] for line in told_commands()}
    assert {"diffseg_lib", "diffseg_lib.book", "diffseg_lib.studies", "diffseg_lib.deeplab", "benchmarks"} <= modules
    assert len(told_commands()) > 25


@pytest.mark.parametrize("line", told_commands())
def test_what_the_pages_tell_to_type_can_be_read(line):
    module, words = module_of(line)
    if module == "benchmarks":
        return  # its help page is asked for below
    if "..." not in words:
        assert callable(make_parser().parse_args([*ALIASES[module], *words]).run)


FORMS = [("diffseg_lib", name) for name in ("segment", "explore", "evaluate", "check", "pseudo", "edit", "network", "study", "claims", "book", "pocket")] + [
    *(("diffseg_lib.book", name) for name in ("run", "check", "build", "refresh", "sweep")),
    *(("diffseg_lib.deeplab", name) for name in ("train", "test")),
    ("diffseg_lib.pocket", "write"),
    ("diffseg_lib.studies", ""),
    ("benchmarks", ""),
]


@pytest.mark.parametrize(("module", "command"), FORMS, ids=[" ".join(form) for form in FORMS])
def test_every_form_starts(module, command):
    done = subprocess.run([sys.executable, "-m", module, *command.split(), "--help"], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0 and done.stdout.startswith("usage: ") and done.stderr == ""


def test_the_first_command_of_the_readme_runs_as_it_is_written(tmp_path):
    line = next(line for line in told_commands() if " segment " in line)
    module, words = module_of(line)
    words[words.index("--out") + 1] = str(tmp_path / "found")
    done = subprocess.run([sys.executable, "-m", module, *words], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    written = {path.name for path in (tmp_path / "found").iterdir()}
    assert written == {"labels.png", "overlay.png", "segments.json", "scores.npz", "result.json"} and all(
        name in (ROOT / "README.md").read_text() for name in written
    )


def test_the_ledger_is_printed_and_written(tmp_path, capsys):
    import shutil

    shutil.copytree(ROOT / "data" / "results" / "pocket", tmp_path / "pocket")
    assert main(["claims", "--results", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "reproduced" in told and "Cross-attention alone localises the words" in told and not (tmp_path / "claims.json").exists()
    assert main(["claims", "--results", str(tmp_path), "--write"]) == 0
    assert len(json.loads((tmp_path / "claims.json").read_text())) == len(told.splitlines()) - 1


# -- how commands end ----------------------------------------------------------------------------


def raising(error: BaseException):
    def work() -> int:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (ValueError("threshold 7: expected\n less"), Exit.WRONG_REQUEST, "error: threshold 7: expected less\n"),
        (FileNotFoundError("no image at x.png"), Exit.WRONG_REQUEST, "error: no image at x.png\n"),
        (RunError("out cannot be written"), Exit.NOT_KEPT, "error: out cannot be written\n"),
        (ModuleNotFoundError("No module named 'papermill'", name="papermill"), Exit.WRONG_REQUEST, "error: the package papermill is not installed"),
        (MemoryError(), Exit.WRONG_REQUEST, "error: out of memory"),
        (KeyboardInterrupt(), Exit.INTERRUPTED, "interrupted: rows are kept; the command to go on is\n  diffseg x\n"),
    ],
    ids=lambda one: type(one).__name__,
)
def test_what_escapes_a_command_is_one_sentence_and_a_code(capsys, error, code, told):
    assert guarded(raising(error), "diffseg x", "rows are kept") == code
    assert capsys.readouterr().err.startswith(told)
    assert guarded(lambda: 1, "diffseg x") == 1


@pytest.mark.parametrize("error", [KeyError("lost"), RuntimeError("shape"), AssertionError(), ModuleNotFoundError("x", name="diffseg_lib.attention")])
def test_a_fault_of_ours_ends_in_70_and_leaves_its_traceback(tmp_path, monkeypatch, capsys, error):
    monkeypatch.setenv("DIFFSEG_CACHE", str(tmp_path))
    monkeypatch.setattr("diffseg_lib.evaluation.preflight.check", lambda *given: raising(error)())
    assert main(["check"]) == 70
    [log] = (tmp_path / "logs").glob("*.log")
    told = capsys.readouterr().err
    assert told.startswith("error: a fault of this program") and told.count("\n") == 1 and str(log) in told and type(error).__name__ in told
    kept = log.read_text()
    assert "Traceback" in kept and "diffseg_lib check" in kept and "torch" in kept


def test_a_fault_whose_log_cannot_be_written_still_ends_in_70(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DIFFSEG_CACHE", str(tmp_path / "file"))
    assert guarded(raising(KeyError("lost")), "diffseg x") == 70
    assert "KeyError" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta:"])
def test_a_device_that_is_not_here_is_refused(pipeline_folder, photo, tmp_path, capsys, device):
    assert segment(pipeline_folder, tmp_path / "out", [photo], "--device", device) == 2
    assert f"device {device!r} cannot be used" in error(capsys)


# -- Ctrl-C --------------------------------------------------------------------------------------

LONG = 60.0  # seconds that none of these may take, on a machine that does other work too


def interrupted(command: list[str], ready, cwd: Path = ROOT, sent: int = signal.SIGINT) -> tuple[int, str, float]:
    """Start a command, send it a signal once it is ready; its exit code, its standard error, and the seconds from signal to end."""
    heard = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"  # though we may be deaf to it
    with subprocess.Popen([sys.executable, "-c", heard, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd) as process:
        try:
            started = time.monotonic()
            while not ready():
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() - started < 10 * LONG, "it never was ready"
                time.sleep(0.05)
            process.send_signal(sent)
            started = time.monotonic()
            _, told = process.communicate(timeout=LONG)
        finally:
            process.kill()
    return process.returncode, told, time.monotonic() - started


@pytest.mark.parametrize(
    "work",
    [
        "time.sleep(1000)",
        "threading.Thread(target=time.sleep, args=(1000,)).start(); time.sleep(1000)",  # a thread that would hold the process
        "[deaf() for _ in iter(int, 1)]",  # a library that swallows the interruption
        "[Dropped() and None for _ in iter(int, 1)]",  # it comes while an object is dropped, where Python can only print it
    ],
    ids=["waits", "thread", "swallowed", "dropped"],
)
def test_an_interruption_ends_the_process_whatever_holds_it(tmp_path, work):
    script = tmp_path / "long.py"
    script.write_text(
        "import sys, threading, time\nfrom pathlib import Path\nfrom diffseg_lib.cli.exits import guarded\n"
        "def deaf():\n    try:\n        time.sleep(1)\n    except KeyboardInterrupt:\n        pass\n"
        "class Dropped:\n    def __del__(self):\n        time.sleep(1)\n"
        f"def work():\n    Path({str(tmp_path / 'ready')!r}).touch()\n    {work}\n    return 0\n"
        "sys.exit(guarded(work, 'diffseg again', 'rows are kept', bounded=True))\n"
    )
    code, told, seconds = interrupted([sys.executable, str(script)], (tmp_path / "ready").exists)
    assert code == 130 and told == "interrupted: rows are kept; the command to go on is\n  diffseg again\n" and seconds < LONG


def test_an_evaluation_that_is_interrupted_keeps_its_rows_and_says_how_to_go_on(tmp_path):
    out = tmp_path / "my out"
    command = [sys.executable, "-m", "diffseg_lib", "evaluate", "--dataset", "voc", "--labels", "image", "--threshold", ".3", "--out", str(out)]
    code, told, _ = interrupted(command, lambda: any(time.time() - one.stat().st_mtime > 1 for one in out.glob("runs/*/manifest.json")))
    assert code == 130 and "of 500 images are kept" in told and not (out / "summary.json").exists()
    assert f"evaluate --dataset voc --labels image --threshold .3 --out '{out}'" in told


def alive(pid: int) -> bool:
    """Whether a process runs (and is not merely waited for)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks processes up in /proc")
def test_a_chapter_ends_with_the_command_that_runs_it(tmp_path, sent):
    kernel = tmp_path / "kernel"
    slow = f"import os, pathlib, time\npathlib.Path({str(kernel)!r}).write_text(f'{{os.getpid()}} {{os.getppid()}}')\ntime.sleep(1000)"
    parameters = new_code_cell("seed: int = 0  # of nothing", metadata={"tags": ["parameters"]})
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    for name, code in (("00_quick", "1"), ("01_slow", slow)):
        nbformat.write(new_notebook(cells=[parameters, new_code_cell(code)], metadata=metadata), tmp_path / f"{name}.ipynb")
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "pocket.yaml").write_text("seed: 0\n")
    script = tmp_path / "book.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom diffseg_lib.book import run\nfrom diffseg_lib.cli.main import program\n"
        f"run.notebooks_dir = lambda: Path({str(tmp_path)!r})\nsys.exit(program('book', 'run'))\n"
    )

    def ready() -> bool:  # one is done, the other under way
        return (tmp_path / "out" / "00_quick.ipynb").exists() and kernel.exists() and bool(kernel.read_text())

    code, told, _ = interrupted([sys.executable, str(script), "--out", str(tmp_path / "out")], ready, sent=sent)
    assert (tmp_path / "out" / "00_quick.ipynb").exists() and not (tmp_path / "out" / "01_slow.ipynb").exists()
    if sent == signal.SIGINT:
        assert code == 130 and f"book run --out {tmp_path / 'out'}" in told and "chapters that are done are kept" in told
    started, pids = time.monotonic(), [int(pid) for pid in kernel.read_text().split()]
    while any(map(alive, pids)):
        assert time.monotonic() - started < LONG, "the kernel goes on"
        time.sleep(0.1)
