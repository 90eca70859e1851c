"""No trained model has seen a mask: what training can reach holds no function that draws, or reads, a label map."""

from __future__ import annotations

import ast
import dataclasses
import json
import shutil
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import diffseg_lib
from diffseg_lib.pocket import world
from diffseg_lib.pocket.training import architectures, measure, pictures, train
from diffseg_lib.pocket.training.fitting import Schedule
from diffseg_lib.pocket.training.layerdrop import LayerDrop
from diffseg_lib.segmenter import DiffSegmenter
from diffseg_lib.support.paths import models_dir

ROOT = Path(diffseg_lib.__file__).parent
ALLOWED = {
    "Scene",
    "CAPTIONS_EACH",
    "CLASSES",
    "CLASS_NAMES",
    "COLOURS",
    "GROUNDS",
    "GROUND_NAMES",
    "SIZE",
    "SPLITS",
    "WORLD_SEED",
    "compose",
    "describe",
    "paint",
}
MASKS = {"trace", "trace_instances", "voc_truth", "voc_samples", "write_layout"}
FORBIDDEN = {"scenes", "layouts", "measure", "evaluation", "fusion_search", "segmenter", "scoremaps"}


def imports(source: str, package: tuple[str, ...]) -> list[tuple[str, str | None]]:
    """Every import of our own, wherever it stands: (module within the package, name or None for the module itself)."""
    found: list[tuple[str, str | None]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(a.name.removeprefix("diffseg_lib").lstrip("."), None) for a in node.names if a.name.split(".")[0] == "diffseg_lib"]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            elif (node.module or "").split(".")[0] == "diffseg_lib":
                base = (node.module or "").split(".")[1:]
            else:
                continue
            module = ".".join(part for part in base if part)
            for alias in node.names:
                inner = ".".join(filter(None, [module, alias.name]))
                found.append((inner, None) if path_of(inner) else (module, alias.name))
    return found


def path_of(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.exists()), None) if module else None


def package_of(module: str) -> tuple[str, ...]:
    return tuple(module.split(".")[:-1])


def reachable(start: str) -> dict[str, list[tuple[str, str | None]]]:
    """The modules of ours that `start` imports, directly or not, but not through the world: what each imports."""
    found: dict[str, list[tuple[str, str | None]]] = {}
    waiting = [start]
    while waiting:
        module = waiting.pop()
        path = path_of(module)
        if module in found or module == "pocket.world" or path is None:
            continue
        found[module] = imports(path.read_text(), package_of(module))
        waiting += [name for name, _ in found[module]]
    return found


def offences(module: str, source: str) -> list[str]:
    """What a module of training may not do."""
    said = []
    for name, item in imports(source, package_of(module)):
        if name.split(".")[-1] in FORBIDDEN:
            said.append(f"imports {name}")
        if name == "pocket.world" and (item is None or item not in ALLOWED):
            said.append(f"takes {item or 'the whole module'} from the world")
        if not name or (name, item) == ("pocket", None):
            said.append("imports the package, and with it the world")
    for node in ast.walk(ast.parse(source)):
        name = getattr(node, {ast.Name: "id", ast.Attribute: "attr", ast.alias: "name"}.get(type(node), ""), None)
        if name in MASKS | {"__import__", "importlib", "import_module"}:
            said.append(f"speaks of {name}")
    return said


@pytest.mark.parametrize("start", ["pocket.training.train", "pocket.training.pictures"])
def test_training_cannot_reach_a_label_map(start):
    found = reachable(start)
    assert start in found and ("pocket.world" in {name for imported in found.values() for name, _ in imported})
    assert {module: offences(module, path_of(module).read_text()) for module in found} == {module: [] for module in found}


@pytest.mark.parametrize(
    "source",
    [
        "from ..world import trace",
        "from ..world import compose, trace_instances as paint",
        "from .. import world",
        "from ..world import *",
        "import diffseg_lib.pocket.world",
        "from diffseg_lib.pocket import world as w",
        "from diffseg_lib.pocket.world import trace",
        "from ..scenes import voc_samples",
        "from ..layouts import write_layout",
        "from ...evaluation import confusion",
        "def late():\n    from ..world import trace",
        "import importlib",
        "import diffseg_lib",
        "from ... import DiffSegmenter",
        "m = importlib.import_module('diffseg_lib.pocket.world')",
        "x = pictures.world.trace",
    ],
)
def test_the_check_itself_sees_what_is_forbidden(source):
    assert offences("pocket.training.train", source)
    assert not offences("pocket.training.train", "from ..world import compose, paint\nfrom .pictures import load_pictures\nimport numpy as np")


