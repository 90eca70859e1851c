"""A figure belongs to its data, models, code and settings: whatever of these differs, the key differs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml
from PIL import Image

from diffseg_lib.applications.pseudo_labels import Pseudo, with_masks, write_masks
from diffseg_lib.baselines.base import Prediction
from diffseg_lib.book import run as runner
from diffseg_lib.cli.main import main
from diffseg_lib.cli.study import STUDIES, module_of
from diffseg_lib.evaluation.jobs import Job
from diffseg_lib.evaluation.run_store import open_run
from diffseg_lib.evaluation.sources import open_dataset
from diffseg_lib.experiments.claims import ledger
from diffseg_lib.experiments.measure import StudyResult, committed_result, read_run
from diffseg_lib.pocket import layouts
from diffseg_lib.pocket.layouts import ensure_layout, renderer, write_layout
from diffseg_lib.profiles import load_profile
from diffseg_lib.support import identity, provenance
from diffseg_lib.support.files import RunError
from diffseg_lib.support.identity import code_hash, describe_code, describe_model, describe_models, digest_files, digest_tree, model_key, weights_hash
from diffseg_lib.support.paths import data_dir, models_dir

RESULTS = sorted(path for path in (data_dir() / "results" / "pocket").glob("*.json") if path.stem in STUDIES)


# -- data sets


@pytest.fixture
def coco(tmp_path):
    """Two trees of COCO's layout that share ids, file names and categories, and show other pictures."""
    for name, seed in (("first", 3), ("second", 4)):
        write_layout("object", "val", 2, seed, tmp_path / name)
    return tmp_path / "first", tmp_path / "second"


def test_two_trees_of_the_same_ids_and_other_pictures_are_two_runs(coco, tmp_path):
    runs = [Job("object", str(root), labels="image") for root in coco]
    assert runs[0].open().ids == runs[1].open().ids
    facts = [job.facts() for job in runs]
    assert facts[0]["data"] != facts[1]["data"]
    assert len({open_run(tmp_path / "runs", one).folder for one in facts}) == 2


def test_a_tree_that_moves_unchanged_keeps_its_run(coco, tmp_path):
    before = Job("object", str(coco[0]), labels="image").facts()
    coco[0].rename(tmp_path / "elsewhere")
    assert Job("object", str(tmp_path / "elsewhere"), labels="image").facts() == before


@pytest.mark.parametrize("file", ["picture", "mask", "list"])
def test_a_changed_picture_mask_or_list_is_another_data_set(tmp_path, file):
    write_layout("voc", "val", 3, 0, tmp_path)
    place, before = tmp_path / "VOCdevkit" / "VOC2012", open_dataset("voc", tmp_path).fingerprint()
    name = open_dataset("voc", tmp_path).ids[0]
    if file == "list":
        path = place / "ImageSets" / "Segmentation" / "val.txt"
        path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    else:
        path = place / {"picture": f"JPEGImages/{name}.jpg", "mask": f"SegmentationClass/{name}.png"}[file]
        with Image.open(path) as image:
            changed = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        changed.save(path)
    assert open_dataset("voc", tmp_path).fingerprint() != before


def test_strictly_pictures_count_by_content_and_not_by_date(tmp_path):
    write_layout("voc", "val", 2, 0, tmp_path)
    one = open_dataset("voc", tmp_path)
    plain, strict = one.fingerprint(), one.fingerprint(strict=True)
    path = tmp_path / "VOCdevkit" / "VOC2012" / "JPEGImages" / f"{one.ids[0]}.jpg"
    about, content = path.stat(), path.read_bytes()
    os.utime(path, (1, 1))
    assert one.fingerprint() != plain and one.fingerprint(strict=True) == strict
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # of the same size, and dated back
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert one.fingerprint() == plain and one.fingerprint(strict=True) != strict


