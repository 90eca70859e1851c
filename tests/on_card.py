"""What runs on a card, on a pretended one. ``test_devices.py`` runs this file in a process of its own, since a device stays once it is known to torch."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from pretend import CARD, pretend_card
from test_baselines import group_vit_folder  # noqa: F401

from diffseg_lib.applications.deeplab import POCKET, load, predict, train
from diffseg_lib.applications.generation import denoising_error, generate, one_step
from diffseg_lib.applications.prompt_to_prompt import LocalBlend, PromptToPrompt, ddim_invert, edit
from diffseg_lib.attention import record_attention
from diffseg_lib.baselines.elbo import elbo_posterior, noise_sharing
from diffseg_lib.cli.main import main
from diffseg_lib.evaluation.sources import open_dataset
from diffseg_lib.experiments.ablation import complete_all_resolutions
from diffseg_lib.optimizations import OPTIMIZATIONS
from diffseg_lib.pocket.layouts import write_layout
from diffseg_lib.pocket.training.fitting import Schedule, fit
from diffseg_lib.scoremaps import complete_materialised, self_attention
from diffseg_lib.segmenter import DiffSegmenter

IMAGES = 2


@pytest.fixture(autouse=True)
def operations():
    with pretend_card() as used:
        yield used
    assert sum(used.values()) > 10  # it really was the card


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree")
    for split in ("train", "val"):
        write_layout("voc", split, IMAGES, 3, root)
    return root


@pytest.fixture(params=["sd15", "sd21-v", "sdxl"])
def folder(family_folders, request):
    return family_folders[request.param]


@pytest.fixture
def photo(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_the_pretended_card_refuses_what_a_card_refuses():
    on_card = torch.ones(3).to(CARD)
    with pytest.raises((RuntimeError, TypeError), match="numpy"):
        np.asarray(on_card)
    for mixed in (lambda: on_card + torch.ones(3), lambda: torch.cat([torch.ones(3), on_card]), lambda: torch.ones(2, 3) @ on_card):
        with pytest.raises(RuntimeError, match="on the same device"):
            mixed()
    with pytest.raises(RuntimeError, match="generator"):
        torch.randn(3, generator=torch.Generator(), device=CARD)
    weight = torch.ones(2, 3, device=CARD, requires_grad=True)
    ((weight @ on_card) ** 2).sum().backward()
    assert weight.grad.device.type == CARD and weight.grad.cpu().tolist() == [[6.0] * 3] * 2
    on_card[:2] += 1
    assert on_card.tolist() == [2, 2, 1] and float(on_card.sum()) == 5


# -- commands


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_segment(folder, photo, tmp_path, dtype):
    command = ["segment", str(photo), "--classes", "house", "red fish", "--profile", str(folder), "--save-intermediates"]
    for device in (CARD, "cpu") if dtype == "float32" else (CARD,):
        assert main([*command, "--device", device, "--dtype", dtype, "--out", str(tmp_path / device)]) == 0
    scores = np.load(tmp_path / CARD / "scores.npz")["scores"]
    assert scores.dtype == np.float16 and np.isfinite(scores).all() and len(list((tmp_path / CARD).iterdir())) == 6
    if dtype == "float32":
        np.testing.assert_allclose(scores, np.load(tmp_path / "cpu" / "scores.npz")["scores"], atol=1e-3)


@pytest.mark.parametrize("recipe", ["paper", "released"])
def test_segment_with_captions(pipeline_folder, photo, tmp_path, recipe):
    command = ["segment", str(photo), "--classes", "house", "fish", "--profile", str(pipeline_folder), "--captioner", "pocket", "--recipe", recipe]
    assert main([*command, "--device", CARD, "--out", str(tmp_path / "out")]) == 0


def evaluate(tree, out, *more):
    command = ["evaluate", "--dataset", "voc", "--root", str(tree), "--threshold", ".3", "--threads", "1", "--device", CARD, "--out", str(out)]
    code = main([*command, "--captioner", "pocket", "--clip", "pocket", *more])
    found = json.loads((out / "summary.json").read_text())
    assert (code, found["errors"]) == (0, {})
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("labels", ["image", "filter"])
def test_evaluate(tree, tmp_path, pipeline_folder, labels, dtype):
    assert evaluate(tree, tmp_path, "--labels", labels, "--dtype", dtype, "--profile", str(pipeline_folder))["images"] == IMAGES


@pytest.mark.parametrize("method", ["cross", "daam", "elbo", "denseclip", "groupvit"])
def test_evaluate_a_method(tree, tmp_path, pipeline_folder, operations, request, method):
    more = ["--model", str(request.getfixturevalue("group_vit_folder"))] if method == "groupvit" else []
    evaluate(tree, tmp_path, "--labels", "image", "--method", method, "--profile", str(pipeline_folder), *more)
    if method in ("denseclip", "groupvit"):
        assert operations["convolution.default"] >= IMAGES  # the rival's own, as the diffusion model is not called


def test_pseudo_edit_and_network(tree, photo, tmp_path, pipeline_folder):
    place = ["--root", str(tree), "--device", CARD]
    assert main(["pseudo", *place, "--profile", str(pipeline_folder), "--timesteps", "100", "--out", str(tmp_path / "masks")]) == 0
    command = ["edit", str(photo), "--source", "a red house", "--target", "a red fish", "--word", "house", "fish", "--profile", str(pipeline_folder)]
    for more in ([], ["--everywhere"]):
        assert main([*command, *more, "--steps", "3", "--device", CARD, "--out", str(tmp_path / "edited")]) == 0
    small = ["--iterations", "2", "--batch", "2", "--crop", "48", "--balanced", "--every", "1"]
    assert main(["network", "train", *place, *small, "--masks", str(tmp_path / "masks"), "--out", str(tmp_path / "net")]) == 0
    assert main(["network", "test", *place, "--model", str(tmp_path / "net"), "--multiscale"]) == 0


# -- the library


@pytest.fixture(params=[("sd15", "bfloat16"), ("sd21-v", "float16"), ("sdxl", "float32")], ids="-".join)
def segmenter(family_folders, request):
    family, dtype = request.param
    return DiffSegmenter.from_profile(family_folders[family], device=CARD, dtype=dtype)


def test_switches(segmenter, picture):
    for changes in ({"optimized": False}, {"share_self_attention": True}, {"class_batch": 1}, {"iterations": 0}, {"timesteps": (50, 100)}, {"modifiers": True}):
        found = segmenter.with_config(**changes).segment(picture, ["house", "red fish"], return_intermediates=True)
        assert found.scores.shape == (2, 48, 80), changes


def test_every_layer(segmenter, picture):
    latents = segmenter.encode(picture)
    embeddings, weights = segmenter.embed(segmenter.prompts(["house", "red fish"]))
    recorded = segmenter.attend(latents, segmenter.noise(picture, latents), 100, embeddings, weights, self_attention="all", heads=True)
    fused, _ = segmenter.score(recorded)
    complete_all_resolutions(fused, recorded.self_attention())
    queries, keys = recorded.finest()
    complete_materialised(fused, [one.float() for one in queries], [one.float() for one in keys])
    assert self_attention([queries[0]], [keys[0]]).device.type == CARD
    with record_attention(segmenter.backbone.unet, weights, optimizations=OPTIMIZATIONS):
        segmenter.backbone.predict_noise(latents, 100, embeddings)


def test_generation_and_errors(segmenter, picture):
    backbone, latents = segmenter.backbone, segmenter.encode(picture)
    assert denoising_error(backbone, latents, "a house", 100, [0, 1]) > 0
    assert one_step(backbone, latents, "a house", 100, 0)[1].dtype == np.uint8
    assert generate(backbone, ["a house"], 0, steps=2, side=16).shape[0] == 1
    assert elbo_posterior(segmenter, picture, ["house", "fish"], (100,), 1).scores(0.01).device.type == CARD
    assert noise_sharing(segmenter, picture, "house", 100, 2)[0] >= 0


def test_edits(segmenter, picture):
    source = ddim_invert(segmenter, picture, "a red house", 3)
    found = edit(segmenter.backbone, source, "a red fish", PromptToPrompt(), weights={"fish": 2.0}, blend=LocalBlend("house", "fish", start=0.0, stride=2))
    assert found.picture.shape == picture.shape


def test_training(tree, tmp_path):
    dataset = open_dataset("voc", tree, "train")
    for updates in (2, 4):  # the second goes on from the first
        recipe = replace(POCKET, iterations=4, batch=2, crop=48)
        if updates == 2:
            with pytest.raises(KeyboardInterrupt):
                train(dataset, recipe, tmp_path, every=1, progress=stop_after(updates), device=CARD)
        else:
            train(dataset, recipe, tmp_path, every=1, device=CARD)
    network, _ = load(tmp_path, CARD)
    assert predict(network, dataset.load(dataset.ids[0]).image, flip=True).shape[0] == len(dataset.names)


def stop_after(updates):
    def progress(update, loss):
        if update > updates:
            raise KeyboardInterrupt

    return progress


def test_pocket_training(tmp_path, monkeypatch):
    monkeypatch.setattr("diffseg_lib.pocket.training.fitting.autocast", lambda device: nullcontext())  # torch casts for a card that it knows
    model = torch.nn.Sequential(torch.nn.Linear(3, 1))

    def loss(generator, progress):
        pixels = torch.randn(8, 3, generator=generator).to(CARD)
        return (model(pixels).float() - pixels.sum(1, keepdim=True)).square().mean()

    for steps in (3, 6):
        fit(model, loss, Schedule(steps), tmp_path, device=CARD, say=lambda line: None)
    assert model[0].weight.device.type == CARD