@pytest.fixture
def blindfolded(monkeypatch, tmp_path):
    """Label maps cannot be drawn; pictures are rendered by threads, for which this holds too."""

    def refuse(*_, **__):
        raise AssertionError("training drew a label map")

    monkeypatch.setattr(world, "trace", refuse)
    monkeypatch.setattr(world, "trace_instances", refuse)
    monkeypatch.setattr(pictures, "get_context", lambda _: SimpleNamespace(Pool=ThreadPool))
    monkeypatch.setenv("DIFFSEG_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("size", [64, 128])
def test_pictures_are_loaded_without_label_maps(blindfolded, size):
    with pytest.raises(AssertionError, match="drew a label map"):
        world.trace(world.compose("train", 0))
    loaded = pictures.load_pictures("train", 5, size, workers=1)
    assert {f.name for f in dataclasses.fields(loaded)} == {"images", "captions"}
    assert {p.name for p in blindfolded.rglob("*") if p.is_file()} == {"images.npy", "captions.json"}
    assert loaded.images.shape == (5, size, size, 3) and loaded.images.dtype == np.uint8
    for i in range(5):
        scene = world.compose("train", i, 0, size)
        assert (loaded.images[i] == world.paint(scene)).all()
        assert loaded.captions[i] == [world.describe(scene, draw) for draw in range(pictures.CAPTIONS_EACH)]


def test_pictures_are_rendered_once(blindfolded, monkeypatch):
    first = pictures.load_pictures("val", 3, 64, workers=1)
    monkeypatch.setattr(pictures, "paint", None)  # a second rendering would fail
    again = pictures.load_pictures("val", 3, 64, workers=1)
    assert (first.images == again.images).all() and first.captions == again.captions


def test_classes_named_by_a_caption_are_those_of_the_scene():
    for i in range(200):
        scene = world.compose("val", i)
        for draw in (None, 0, 1, 2):
            assert pictures.classes_named(world.describe(scene, draw)) == set(scene.classes)


# -- layers that fall silent ----------------------------------------------------------------------


class Block(torch.nn.Module):
    """Adds what two layers say, one of self- and one of cross-attention."""

    def __init__(self) -> None:
        super().__init__()
        self.attn1, self.attn2 = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn1(x)
        return x + self.attn2(x)


def tower(blocks: int) -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(*(Block() for _ in range(blocks))).double()


def hooks_of(network: torch.nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in network.modules())


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("layers", "keep"), [(1, 0.5), (2, 0.1), (10, 0.5), (10, 0.0)])
def test_at_least_one_layer_stays_for_every_sample(layers, keep):
    drop = LayerDrop(tower(layers), keep=keep)
    kept = drop.draw(4000, seeded())
    assert kept.shape == (4000, layers) and set(kept.unique().tolist()) <= {0.0, 1.0}
    assert kept.sum(1).min() >= 1
    if keep == 0:
        alone = kept[kept.sum(1) == 1]
        assert alone.mean(0).allclose(torch.tensor(1 / layers), atol=0.03), "which one is spared is left to chance"


def test_the_share_of_samples_that_lose_layers_and_the_chance_of_each_to_stay():
    kept = LayerDrop(tower(10)).draw(20_000, seeded())
    losing = kept.mean(1) < 1
    assert losing.float().mean().item() == pytest.approx(0.65, abs=0.015)
    assert kept[losing].mean(0).tolist() == pytest.approx([0.5] * 10, abs=0.02)


def test_a_draw_is_a_function_of_the_generator():
    drop = LayerDrop(tower(6))
    first = drop.draw(16, seeded(7))
    assert torch.equal(first, drop.draw(16, seeded(7))) and not torch.equal(first, drop.draw(16, seeded(8)))


