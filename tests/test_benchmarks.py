"""The benchmark measures what it says: its re-enactment is right, its ratios are of one round, its figures are counted."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import families, gpu, many, parts, transformers
from benchmarks.__main__ import extra, main
from benchmarks.cases import OTHERS, OURS, SHARED, STEPS, cases, ours_in, segment
from benchmarks.goals import DATASETS, committed_speed, goals, hours, vae_gigaflops
from benchmarks.measure import interleaved_timings, peak_of, ratios, summary
from benchmarks.models import inputs, unet_config
from benchmarks.released import released_maps
from diffseg_lib.profiles import PAPER_WEIGHTS


def tiny_inputs(backbone, classes, size=(16, 16)):
    return inputs(backbone, classes, size)


@pytest.mark.parametrize("size", [(16, 16), (16, 24)])
@pytest.mark.parametrize("way", list(STEPS))
def test_every_step_gives_the_released_recipes_maps(backbone, way, size):
    given = inputs(backbone, 2, size)
    theirs = released_maps(backbone, given, 100, PAPER_WEIGHTS)
    ours = segment(backbone, given, STEPS[way])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_the_released_recipe_leaves_the_model_as_it_was(backbone):
    before = backbone.unet.attn_processors
    released_maps(backbone, inputs(backbone, 1, (16, 16)), 100, PAPER_WEIGHTS)
    assert all(backbone.unet.attn_processors[name] is one for name, one in before.items())


def test_one_self_attention_for_all_is_the_first_class_and_another_for_the_rest(backbone):
    given = inputs(backbone, 2, (16, 16))
    own, shared = (segment(backbone, given, way) for way in (STEPS[OURS], OTHERS[SHARED]))
    torch.testing.assert_close(shared[0], own[0], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(shared[1], own[1], atol=1e-5)


def test_the_forward_of_stable_diffusion_is_803_gigaflops():
    from diffusers import UNet2DConditionModel

    assert parts.gigaflops() == pytest.approx(803, abs=1)
    with torch.device("meta"):
        unet = UNet2DConditionModel(**unet_config())
    assert sum(p.numel() for p in unet.parameters()) == 859_520_964
    assert len(unet.attn_processors) == 32
    assert parts.completion_gigaflops() == pytest.approx(54, abs=0.5)


def test_rounds_turn_the_order_and_leave_the_first_out():
    calls: list[str] = []
    seconds = interleaved_timings({name: (lambda name=name: calls.append(name)) for name in "abc"}, 2)
    assert "".join(calls) == "cababcbca" and {len(v) for v in seconds.values()} == {2}
    assert summary([3.0, 1.0, 2.0]) == {"median": 2.0, "range": [1.0, 3.0], "repeats": 3}
    assert ratios({"bare": [1.0, 2.0], "x": [2.0, 2.0]}, "x")["range"] == [1.0, 2.0]


def test_the_peak_of_memory_is_seen():
    peak = peak_of(lambda: torch.ones(64 * 2**20 // 4).sum())
    assert peak is None or 60 < peak < 100


def test_what_could_not_be_measured_is_none():
    assert extra({"1": {"bare": {"median": 10.0}, "x": {"median": 15.5}}, "4": {"bare": {"median": 1.0}, "x": None}}, "x") == {"1": 5.5, "4": None}


def test_quick_writes_the_keys_that_goals_are_set_for(tmp_path, monkeypatch):
    import benchmarks.__main__ as module

    monkeypatch.setattr(module, "STEPS", {OURS: STEPS[OURS]})
    assert main(["--quick", "--repeats", "1", "--json", str(tmp_path / "speed.json")]) == 0
    facts = json.loads((tmp_path / "speed.json").read_text())
    assert {"time_ratio", "extra_mib", "speedup_vs_released", "memory_vs_released", "device", "dtype", "repeats"} <= set(facts)
    assert set(facts["time_ratio"]) == {"1", "4", "16"} and facts["quick"] and facts["repeats"] == 1
    assert set(facts["pocket"]["stages"]) == {"VAE", "text", "UNet", "recording", "completion", "upsampling", "metric"}


def test_cases_are_ready_to_call(backbone):
    assert list(cases(backbone, 1, (8, 8), ("bare", OURS))) == ["bare", OURS]
    with pytest.raises(KeyError):
        cases(backbone, 1, (8, 8), ("nothing",))


def test_the_tables_of_a_card_run_anywhere(backbone, monkeypatch):
    best = gpu.floors("cpu", torch.float32, side=64, mib=1, repeats=1)
    assert best["teraflops"] > 0 and best["gigabytes"] > 0
    found = gpu.time_and_memory(backbone, [1, 2], (8, 8), 1)
    assert set(found) == {"1", "2"} and found["2"]["time_ratio"]["median"] > 0
    rates = gpu.batches(backbone, [2], (8, 8), best, 1)["2"]
    assert rates["rows_per_second"]["median"] > 0 and rates["most"] > 0 and rates["share"] >= 0
    assert gpu.compiled(backbone, (8, 8), 1, compile_=lambda unet: unet)["median"] > 0

    def broken(unet):
        raise OSError("no compiler")

    assert gpu.compiled(backbone, (8, 8), 1, compile_=broken) == "not run: OSError: no compiler"


def test_goals_are_judged_by_their_figures():
    one = {"median": 1.02}
    facts = {"time_ratio": {"1": one, "4": {"median": 0.99}}, "extra_mib": {"1": 70.0}, "speedup_vs_released": {"1": {"median": 6.5}, "4": {"median": 7.0}}}
    found = [(goal.what.split(",")[0], goal.figure, goal.met) for goal in goals(facts | {"memory_vs_released": None})]
    assert [met for _, _, met in found] == [True, False, True, True, False, True, True, None]


def test_the_committed_run_has_every_table_and_says_how_it_was_made():
    facts = committed_speed()
    assert {"time_ratio", "extra_mib", "speedup_vs_released", "memory_vs_released", "device", "dtype", "repeats", "command", "commit", "versions"} <= set(facts)
    assert facts["time_ratio"] == {n: row[ours]["ratio"] for n, row in facts["full"]["time"].items() if (ours := ours_in(row))} != {}
    assert set(facts["gpu"]) == set(gpu.TABLES) and not facts["quick"]
    assert all(row["difference"] < 1e-4 for row in facts["full"]["released"].values())


def test_some_tables_of_an_earlier_run_are_kept(tmp_path, monkeypatch):
    import benchmarks.__main__ as module

    kept = committed_speed()
    assert ours_in(kept["full"]["time"]["1"]) != OURS == ours_in(STEPS) and ours_in(["bare"]) is None  # it was called otherwise
    (tmp_path / "speed.json").write_text(json.dumps(kept))
    monkeypatch.setattr(module.parts, "sharing", lambda images: {"images": images})
    assert main(["--only", "sharing", "--images", "3", "--json", str(tmp_path / "speed.json")]) == 0
    facts = json.loads((tmp_path / "speed.json").read_text())
    assert facts["sharing"] == {"images": 3} and all(facts[key] == kept[key] for key in ("time_ratio", "extra_mib", "memory_vs_released"))


def test_the_number_of_classes_is_measured_on_a_tiny_model(backbone):
    found = many.by_classes(backbone, (8, 8), 2, (1, 7))
    assert found["sentence"] == many.classes_of_a_sentence(24) == 5 and set(found["rows"]) == {"1", "7"}
    told = {way: (row["measured"], row["calls"], row["ratio"]["repeats"]) for way, row in found["rows"]["7"].items()}
    assert told == {"a row a class": (1, 7, 2), "a row a sentence": (5, 2, 2), "side prompts": (7, 1, 2)}
    assert found["rows"]["7"]["a row a class"]["ratio"]["median"] == pytest.approx(7 * found["rows"]["1"]["a row a class"]["ratio"]["median"], abs=0.02)
    assert set(found["text"]) == {"alone", "of 8"} and found["latents"] == [8, 8]
    assert many.extra_over_one_row({"a row a class, 1": 10.0, "side prompts, 60": 14.5, "x": None}) == {
        "a row a class, 1": 0.0,
        "side prompts, 60": 4.5,
        "x": None,
    }


def test_the_classes_alone_leave_the_other_tables_as_they_were(tmp_path, monkeypatch):
    import benchmarks.__main__ as module

    kept = committed_speed()
    (tmp_path / "speed.json").write_text(json.dumps(kept))
    rows = {k: {way: {"ratio": summary([1.1])} for way in many.WAYS} for k in ("60", "171")}
    monkeypatch.setattr(module, "full_classes", lambda size, repeats: {"rows": rows, "mib_over_one_row": {"side prompts, 60": 12.0}, "repeats": repeats})
    assert main(["--only", "classes", "--repeats", "3", "--json", str(tmp_path / "speed.json")]) == 0
    facts = json.loads((tmp_path / "speed.json").read_text())
    assert facts["full"]["classes"]["repeats"] == 1 and facts["repeats"] == kept["repeats"]
    assert {**facts["full"], "classes": 0} == {**kept["full"], "classes": 0, "gigaflops": facts["full"]["gigaflops"]} and facts["pocket"] == kept["pocket"]
    judged = [(goal.what, goal.met) for goal in goals(facts) if "classes by side prompts" in goal.what]
    assert len(judged) == 3 and all(met for _, met in judged)


def test_tables_hold_what_was_measured():
    from benchmarks import tables

    facts = committed_speed()
    judged = goals(facts)
    shown = tables.goals_table(judged)
    assert list(shown.index) == [f"{one.what}: {one.wanted}" for one in judged if one.met is not None] and list(shown.columns) == ["found"]
    assert all(text.rpartition(", ")[2] in tables.SAID.values() and "nan" not in text for text in shown["found"]) and tables._short(254.3) == "254.3"
    assert not any(table.isna().any(axis=None) for table in (tables.goals_table(judged), tables.memory_table(facts["full"]["memory"])))
    assert tables.sources(facts).count("\n") == len({(how["command"], how["commit"]) for how in facts["measured"].values()})
    full = facts["full"]
    assert "optimized, queries and keys kept" in tables.memory_table(full["memory"]).index and "ours" in tables.memory_table({"1": {OURS: {"median": 1}}}).index
    assert list(tables.sizes_table(full["sizes"])["ratio"]) == [f"{row['ratio']['median']:.2f}" for row in full["sizes"].values()]
    assert list(tables.images_table(facts["pocket"]["images"]).index)[0] == "1 images"
    assert list(tables.released_table(full["released"])["times faster"]) == [f"{row['speedup']['median']:.1f}" for row in full["released"].values()]
    assert not tables.released_table(full["released"] | {"9": full["released"]["1"]}).isna().any(axis=None)
    assert tables.families_table({"gone": "not run: no memory"} | full["families"]).loc["parameters", "gone"] == "not run: no memory"
    assert list(tables.sharing_table(facts["sharing"]["rows"]).index) == ["own", "shared"]
    told = [*full["precision"].values(), *facts["gpu"].values()]
    assert len(tables.precision_table(full["precision"], facts["gpu"])) == sum(not str(one).startswith("not run") for one in told) > 0
    grown = {"rows": {"60": {"side prompts": {"ratio": summary([1.1, 1.3]), "measured": 60, "calls": 1}, "x": {"ratio": summary([120.0]), "calls": 60}}}}
    assert tables.classes_table(grown).loc["C = 60"].tolist() == ["1.20 (1.10 to 1.30)", "120.0, scaled from one of 60 calls"]
    numbers = tables.numbers(facts, judged)
    assert numbers["speed_ratios"].startswith(f"{facts['time_ratio']['1']['median']:.2f} (C = 1)") and numbers["speed_met"].endswith(f"of {len(judged)}")
    costs = tables.cost_table(1.0, 312.0, {"one": 1, "two": 2}, shares=(0.1,))
    assert list(costs.loc["one, 10% of peak"]) != list(costs.loc["two, 10% of peak"]) and list(costs.columns) == list(DATASETS)


def test_costs_follow_from_counts():
    assert hours(100, 2, 1.0, 100, 0.5, devices=4) == pytest.approx(hours(100, 2, 1.0, 100, 0.5) / 4)
    assert hours(3600, 1, 1.0, 1, 1.0) == pytest.approx((parts.gigaflops() + vae_gigaflops()) / 1e3)


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_a_familys_unet_is_recorded_exactly(name):
    small = {"block_out_channels": (8, 16, 16, 16)[: 3 if name == "sdxl" else 4], "norm_num_groups": 4, "attention_head_dim": 2, "sample_size": 16}
    small |= {"cross_attention_dim": 16} | (
        {"transformer_layers_per_block": (1, 2, 3), "projection_class_embeddings_input_dim": 16 + 6 * 256} if name == "sdxl" else {}
    )
    found = families.measured(families.config_of(name) | small, tokens=8)
    assert found["output_equal"] and found["optimized_difference"] < 1e-4
    assert found["self"] == ({"2": 10, "4": 18} if name == "sdxl" else {"1": 5, "2": 5, "4": 5, "8": 1})
    assert found["cross"] == found["self"] and found["completed"] == ([1, 8, 8] if name == "sdxl" else [1, 16, 16])


SMALL = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16}
JOINT = {"joint_attention_dim": 32, "pooled_projection_dim": 16}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("sd3", {"caption_projection_dim": 32} | JOINT),
        ("sd35", {"caption_projection_dim": 32, "dual_attention_layers": (0,)} | JOINT),
        ("flux", {"num_single_layers": 1, "axes_dims_rope": (4, 4, 8)} | JOINT),
        ("pixart", {"cross_attention_dim": 32, "caption_channels": 32}),
        ("flux2", {"num_single_layers": 1, "axes_dims_rope": (4, 4, 4, 4), "joint_attention_dim": 32}),
        ("qwen-image", {"axes_dims_rope": (4, 6, 6), "joint_attention_dim": 32}),
    ],
)
def test_a_familys_transformer_is_recorded_exactly(name, changes):
    found = transformers.measured(name, SMALL | changes, side=8)
    assert found["output_equal"] and found["optimized_difference"] < 1e-4 and found["completed"] == [1, 4, 4]
    assert found["blocks"] == {
        "kept": 3 if name.startswith("flux") else 2,
        "published": {"flux": 57, "pixart": 28, "flux2": 56, "qwen-image": 60}.get(name, 24),
        "recorded": [1],
    }


def test_transformers_have_their_published_sizes():
    import diffusers

    sizes = {"sd3": (2.0e9, 2.1e9), "sd35": (2.2e9, 2.6e9), "flux": (11.8e9, 12.0e9), "pixart": (0.60e9, 0.62e9)}
    for name, (least, most) in (sizes | {"flux2": (32.2e9, 32.3e9), "qwen-image": (20.4e9, 20.5e9)}).items():
        kind, _, published, _ = transformers.CONFIGS[name]
        with torch.device("meta"):
            made = getattr(diffusers, kind)(**published)
        assert least < sum(p.numel() for p in made.parameters()) < most
        assert transformers.text_width(made.config) == {"flux2": 15360, "qwen-image": 3584}.get(name, 4096), "T5's, or the language model's"


def test_families_have_their_published_sizes():
    from diffusers import UNet2DConditionModel

    for name, expected in (("sd15", 859_520_964), ("sd21", 865_910_724), ("sdxl", 2_567_463_684)):
        with torch.device("meta"):
            unet = UNet2DConditionModel(**families.config_of(name))
        assert sum(p.numel() for p in unet.parameters()) == expected


def test_a_family_that_does_not_fit_is_told():
    assert families.measured_alone("sd99").startswith("not run: KeyError")