def test_a_larger_limit_goes_on_with_the_rows_of_a_smaller_one(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DIFFSEG_CACHE", str(tmp_path / "cache"))
    write_layout("voc", "val", 4, 0, tmp_path / "tree")
    for root in ([], ["--root", str(tmp_path / "tree")]):
        out = str(tmp_path / f"out{len(root)}")
        command = ["evaluate", "--dataset", "voc", *root, "--labels", "image", "--method", "cross", "--threshold", ".4", "--out", out]
        assert main([*command, "--limit", "2"]) == 0
        assert "2 images done now" in capsys.readouterr().err
        assert main([*command, "--limit", "3"]) == 0
        assert "1 images done now" in (told := capsys.readouterr().err) and "2 kept from before" in told
        summary = json.loads((Path(out) / "summary.json").read_text())
        assert summary["images"] == 3 and summary["models"] == describe_models(load_profile("pocket")) and summary["dirty"] is provenance.commit()["dirty"]


def test_the_pockets_trees_are_known_by_the_code_that_renders_them(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFSEG_CACHE", str(tmp_path))
    small, large = open_dataset("voc", "", "val", 2), open_dataset("voc", "", "val", 3)
    assert small.fingerprint(whole=True) == large.fingerprint(whole=True) and small.fingerprint() != large.fingerprint()
    root, before = ensure_layout("voc", "val", 2), small.fingerprint()
    assert renderer() in root.name
    monkeypatch.setattr(layouts, "renderer", lambda: "of-another-day")
    assert ensure_layout("voc", "val", 2) != root  # an older renderer's tree is never served
    assert open_dataset("voc", "", "val", 2).fingerprint() != before


def test_masks_know_the_pictures_models_code_and_masks_they_come_from(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFSEG_CACHE", str(tmp_path / "cache"))
    dataset = open_dataset("voc", "", "train", 2)

    def scorer(image, words):
        return Prediction(np.full((len(words), *image.shape[:2]), 0.7, np.float32), 0)

    write_masks(dataset, scorer, Pseudo(0.4), tmp_path / "masks", {"models": "a"})
    made = with_masks(dataset, tmp_path / "masks")
    before = made.fingerprint()
    assert before != dataset.fingerprint()
    with pytest.raises(RunError, match="another models"):
        write_masks(dataset, scorer, Pseudo(0.4), tmp_path / "masks", {"models": "b"})
    mask = next((tmp_path / "masks").rglob("*.png"))
    os.utime(mask, (1, 1))
    assert made.fingerprint() != before


# -- models and code


def test_a_folder_counts_by_weights_and_settings_wherever_it_is(tmp_path):
    folder = shutil.copytree(models_dir() / "clip", tmp_path / "renamed")
    assert model_key(folder) == model_key("pocket", "clip") == describe_model(folder)["content"]
    config = folder / "config.json"
    config.write_text(config.read_text().replace("{", "{ ", 1))
    assert model_key(folder) != model_key("pocket", "clip")
    (folder / "profile.json").write_text("{}")  # numbers chosen for a model are none of its weights
    assert model_key(folder) == weights_hash(folder)


def test_a_hub_id_counts_by_the_commit_and_the_files_in_the_cache(tmp_path, monkeypatch):
    commit, top = "0123456789abcdef0123456789abcdef01234567", tmp_path / "models--someone--model"
    (top / "refs").mkdir(parents=True)
    (top / "refs" / "main").write_text(commit)
    (top / "blobs").mkdir()
    (top / "blobs" / "aa").write_bytes(b"weights")
    (top / "snapshots" / commit).mkdir(parents=True)
    (top / "snapshots" / commit / "model.safetensors").symlink_to(top / "blobs" / "aa")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path))
    found = describe_model("someone/model@main")
    assert found["source"] == "someone/model" and found["revision"] == commit and found["content"]
    assert describe_model(f"someone/model@{commit}") == found == describe_model("someone/model")
    (top / "blobs" / "bb").write_bytes(b"other")
    (top / "snapshots" / commit / "model.safetensors").unlink()
    (top / "snapshots" / commit / "model.safetensors").symlink_to(top / "blobs" / "bb")
    assert describe_model("someone/model")["content"] != found["content"]
    assert describe_model("someone/absent") == {"source": "someone/absent", "revision": "", "content": ""}


def test_weights_are_never_whole_in_memory_and_read_again_after_a_change(tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(b"1")
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("read whole"))
    before = weights_hash(tmp_path)
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(b"22")
    assert weights_hash(tmp_path) != before


def test_code_counts_by_what_is_imported():
    assert describe_code("experiments.elbo") != describe_code("experiments.ablation") != describe_code()
    assert code_hash("pocket.world") != code_hash("pocket.scenes")
    for study in STUDIES:
        assert describe_code(module_of(study))["modules"]


def test_digests_of_files_and_trees(tmp_path):
    (tmp_path / "a").write_text("1")
    before = digest_tree(tmp_path), digest_files([tmp_path / "a"])
    (tmp_path / "a").write_text("2")
    assert digest_files([tmp_path / "a"]) != before[1] and digest_tree(tmp_path) != before[0]
    assert digest_files([tmp_path / "b"]) != digest_files([])


# -- what is committed


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_the_committed_results_are_of_the_shipped_weights(path):
    run = read_run(path, StudyResult)
    assert run.models == describe_models(load_profile("pocket"))
    assert run.data and all(one["content"] for one in run.data) and run.code["modules"]


def test_figures_of_another_model_are_refused_with_the_command_to_run(tmp_path, monkeypatch):
    folder = shutil.copytree(data_dir() / "results", tmp_path / "results")
    path = folder / "pocket" / "ablation.json"
    path.write_text(path.read_text().replace(describe_model("pocket", "captioner")["content"], "000000000000"))
    with pytest.raises(ValueError, match=r"another captioner model .*diffseg study ablation --profile pocket"):
        ledger(folder)
    monkeypatch.setattr("diffseg_lib.experiments.measure.results_file", lambda study, profile: path)
    with pytest.raises(ValueError, match="measure it again with"):
        committed_result("ablation", "pocket", StudyResult)


def test_a_chapters_json_names_models_and_code(tmp_path):
    path = provenance.write_results("00_some", profile=load_profile("pocket"), parameters={}, metrics={}, seed=0, started=0.0, out=tmp_path)
    found = json.loads(path.read_text())
    assert found["models"]["diffusion"]["content"] and found["code"] == describe_code() and "dirty" in found


# -- chapters


def test_a_chapters_key_takes_in_what_its_parameters_name(tmp_path):
    chapter, profile = runner.all_notebooks()[0], tmp_path / "mine.yaml"
    profile.write_text(yaml.safe_dump({"settings": {"source": "pocket", "threshold": 0.4}}))
    keys = [runner.run_key(chapter, {"profile": str(profile)})]
    profile.write_text(yaml.safe_dump({"settings": {"source": "pocket", "threshold": 0.5}}))
    keys.append(runner.run_key(chapter, {"profile": str(profile)}))
    picture = tmp_path / "photo.png"
    for colour in ("red", "blue"):
        Image.new("RGB", (8, 8), colour).save(picture)
        keys.append(runner.run_key(chapter, {"image": str(picture)}))
    for content in ("1", "22"):
        (tmp_path / "tree").mkdir(exist_ok=True)
        (tmp_path / "tree" / "list.txt").write_text(content)
        runner._digest_folder.cache_clear()
        keys.append(runner.run_key(chapter, {"data_root": str(tmp_path / "tree")}))
    assert len(set(keys)) == len(keys)


def test_the_numbers_chosen_for_the_pocket_models_are_inputs_of_every_chapter(tmp_path, monkeypatch):
    chapter, models = runner.all_notebooks()[0], shutil.copytree(models_dir(), tmp_path / "models")
    monkeypatch.setattr(runner, "models_dir", lambda: models)
    before = runner.inputs_of(chapter)
    facts = models / "diffusion" / "profile.json"
    facts.write_text(facts.read_text().replace("100", "150"))
    assert runner.inputs_of(chapter) != before


def test_every_committed_file_that_a_chapter_shows_is_declared():
    kept = {"23_speed": "data/results/speed.json", "10_ablation": "data/results/pocket/ablation.json"}
    for path in runner.all_notebooks():
        if path.stem in kept:
            declared = nbformat.read(path, 4).metadata["diffseg_lib"]["reads"]
            assert any(Path(kept[path.stem]).match(pattern) for pattern in declared)


def test_identity_of_a_missing_model_is_its_name():
    assert identity.model_key("someone/never-there") == "someone/never-there"
