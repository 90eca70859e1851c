"""Profiles: files of settings, revisions, folders from the environment; and that every chapter takes every profile, up to what is missing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
import yaml

from diffseg_lib.book import run as runner
from diffseg_lib.book.notebooks import code_cells
from diffseg_lib.cli.main import main
from diffseg_lib.evaluation.preflight import require
from diffseg_lib.loading import load_backbone, offload
from diffseg_lib.profiles import PAPER_WEIGHTS, Profile, is_hub_id, known_profiles, load_profile, split_revision
from diffseg_lib.segmenter import DiffSegmenter
from diffseg_lib.support.paths import profiles_dir

REAL = [name for name in known_profiles() if not name.startswith("pocket")]


def written(path: Path, **settings) -> Path:
    path.write_text(yaml.safe_dump({"profile": str(path), "settings": settings}))
    return path


def test_the_shipped_profiles_are_these():
    assert known_profiles() == ["flux", "flux2", "pixart", "pocket", "pocket-transformer", "qwen-image", "sd15", "sd21", "sd35", "sdxl"]
    for name in ("pocket", "pocket-transformer"):
        assert load_profile(name).words and load_profile(name).captioner == load_profile(name).clip == "pocket"
    for name in REAL:
        found = load_profile(name)
        assert is_hub_id(found.source) and split_revision(found.source)[1]["revision"] == "main"
        assert found.size == (512 if name in ("sd15", "sd21") else 1024)
        blocks = {"sdxl": {4: 0.5, 2: 0.5}, "sd35": {9: 1.0}, "flux": dict.fromkeys(range(15, 19), 0.25), "flux2": dict.fromkeys(range(5, 8), 0.333)}
        assert found.weights == blocks.get(name, PAPER_WEIGHTS)
        assert set(found.roots) == {"voc", "context", "object"}


@pytest.mark.parametrize("name", known_profiles())
def test_a_profile_sets_every_number_or_leaves_it_to_the_model(name):
    settings = yaml.safe_load((profiles_dir() / f"{name}.yaml").read_text())["settings"]
    expected = {one for one in Profile.__dataclass_fields__ if one not in ("name", "words", "config", "lora", "max_sequence_length")}
    expected -= {"weights"} if name in ("pixart", "qwen-image") else set()  # their blocks weigh the same
    assert set(settings) == ({"source", "roots"} if name.startswith("pocket") else expected)


def test_a_file_brings_its_settings_over_those_of_the_folder(pipeline_folder, tmp_path):
    (pipeline_folder / "profile.json").write_text(json.dumps({"threshold": 0.3, "timesteps": [7]}))
    try:
        found = load_profile(written(tmp_path / "mine.yaml", source=str(pipeline_folder), threshold=0.4, weights={"1": 1}, template="{class}"))
    finally:
        (pipeline_folder / "profile.json").unlink()
    assert (found.name, found.threshold, found.timesteps, found.weights, found.template) == ("mine", 0.4, (7,), {1: 1.0}, "{class}")
    segmenter = DiffSegmenter.from_profile(found)
    assert [p.text for p in segmenter.prompts(["fish"])] == ["fish"] and segmenter.resolved.template == "{class}"
    assert segmenter.with_config(template="a {class}").prompts(["fish"])[0].text == "a fish"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("settings: {}", "expected 'settings' with at least a 'source'"),
        ("profile: x", "expected 'settings'"),
        ("settings: {source: a/b, hue: red}", "is not a profile: unknown setting 'hue' of Profile: known: absent_clip_threshold, captioner, "),
        ("settings: {source: a/b, weights: 3}", "is not a profile: weights 3: expected a mapping of strides"),
        ("settings: [", "is not a profile"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, text, told):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match="mine.yaml") as error:
        load_profile(tmp_path / "mine.yaml")
    assert told in str(error.value)


def test_revisions_belong_to_hub_ids_alone(tmp_path, monkeypatch):
    assert split_revision("someone/model") == ("someone/model", {"local_files_only": True})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "b@c").mkdir(parents=True)
    assert split_revision("a/b@c") == ("a/b@c", {"local_files_only": True}) and not is_hub_id("a/b@c")


def test_data_are_looked_for_where_they_are_said_to_be(monkeypatch):
    monkeypatch.delenv("DIFFSEG_VOC", raising=False)
    profile = load_profile("sd15")
    with pytest.raises(ValueError, match=r"'sd15' has no folder of the data set 'voc' \(the variable \$DIFFSEG_VOC is not set\): .*--root .*data_root"):
        profile.data_root("voc")
    assert profile.data_root("voc", "given") == "given" and profile.data_root("pocket-voc") == profile.data_root("voc", "pocket") == "pocket"
    monkeypatch.setenv("DIFFSEG_VOC", "from-the-environment")
    assert profile.data_root("voc") == "from-the-environment" and profile.data_root("voc", "given") == "given"
    assert load_profile("pocket").data_root("voc") == "pocket"
    with pytest.raises(ValueError, match="it names none"):
        replace(profile, roots={}).data_root("object")
    with pytest.raises(ValueError, match="the pocket world's, which lies in no folder elsewhere"):
        profile.data_root("pocket-voc", "elsewhere")


def test_a_real_profile_is_never_measured_on_the_pocket_world_unasked(monkeypatch, tmp_path, capsys, pipeline_folder):
    monkeypatch.delenv("DIFFSEG_VOC", raising=False)
    own = [str(pipeline_folder), "--device", "cpu", "--out", str(tmp_path / "out")]
    for command in (["evaluate", "--dataset", "voc", "--labels", "image", "--threshold", ".5"], ["pseudo"], ["study", "ablation"]):
        assert main([*command, "--profile", *own]) != 0, command
        assert "has no folder of the data set 'voc'" in capsys.readouterr().err, command
    assert main(["evaluate", "--dataset", "pocket-voc", "--labels", "image", "--threshold", ".5", "--limit", "1", "--profile", *own]) == 0
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["dataset"] == "pocket-voc"
    with pytest.raises(FileNotFoundError, match=r"- voc: .*\$DIFFSEG_VOC is not set"):
        require("sd15", datasets=["voc"])


def test_what_is_automatic_follows_the_machine(tmp_path, monkeypatch):
    import torch

    path = written(tmp_path / "mine.yaml", source="a/b", device="auto", dtype="auto")
    for there, expected in ((False, ("cpu", "float32")), (True, ("cuda", "float16"))):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        found = load_profile(path)
        assert (found.device, found.dtype) == expected


def test_everything_that_is_missing_is_told_at_once(tmp_path, monkeypatch):
    for name in ("DIFFSEG_VOC", "DIFFSEG_CONTEXT", "DIFFSEG_COCO"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(FileNotFoundError) as error:
        require("sd15", "captioner", "clip", datasets=["voc", "object"], data_root=str(tmp_path))
    told = str(error.value).splitlines()
    assert told[0] == "profile 'sd15' cannot run yet:" and len(told) == 6
    assert [line.split(":")[0] for line in told[1:]] == ["- diffusion model", "- captioner (BLIP)", "- CLIP", "- voc", "- object"]
    assert all("snapshot_download(" in line and "revision='main'" in line for line in told[1:4])
    assert "VOCdevkit/VOC2012" in told[4] and "annotations" in told[5]
    ready = require("pocket", "captioner", "clip", datasets=["voc"])
    assert ready.name == "pocket" and ready.data_root("voc") == "pocket"
    assert require("pocket", datasets=["pocket-voc"]).data_root("voc") == "pocket"


# -- the chapters


def opening(path: Path) -> list[str]:
    """The cell of parameters and the one that loads the model."""
    cells = code_cells(nbformat.read(path, 4))
    return [cells[0].source, cells[1].source]


CHAPTERS = [path for path in runner.all_notebooks() if any(call in opening(path)[1] for call in ("open_chapter(", "from_profile(", "Job("))]


def test_every_chapter_but_the_ledger_loads_a_profile():
    assert [path.stem for path in runner.all_notebooks() if path not in CHAPTERS] == ["22_claims"]


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_every_chapter_takes_every_profile_and_says_what_is_missing(chapter, name, tmp_path):
    parameters, loading = opening(chapter)
    given = yaml.safe_load((profiles_dir() / f"{name}.yaml").read_text()) | {"data_root": str(tmp_path)}
    assert runner.parameters_for(chapter, runner.load_profile_file(name), {}, {})["profile"] == name
    cells: dict = {}
    exec(parameters, cells)
    reads = "data_root" in cells
    cells.update(given)
    with pytest.raises(FileNotFoundError) as error:
        exec(loading, cells)
    told = str(error.value)
    assert told.startswith(f"profile '{name}' cannot run yet:\n- diffusion model: {load_profile(name).source} is not on this machine: fetch it once, online")
    assert ("VOCdevkit" in told) == reads
    with_clip = ("06_words", "11_benchmark", "12_qualitative", "14_network", "15_editing", "16_folder", "18_after_the_paper", "20_protocols")
    assert ("- CLIP" in told) == (chapter.stem in with_clip)


def test_parameters_of_several_chapters_go_to_those_that_have_them(monkeypatch, capsys):
    given = {}

    def run(jobs, out, **options):
        given.update({path.stem: parameters for path, parameters in jobs})
        return []

    monkeypatch.setattr("diffseg_lib.book.run.run", run)
    assert main(["book", "run", "--profile", "sdxl", "-p", "data_root", "DIR"]) == 0
    assert given["01_quickstart"] == {"profile": "sdxl"} and given["10_ablation"] == {"profile": "sdxl", "data_root": "DIR"}
    assert main(["book", "run", "--profile", "sdxl", "-p", "data_rot", "DIR"]) == 2
    assert "did you mean data_root" in capsys.readouterr().err
    assert main(["book", "run", "01_quickstart", "-p", "data_root", "DIR"]) == 2  # asked of one chapter that has none


# -- models that wait in main memory


def test_offloaded_models_give_the_same_and_visit_one_at_a_time(pipeline_folder, picture, monkeypatch):
    with pytest.raises(ValueError, match="offloaded from a GPU"):
        load_backbone(pipeline_folder, device="cpu", offloaded=True)
    expected = DiffSegmenter(load_backbone(pipeline_folder)).segment(picture, ["house", "fish"])
    backbone = load_backbone(pipeline_folder)
    models, there = {"vae": backbone.vae, "unet": backbone.unet, "text": backbone.text_encoder}, {}
    at_once: list[set[str]] = []
    for name, model in models.items():

        def to(device, name=name):
            there[name] = device
            at_once.append({one for one, place in there.items() if place != "cpu"})

        monkeypatch.setattr(model, "to", to)
    offload(list(models.values()), "a card")
    found = DiffSegmenter(backbone).segment(picture, ["house", "fish"])
    assert (found.scores == expected.scores).all()
    assert {frozenset(one) for one in at_once if one} == {frozenset([name]) for name in models}