def test_a_layer_that_is_dropped_adds_nothing_for_that_sample_alone():
    network, x = tower(2), torch.randn(3, 5, 4, generator=seeded()).double()
    with LayerDrop(network) as drop:
        drop.draw(3, seeded())
        drop.kept = torch.tensor([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
        got = network(x)
    whole = network(x)
    assert torch.equal(got[0], whole[0]) and not torch.allclose(got[1], whole[1])
    for row, silent in ((1, 0), (2, 1)):
        deaf = tower(2)
        torch.nn.init.zeros_(deaf[silent].attn2.weight)
        torch.nn.init.zeros_(deaf[silent].attn2.bias)
        assert torch.allclose(got[row], deaf(x)[row])


def test_nothing_is_dropped_when_off():
    network, x = tower(4), torch.randn(8, 5, 4, generator=seeded()).double()
    whole = network(x)
    with LayerDrop(network) as drop:
        assert torch.equal(network(x), whole), "before the first draw"
        drop.draw(8, seeded())
        assert not torch.allclose(network(x), whole)
        assert torch.equal(network.eval()(x), whole), "in evaluation"
        network.train()
        drop.off()
        assert torch.equal(network(x), whole), "after off()"


def test_hooks_are_gone_after_the_block_however_it_ends():
    network, x = tower(4), torch.randn(8, 5, 4, generator=seeded()).double()
    whole = network(x)
    with LayerDrop(network) as drop:
        assert hooks_of(network) == 4
        drop.draw(8, seeded())
    assert hooks_of(network) == 0 and torch.equal(network(x), whole)
    with pytest.raises(FloatingPointError), LayerDrop(network):
        raise FloatingPointError
    assert hooks_of(network) == 0


def test_the_unet_has_ten_layers_to_drop_and_its_weights_fit_any_number_of_heads():
    few, many = architectures.unet((1, 2, 2, 2)), architectures.unet()
    assert len(LayerDrop(many).layers) == 10
    many.load_state_dict(few.state_dict())
    assert [b.attentions[0].transformer_blocks[0].attn2.heads for b in many.down_blocks[:3]] == [4, 8, 8]
    noisy, words = torch.randn(2, 4, 8, 8, generator=seeded()), torch.randn(2, 5, architectures.TEXT_WIDTH, generator=seeded())
    with torch.no_grad(), LayerDrop(many.train()) as drop:
        whole = many(noisy, 10, words).sample
        drop.kept = torch.ones(2, 10)
        drop.kept[1, 1:] = 0
        got = many(noisy, 10, words).sample
    assert torch.equal(got[0], whole[0]) and not torch.allclose(got[1], whole[1])


def test_a_network_without_cross_attention_is_refused():
    with pytest.raises(ValueError, match="attn2"):
        LayerDrop(torch.nn.Linear(2, 2))


# -- the joint transformer ------------------------------------------------------------------------


@pytest.fixture
def tokenizer(monkeypatch):
    """The shipped tokenizer, in place of one that is learnt from 16,000 captions."""
    from transformers import CLIPTokenizer

    found = CLIPTokenizer.from_pretrained(models_dir() / "clip")
    monkeypatch.setattr(architectures, "clip_tokenizer", lambda captions: found)
    monkeypatch.setattr(train, "_captions", lambda: ["a photograph of a red house"])
    return found


def disturbed(tokenizer):
    """A joint transformer whose zeros are filled, so that it says something."""
    torch.manual_seed(5)
    model = train.FlowDenoiser(tokenizer)
    with torch.no_grad():
        for parameter in model.transformer.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def test_a_fresh_transformer_says_nothing_and_its_blocks_add_nothing(tokenizer):
    model, ids = train.FlowDenoiser(tokenizer), torch.full((2, architectures.TEXT_LENGTH), 7)
    with torch.no_grad():
        assert not model(torch.randn(2, 4, 8, 8), torch.tensor([0.2, 0.9]), ids).any()
    assert 5e6 < sum(p.numel() for p in model.transformer.parameters()) < 9e6


def test_the_transformer_is_trained_by_the_very_call_that_its_pipeline_makes(tokenizer, tmp_path):
    from diffusers import StableDiffusion3Pipeline

    model, prompt = disturbed(tokenizer), "a photograph of a red house and a fish"
    run = tmp_path / "runs" / "transformer"
    run.mkdir(parents=True)
    trained = train.AlignedDenoiser(tokenizer)
    trained.denoiser = model
    save_file({f"ema.{k}": v.contiguous() for k, v in trained.state_dict().items()}, run / "state.safetensors", metadata={"step": "1", "seconds": "2.0"})
    (run / "curve.csv").write_text("step,seconds,loss,lr\n")
    train.ship(tmp_path / "runs", tmp_path / "models", ["transformer"], models_dir())
    folder = tmp_path / "models" / "transformer"
    assert json.loads((folder / "profile.json").read_text())["max_sequence_length"] == 0
    pipeline = StableDiffusion3Pipeline.from_pretrained(folder, text_encoder_3=None, tokenizer_3=None, torch_dtype=torch.float32)
    words, _, pooled, _ = pipeline.encode_prompt(prompt, prompt, prompt, do_classifier_free_guidance=False, max_sequence_length=0)
    assert words.shape == (1, architectures.TEXT_LENGTH, architectures.TEXT_WIDTH + architectures.SECOND_WIDTH)
    noisy = torch.randn(1, 4, 32, 32, generator=seeded())
    ids = tokenizer(prompt, padding="max_length", max_length=architectures.TEXT_LENGTH, return_tensors="pt").input_ids
    model.half().float()  # as the shipped weights are rounded
    with torch.no_grad():
        expected = pipeline.transformer(noisy, words, pooled, torch.tensor([300.0])).sample
        found = model(noisy, torch.tensor([0.3]), ids)
    assert expected.abs().max() > 0.1 and torch.allclose(found, expected, atol=1e-4)
    segmented = DiffSegmenter.from_profile(folder).segment(world.paint(world.compose("test", 0)), ["house"])
    assert np.isfinite(segmented.scores).all()


def test_training_the_transformer_reads_no_label_map_and_goes_on_where_it_stopped(blindfolded, tokenizer):
    stages, run, start = [train.Stage(1.0, 64, 6, 2)], blindfolded / "runs" / "transformer", blindfolded / "models"
    for part in ("clip", "diffusion"):
        shutil.copytree(models_dir() / part, start / part)
    for steps in (1, 3):
        train.train_transformer(run, Schedule(steps, lr=1e-4), "cpu", stages, start)
    with safe_open(run / "state.safetensors", "pt") as file:
        assert file.metadata()["step"] == "3"
    losses = [float(line.split(",")[2]) for line in (run / "curve.csv").read_text().splitlines()[1:]]
    assert len(losses) == 2 and all(0.5 < loss < 5 for loss in losses), "the velocity of latents and noise of variance one has a variance of two"


def test_image_tokens_are_read_in_the_middle_and_the_denoiser_is_what_it_was(tokenizer):
    model = train.AlignedDenoiser(tokenizer).eval()
    model.denoiser = disturbed(tokenizer)
    noisy, times, ids = torch.randn(2, 4, 8, 16, generator=seeded()), torch.tensor([0.2, 0.9]), torch.full((2, architectures.TEXT_LENGTH), 7)
    with torch.no_grad():
        velocity, said = model(noisy, times, ids)
        assert torch.equal(velocity, model.denoiser(noisy, times, ids)) and said.shape == (2, 4 * 8, architectures.VISION_WIDTH)
        for block in model.denoiser.transformer.transformer_blocks[train.ALIGNED :]:
            for parameter in block.parameters():
                parameter.zero_()
        again, same = model(noisy, times, ids)
        assert torch.equal(same, said) and not torch.allclose(again, velocity), "only blocks up to the middle one count"
    assert not any(block._forward_hooks for block in model.denoiser.transformer.transformer_blocks)


def test_what_clip_sees_is_laid_out_as_the_picture_is():
    clip, _ = measure.load_clip(models_dir())
    pictures = np.stack([world.paint(world.compose("train", i)) for i in range(6)])
    small = train._views(pictures)
    seen = train.Sight(clip.vision_model, small)
    whole = seen(small, 8)
    assert whole.shape == (6, 64, 160)
    assert whole.mean((0, 1)).abs().max() < 1e-4 and (whole.std((0, 1)) - 1).abs().max() < 1e-4
    with torch.no_grad():
        states = clip.vision_model(train.to_range(small)).last_hidden_state[:, 1:]
    centred = (states - states.mean((0, 1))) / states.std((0, 1))
    assert torch.allclose(whole, centred, atol=1e-4), "the class token is left out, patches keep their order"
    fine = seen(small, 16).unflatten(1, (16, 16))
    coarse = fine.unflatten(2, (8, 2)).unflatten(1, (8, 2)).mean((2, 4)).flatten(1, 2)
    inside = torch.arange(64).view(8, 8)[1:-1, 1:-1].flatten()
    likeness = torch.nn.functional.cosine_similarity(coarse[:, inside], whole[:, inside], dim=-1)
    assert likeness.min() > 0.5 and likeness.mean() > 0.9, "a place between patches says what those about it say"
    assert any(p.requires_grad for p in clip.parameters()) and not whole.requires_grad, "the encoder is frozen"
