"""The maps themselves equal a softmax of the layer's own queries and keys, at any token, head and timestep."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from diffseg_lib.baselines.attention_maps import attention_maps
from diffseg_lib.cli.main import main
from diffseg_lib.segmenter import DiffSegmenter

UP = "up_blocks.3.attentions.0.transformer_blocks.0.attn2"


@pytest.mark.parametrize(("token", "positions"), [("word", [5, 6]), ("start", [0]), ("end", [7]), (2, [2])])
def test_maps_are_the_layers_own_softmax(backbone, picture, token, positions):
    segmenter, seen = DiffSegmenter(backbone), []
    found = attention_maps(segmenter, picture, "red fish", layers=["up_blocks.3"], heads=[1, 0], timesteps=[100, 500], token=token)
    layer = backbone.unet.get_submodule(UP)
    handles = [module.register_forward_hook(lambda _, given, out: seen.append(out.detach())) for module in (layer.to_q, layer.to_k)]
    try:
        latents = segmenter.encode(picture)
        embeddings, _ = segmenter.embed(segmenter.prompts(["red fish"]))
        backbone.predict_noise(backbone.add_noise(latents, segmenter.noise(picture, latents), 500), 500, embeddings)
    finally:
        [handle.remove() for handle in handles]
    query, key = (one[0].unflatten(-1, (layer.heads, -1)).transpose(0, 1) for one in seen)
    naive = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)[..., positions].mean(-1)
    assert all(name.startswith("up_blocks.3") for name in found.layers) and UP in found.layers and found.positions == tuple(positions)
    maps = found.layers[UP]
    assert maps.shape[:2] == (2, 2) and not np.allclose(maps[0], maps[1])
    np.testing.assert_allclose(maps[1], naive[[1, 0]].reshape(maps[1].shape).numpy(), atol=1e-5)
    mean = attention_maps(segmenter, picture, "red fish", layers=["up_blocks.3"], timesteps=[500], token=token).layers[UP]
    np.testing.assert_allclose(mean[0, 0], naive.mean(0).reshape(mean.shape[2:]).numpy(), atol=1e-5)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--layer", "nowhere"], "no layer's name has nowhere in it"), (["--head", "99"], "has no head 99"), (["--token", "99"], "expected word, start, end")],
)
def test_the_command_writes_a_sheet_and_arrays_or_says_what_there_is(pipeline_folder, picture, tmp_path, capsys, options, message):
    Image.fromarray(picture).save(tmp_path / "photo.png")
    command = ["maps", str(tmp_path / "photo.png"), "--word", "house", "--profile", str(pipeline_folder), "--out", str(tmp_path / "out")]
    assert main([*command, *options]) == 2 and message in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert main([*command, "--token", "start", "--timestep", "100", "300"]) == 0
    kept, facts = np.load(tmp_path / "out" / "maps.npz"), json.loads((tmp_path / "out" / "result.json").read_text())
    assert kept["axes"].tolist() == ["timestep", "head", "row", "column"] and kept["timesteps"].tolist() == [100, 300] and kept["heads"].tolist() == [-1]
    assert set(facts["layers"]) == set(kept) - {"axes", "timesteps", "heads"} and all(
        list(kept[name].shape) == shape for name, shape in facts["layers"].items()
    )
    assert facts["highest"] == pytest.approx(max(kept[name].max() for name in facts["layers"]))
    assert Image.open(tmp_path / "out" / "maps.png").height > len(facts["layers"]) * 128
