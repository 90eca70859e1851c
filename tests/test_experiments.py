"""Studies: what they measure by hand, that parts are kept and read again, and that the runner writes what it says."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from diffseg_lib import DiffSegmenter
from diffseg_lib.book import plots
from diffseg_lib.category_filter import CategoryFilter
from diffseg_lib.cli.main import main
from diffseg_lib.cli.study import STUDIES
from diffseg_lib.data import READERS, Dataset
from diffseg_lib.evaluation.metrics import ScoreHistogram, confusion, count_scores, miou
from diffseg_lib.evaluation.sources import open_dataset, open_splits
from diffseg_lib.experiments.ablation import ROWS, AblationResult, ablation_study, variants
from diffseg_lib.experiments.benchmark import BenchmarkResult, choices, count_attention, filter_quality
from diffseg_lib.experiments.completion import CompletionResult
from diffseg_lib.experiments.degradation import DegradationResult
from diffseg_lib.experiments.edits import EditResult
from diffseg_lib.experiments.elbo import ElboResult
from diffseg_lib.experiments.fusion import FusionResult
from diffseg_lib.experiments.measure import (
    Effect,
    Store,
    StudyResult,
    about,
    committed_result,
    format_effect,
    format_value,
    measure,
    read_run,
    side_of_zero,
    table,
    titled,
)
from diffseg_lib.experiments.network import NetworkResult
from diffseg_lib.experiments.one_pass import OnePassResult
from diffseg_lib.experiments.prompting import SHARED, PromptResult, settled
from diffseg_lib.experiments.prompting import numbers as prompt_numbers
from diffseg_lib.experiments.protocols import ProtocolResult
from diffseg_lib.experiments.pseudo import PseudoResult
from diffseg_lib.experiments.qualitative import QualitativeResult
from diffseg_lib.experiments.recipes import RecipeResult
from diffseg_lib.experiments.successors import SuccessorResult
from diffseg_lib.experiments.timesteps import TimestepResult, signal_to_noise
from diffseg_lib.experiments.transformers import TransformerResult
from diffseg_lib.support.files import to_plain
from diffseg_lib.support.paths import data_dir


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFSEG_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def segmenter():
    return DiffSegmenter.from_profile("pocket")


def counted(seed, images=6, right=0.8):
    """Made-up histograms of two classes: variant "good" is right in `right` of the pixels, "bad" in half."""
    rng, found = np.random.default_rng(seed), {"good": [], "bad": []}
    for _ in range(images):
        truth = rng.integers(2, size=(8, 8))
        for name, share in (("good", right), ("bad", 0.5)):
            score = np.where(rng.random((8, 8)) < share, truth, 1 - truth).astype(np.float32)
            found[name].append(count_scores(truth, score[None], [1], 2))
    return found


def test_rows_and_effects_are_those_computed_by_hand():
    train, test = counted(0), counted(1, 30)
    measured = measure([train], [test], 2, [7])
    row = measured.rows["good"]
    assert row.seeds == (7,) and row.sd is None and row.images == 30
    assert row.value == pytest.approx(float(miou(measured.confusions["good"].sum(0))))
    effect = measured.effect("good", "bad")
    assert effect.value == pytest.approx(row.value - measured.rows["bad"].value)
    assert effect.ci95[0] < effect.value < effect.ci95[1] and effect.ci95[0] > 0 and effect.label == "good minus bad"
    backward = measured.effect("bad", "good")
    assert backward.value == pytest.approx(-effect.value) and backward.ci95 == pytest.approx((-effect.ci95[1], -effect.ci95[0]))


def test_small_samples_say_so_and_print_no_interval_that_is_too_narrow():
    few, some = (measure([counted(0)], [counted(1, n)], 2, [0]) for n in (6, 40))
    assert few.rows["good"].ci95 is None and few.effect("good", "bad").ci95 is None and side_of_zero(few.effect("good", "bad")) is None
    assert list(table(few.rows)["95 % interval"]) == ["small sample: a sketch"] * 2
    assert table(some.rows)["95 % interval"]["good"].endswith("; small sample: a sketch")
    assert format_effect(few.effect("good", "bad")).endswith(" (small sample: a sketch)")
    live = StudyResult(rows=few.rows, effects={"a": few.effect("good", "bad")}, images=6, seeds=(0,), dataset="voc")
    assert list(titled(live, None))[0] == "this page, 6 images\nsmall sample: a sketch"
    for figure in (plots.study_rows({"page": live}), plots.study_effects({"page": live}), plots.curves({"a": dict(enumerate(few.rows.values()))}, "x", "y")):
        plt.close(figure)


class Stop(Exception):
    """Enough was seen."""


@pytest.mark.parametrize("study", ["timesteps", "fusion", "qualitative", "benchmark"])
def test_no_study_measures_an_image_that_it_chose_a_threshold_on(segmenter, study, monkeypatch):
    from diffseg_lib.experiments import benchmark, fusion, qualitative, timesteps

    loaded: dict[int, tuple[Dataset, set[str]]] = {}
    load = Dataset.load

    def recorded(self, name):
        loaded.setdefault(id(self), (self, set()))[1].add(name)
        return load(self, name)

    monkeypatch.setattr(Dataset, "load", recorded)
    source = {"split": "train", "train_images": 1, "images": 1}
    category_filter = CategoryFilter.load(open_dataset("voc", "", "train", 1).prompts)
    run = {
        "timesteps": lambda: timesteps.timestep_study(segmenter, **source, timesteps=(100,)),
        "fusion": lambda: fusion.fusion_study(segmenter, **source),
        "qualitative": lambda: qualitative.qualitative_study(segmenter, **source),
        "benchmark": lambda: benchmark.words_study(segmenter, category_filter, **source, wanted=("filter", "image")),
    }
    result = run[study]()
    seen = [ids for _, ids in loaded.values()]
    assert len(seen) >= 2 and set.union(*seen[:-1]).isdisjoint(seen[-1]) and result.images == 1 and result.dataset == "pocket-voc"


def test_every_other_study_counts_by_way_of_the_same_splits():
    import inspect

    from diffseg_lib.experiments import ablation, completion, elbo, prompting, recipes, timesteps

    for module in (ablation, completion, elbo, prompting, recipes, timesteps):
        source = inspect.getsource(module)
        assert "count_splits(" in source and "open_dataset" not in source and "open_splits" not in source, module.__name__


def test_edits_and_networks_are_not_measured_on_what_they_were_made_with(segmenter, monkeypatch, tmp_path):
    from diffseg_lib.experiments import edits, network

    asked = []

    def tasks(_, dataset, count, seed):
        asked.append(dataset.ids)
        if len(asked) == 2:
            raise Stop
        return [type("Task", (), {"id": one}) for one in dataset.ids[:count]]

    monkeypatch.setattr(edits, "make_tasks", tasks)
    monkeypatch.setattr(edits, "open_dataset", lambda name, root, split: open_dataset(name, root, split, 8))
    with pytest.raises(Stop):
        edits.edit_study(segmenter, None, split="train", tuning_images=3, images=3)
    assert set(asked[0][:3]).isdisjoint(asked[1]) and len(asked[1]) == len(asked[0]) - 3

    opened = []

    def stop(methods, train_set, *_):
        opened.append(train_set)
        raise Stop

    monkeypatch.setattr(network, "make_masks", stop)
    monkeypatch.setattr(network, "open_splits", lambda *given: opened.extend(open_splits(*given)) or opened[:2])
    with pytest.raises(Stop):
        network.network_study(segmenter, tmp_path, split="train", train_images=3, images=2, rival=object())
    assert opened[2] is opened[0] and set(opened[0].ids).isdisjoint(opened[1].ids) and len(opened[1]) == 2


def test_the_single_and_the_several_resolutions_are_chosen_on_train(segmenter):
    from diffseg_lib.experiments.ablation import PAIRS, SEVERAL, SINGLE

    sample = open_dataset("voc", "", "train", 1).load("train0_000000")
    maps = variants(segmenter, sample, sample.classes, {**SINGLE, **PAIRS, "completed_finest": ROWS["completed_finest"]})
    assert len(SINGLE) == 4 and len(PAIRS) == 6 and set(SEVERAL).isdisjoint(SINGLE)
    np.testing.assert_allclose(maps["pair_4_2"].numpy(), (maps["single_4"] + maps["single_2"]).numpy() / 2, atol=1e-5)  # completion is linear
    np.testing.assert_allclose(maps["completed_finest"].numpy(), sum(maps[name] for name in SINGLE).numpy() / 4, atol=1e-5)


def test_several_seeds_are_pooled_over_the_same_images():
    parts = [counted(1), counted(2), counted(3)]
    measured = measure(parts, parts, 2, [1, 2, 3])
    assert len(measured.rows["good"].by_seed) == 3 and measured.rows["good"].sd > 0
    assert measured.confusions["good"].shape == (6, 2, 2) and measured.confusions["good"].sum() == 3 * 6 * 64


def test_against_nothing_is_against_all_background():
    measured = measure([counted(0)], [counted(1)], 2, [0])
    truth = measured.confusions["good"].sum((0, 2))
    empty = float(miou(confusion(np.repeat([0, 1], truth)[None], np.zeros((1, int(truth.sum())), int), 2)))
    assert measured.against_nothing("good").value == pytest.approx(measured.rows["good"].value - empty)


def test_a_threshold_is_never_chosen_on_what_is_reported():
    high = {"one": [count_scores(np.array([[0, 1]]), np.array([[[0.6, 0.9]]]), [1], 2)]}
    low = {"one": [count_scores(np.array([[0, 1]]), np.array([[[0.1, 0.4]]]), [1], 2)]}
    measured = measure([high], [low], 2, [0])
    assert measured.rows["one"].threshold >= 0.6 and measured.rows["one"].value == 25.0 and measured.rows["one"].oracle == 100.0


def test_parts_are_kept_under_their_key_and_read_again(tmp_path):
    store, calls = Store(tmp_path, {"weights": "abc"}), []

    def compute():
        calls.append(1)
        return counted(0)

    first, again = store.counts({"seed": 0}, compute), store.counts({"seed": 0}, compute)
    assert len(calls) == 1 and all(np.array_equal(a.counts, b.counts) for name in first for a, b in zip(first[name], again[name], strict=True))
    store.counts({"seed": 1}, compute)
    Store(tmp_path, {"weights": "other"}).counts({"seed": 0}, compute)
    assert len(calls) == 3
    Store().counts({"seed": 0}, compute)
    assert len(calls) == 4


def test_an_image_without_a_pixel_counted_is_kept_too(tmp_path):
    empty = ScoreHistogram(np.zeros((0, 4), np.int64))
    store = Store(tmp_path)
    for _ in range(2):
        [one, two] = store.counts({}, lambda: {"a": [empty, counted(0)["good"][0]]})["a"]
        assert len(one.counts) == 0 and len(two.counts) > 0


def test_the_ablation_has_the_rows_of_table_4(segmenter):
    found = ablation_study(segmenter, train_images=2, images=2, seeds=(0, 1))
    assert list(found.rows) == list(ROWS) and len(found.rows["caption"].by_seed) == 2
    assert all(effect.ci95 is None and effect.images == 2 for effect in found.effects.values())
    assert found.dataset == "pocket-voc" and {"several_over_single", "several_over_equal"} <= set(found.effects)
    assert [row.label[0] for row in found.rows.values()] == list("12345677")


def test_row_6_is_the_method_itself(segmenter):
    sample = open_dataset("voc", "", "train", 2).load("train0_000001")
    maps = variants(segmenter, sample, sample.classes)
    kept = segmenter.segment(sample.image, sample.classes, return_intermediates=True).intermediates
    np.testing.assert_allclose(maps["emphasis"].numpy(), kept.completed.numpy(), atol=1e-5)


def test_every_choice_of_words_reads_its_maps_off_one_pass(segmenter):
    data = open_dataset("voc", "", "train", 2)
    category_filter = CategoryFilter.load(data.prompts)
    together = count_attention(segmenter, data, category_filter)
    alone = count_attention(segmenter, data, category_filter, ["image"])
    for a, b in zip(together["diffsegmenter/image"], alone["diffsegmenter/image"], strict=True):
        moved = np.abs(np.subtract.outer(a.counts[:, 3], [0])).sum() - np.abs(b.counts[:, 3]).sum()
        assert moved == 0  # the same pixels, if not to the last bit the same bins
    sample = data.load("train0_000001")
    found = choices(data, sample, category_filter)
    present = [data.names.index(name) for name in sample.classes]
    assert found["image"] == sorted(present) and len(found["wrong2"]) == len(present) + 2 and set(present) < set(found["wrong2"])
    assert set(found["missing"]) < set(present) and found["all"] == list(range(1, 17))
    assert set(found["filter"]) == set(found["caption"]) | set(found["clip"])


def test_quality_of_the_true_words_is_perfect():
    data = open_dataset("voc", "", "train", 3)
    quality = filter_quality(data, CategoryFilter.load(data.prompts))
    assert (quality["image"].precision, quality["image"].recall) == (1.0, 1.0)
    assert quality["all"].recall == 1.0 and quality["all"].saved == 0.0 and 0 < quality["filter"].saved < 1


def test_signal_to_noise_falls_and_is_one_at_half(segmenter):
    ratio = signal_to_noise(segmenter.backbone.alphas_cumprod)
    assert (np.diff(ratio) < 0).all()
    half = int(np.abs(segmenter.backbone.alphas_cumprod.numpy() - 0.5).argmin())
    assert ratio[half] == pytest.approx(1, abs=0.01)


def test_the_runner_writes_json_and_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    import diffseg_lib.cli.study as runner

    monkeypatch.setattr(runner, "build_dir", lambda: tmp_path / "build")
    command = ["study", "timesteps", "--images", "2", "--train-images", "2", "--seeds", "0", "--timesteps", "50", "100", "--out", str(tmp_path)]
    assert main(command) == 0
    path = tmp_path / "pocket" / "timesteps.json"
    first = json.loads(path.read_text())
    assert {"study", "result", "command", "commit", "seconds", "versions"} <= set(first) and "t100" in first["result"]["rows"]
    kept = read_run(path, TimestepResult)
    assert kept.result.timesteps == (50, 100) and kept.result.rows["t100"].value == first["result"]["rows"]["t100"]["value"]
    parts = {p: p.stat().st_mtime_ns for p in (tmp_path / "build").rglob("*.npz")}
    assert len(parts) == 2
    path.unlink()
    assert main(command) == 0
    assert {p: p.stat().st_mtime_ns for p in parts} == parts
    assert json.loads(path.read_text())["result"] == first["result"]


def test_an_unknown_study_is_refused(capsys):
    assert main(["study", "timestep"]) == 2
    assert "did you mean timesteps" in capsys.readouterr().err


def test_committed_results_are_large_enough_and_say_how_they_were_made():
    for study in ("ablation", "timesteps"):
        run = committed_result(study, "pocket", StudyResult)
        assert run.result.images >= 500 and len(run.result.seeds) >= 3
    for data in ("voc", "context", "object"):
        run = committed_result(f"benchmark_{data}", "pocket", BenchmarkResult)
        assert run.result.images >= 500 and run.seconds > 0 and run.commit and run.versions and "diffseg_lib.studies" in run.command
    assert committed_result("no such study", "pocket", StudyResult) is None and "not run" in about(None)


KINDS = {
    "fusion": FusionResult,
    "completion": CompletionResult,
    "ablation": AblationResult,
    "timesteps": TimestepResult,
    "prompts": PromptResult,
    "recipes": RecipeResult,
    "pseudo": PseudoResult,
    "network": NetworkResult,
    "degradation": DegradationResult,
    "edits": EditResult,
    "elbo": ElboResult,
    "qualitative": QualitativeResult,
    "one_pass": OnePassResult,
    "successors": SuccessorResult,
    "protocols": ProtocolResult,
    "transformers": TransformerResult,
} | {f"benchmark_{name}": BenchmarkResult for name in READERS}


PROFILES = dict.fromkeys(KINDS, "pocket") | {"transformers": "pocket-transformer"}  # that a study's larger run is of
UNMEASURED: set[str] = set()  # studies whose larger run is not committed yet


def test_a_study_that_is_measured_is_read():
    assert [study for study in UNMEASURED if (data_dir() / "results" / "pocket" / f"{study}.json").is_file()] == []


@pytest.mark.parametrize("study", KINDS)
def test_every_committed_run_is_read_whole_into_its_class(study):
    path = data_dir() / "results" / PROFILES[study] / f"{study}.json"
    run = committed_result(study, PROFILES[study], KINDS[study])
    assert to_plain(run) == json.loads(path.read_text())
    assert set(KINDS) | UNMEASURED == set(STUDIES) and all(one.label for part in (run.result.rows, run.result.effects) for one in part.values())


def test_the_keys_of_a_result_are_identifiers():
    for study, kind in KINDS.items():
        run = committed_result(study, PROFILES[study], kind)
        keys = [*run.result.rows, *run.result.effects]
        assert [key for key in keys if not re.fullmatch(r"[a-z0-9_./-]+", key)] == [], study


def test_a_damaged_run_is_named(tmp_path):
    (tmp_path / "ablation.json").write_text('{"study": "ablation", "result": {"rows": {}}}')
    with pytest.raises(ValueError, match="ablation.json holds no AblationResult: .*: Field required; write it again with"):
        read_run(tmp_path / "ablation.json", AblationResult)


def test_a_table_and_titles_are_for_people():
    run = committed_result("ablation", "pocket", AblationResult)
    shown = table(run.result.rows)
    assert list(shown.index)[0] == "1 cross, equal weights" and list(shown["images"]) == [500] * 8
    assert list(titled(run.result, run)) == ["larger run, 500 images, 3 seeds"]
    assert list(titled(run.result, None)) == ["this page, 500 images, 3 seeds"]
    assert "sd over seeds" in shown and "sd over seeds" not in table({"a": replace(run.result.rows["plain"], sd=None)})
    assert format_value(run.result.rows["plain"]) == "84.1 (82.5 to 85.6)"


def test_the_defaults_are_shown_without_captions_and_with_them():
    from diffseg_lib.config import Config
    from diffseg_lib.experiments.ablation import PROMPTS, captions_table

    assert {key: getattr(Config(), key) for key in PROMPTS["emphasis"]} == PROMPTS["emphasis"]  # the row of the defaults
    run = committed_result("ablation", "pocket", AblationResult)
    shown = captions_table(run)
    assert list(shown["mIoU, %"]) == [format_value(run.result.rows[key]) for key in ("emphasis", "full")]
    assert set(shown["on"]) == {"pocket-voc, 500 images, 3 seeds"} and set(shown["words"]) == {"the true ones"}
    assert list(captions_table(None)["mIoU, %"]) == ["not run"] * 2
    assert "500 images of pocket-voc, seed 0 1 2" in about(run)


def test_effects_are_said_to_a_decimal_that_shows_their_side_of_zero():
    def said(value, low, high):
        return format_effect(Effect(value=value, ci95=(low, high), images=300))

    assert said(-0.4, -1.6, 0.4) == "-0.4 (-1.6 to +0.4)"
    assert said(0.4, 0.02, 0.8) == "+0.40 (+0.02 to +0.80)" and said(-0.02, -1.0, 0.9) == "+0.0 (-1.0 to +0.9)"
    assert said(0.0, 0.0, 0.0) == "+0.0 (+0.0 to +0.0)"


def test_one_effect_has_one_figure_in_the_chapters_on_prompts_and_on_the_ablation():
    prompts, ablation = (committed_result(name, "pocket", kind) for name, kind in (("prompts", PromptResult), ("ablation", AblationResult)))
    best = settled(prompts.result, ablation)
    for ours, theirs in SHARED.items():
        taken, there = best.effects[ours], ablation.result.effects[theirs]
        assert (taken.value, taken.ci95) == (there.value, there.ci95) and f"{there.images} images" in taken.label
    assert prompt_numbers(best, best, 8)["prompts_blip"].startswith(format_effect(ablation.result.effects["caption_on_plain"]))
    assert settled(prompts.result, None) is prompts.result


def test_recipes_turn_one_switch_a_row(segmenter):
    from diffseg_lib.experiments.recipes import OURS, PAPER, RELEASED, SWITCHES
    from diffseg_lib.experiments.recipes import variants as recipe_variants

    rows = {name: one.config for name, one in recipe_variants(segmenter, "object", 3).items()}
    assert list(rows) == [OURS, *SWITCHES, PAPER, RELEASED]
    for name, switch in SWITCHES.items():
        different = {key for key, value in vars(rows[name]).items() if value != vars(rows[OURS])[key]}
        assert different == set(switch.changes)
    assert rows[RELEASED].template == "a photography of {class}" and rows[RELEASED].seed == rows[PAPER].seed == 3


def test_the_study_of_one_pass_measures_every_way_and_resumes(segmenter, tmp_path, monkeypatch):
    from diffseg_lib.experiments import one_pass

    store = Store(tmp_path)
    found = one_pass.one_pass_study(segmenter, {}, "val", 1, 2, store=store)
    ways = {name + ending for name in one_pass.WAYS for ending in one_pass.EMPHASES}
    for dataset in one_pass.DATASETS:
        keys = [key.removeprefix(f"{dataset}_") for key in found.rows if key.startswith(dataset)]
        asked = {question: {key.partition("_")[2] for key in keys if key.startswith(f"{question}_")} for question in one_pass.ASKED}
        assert asked == {"true": ways, "among": ways - {"own_plain"}, "all": set(one_pass.WAYS)}
    assert found.chosen in ways - {"own", "own_plain", "joint", "joint_plain"} and found.dataset == "pocket-voc, pocket-context"
    assert found.effects["voc_true_side"].value == pytest.approx(found.rows["voc_true_side"].value - found.rows["voc_true_own"].value)
    monkeypatch.setattr(one_pass, "maps_of", lambda *given: pytest.fail("was measured before"))
    assert one_pass.one_pass_study(segmenter, {}, "val", 1, 2, store=store) == found
    assert len(list(tmp_path.iterdir())) == 8
    shown = one_pass.one_pass_table(found)
    assert len(shown) == len(ways) and not shown.isna().any(axis=None) and len(one_pass.one_pass_table(found, "all")) == len(one_pass.WAYS)


def test_ways_to_one_pass_are_the_segmenters_own(segmenter):
    from diffseg_lib.experiments.one_pass import maps_of

    sample = open_dataset("voc", "", "train", 2).load("train0_000001")
    maps = maps_of(segmenter, sample.image, sample.classes, ("own", "side", "joint"))
    for way, name in (("none", "own"), ("side", "side"), ("joint", "joint")):
        found = segmenter.with_config(one_pass=way).segment(sample.image, sample.classes)
        np.testing.assert_allclose(maps[name].numpy(), found.completed.numpy(), atol=1e-5)


def test_the_recipe_study_measures_every_row(segmenter):
    from diffseg_lib.experiments.recipes import OURS, RELEASED, SWEPT, SWITCHES, recipe_study

    found = recipe_study(segmenter, "voc", "", "val", 1, 2)
    assert set(found.rows) >= {OURS, RELEASED, *SWITCHES} and found.images == 2
    assert all(SWEPT[0] <= row.swept.threshold <= SWEPT[1] and row.swept.value <= row.oracle + 1e-9 for row in found.rows.values())
    assert found.effects[f"last_token_minus_{OURS}"].value == 0  # the pocket world's classes are one token each


def test_every_number_that_prose_cites_is_given():
    import nbformat

    from diffseg_lib.book.run import notebooks_dir
    from diffseg_lib.experiments import (
        ablation,
        benchmark,
        claims,
        degradation,
        edits,
        network,
        protocols,
        pseudo,
        qualitative,
        recipes,
        successors,
        transformers,
    )

    given = {
        "10_ablation": ablation.numbers(committed_result("ablation", "pocket", AblationResult).result),
        "12_qualitative": qualitative.numbers(committed_result("qualitative", "pocket", QualitativeResult).result),
        "22_claims": claims.numbers(claims.ledger()),
        "20_protocols": protocols.numbers(committed_result("protocols", "pocket", ProtocolResult).result),
        "17_recipes": recipes.numbers(committed_result("recipes", "pocket", RecipeResult).result),
        "18_after_the_paper": successors.numbers(committed_result("successors", "pocket", SuccessorResult).result),
        "13_pseudo_labels": pseudo.numbers(committed_result("pseudo", "pocket", PseudoResult).result),
        "14_network": network.numbers(committed_result("network", "pocket", NetworkResult).result)
        | degradation.numbers(committed_result("degradation", "pocket", DegradationResult).result),
        "19_transformers": transformers.numbers(committed_result("transformers", "pocket-transformer", TransformerResult).result),
        "15_editing": edits.numbers(committed_result("edits", "pocket", EditResult).result),
        "11_benchmark": benchmark.numbers({name: committed_result(f"benchmark_{name}", "pocket", BenchmarkResult).result for name in READERS}, "filter"),
    }
    for chapter, numbers in given.items():
        cells = nbformat.read(notebooks_dir() / f"{chapter}.ipynb", 4).cells
        cited = {name for cell in cells if cell.cell_type == "markdown" for name in re.findall(r"{glue:text}`(\w+)`", cell.source)}
        assert cited and cited <= set(numbers), chapter
        assert all(isinstance(text, str) and text for text in numbers.values()), chapter


def test_numbers_and_tables_say_what_the_results_hold():
    from diffseg_lib.experiments import ablation, benchmark, edits, network, pseudo, qualitative, recipes
    from diffseg_lib.experiments.claims import quoted_table

    run = committed_result("ablation", "pocket", AblationResult).result
    numbers = ablation.numbers(run)
    assert numbers["ablation_finest"] == format_effect(run.effects["completion_by_finest"]) == "+23.3 (+21.7 to +24.8)"
    assert numbers["ablation_plus_verdict"] == "not reproduced" and numbers["ablation_seeds"] == "3 seeds"
    assert quoted_table(run.effects, ablation.PAPER).loc["++ on plain", "paper on VOC train, quoted"] == "+4.14"
    results = {name: committed_result(f"benchmark_{name}", "pocket", BenchmarkResult).result for name in READERS}
    shown = benchmark.benchmark_table(results, "filter", ["diffsegmenter", "groupvit"])
    assert list(shown.index) == ["diffsegmenter", "upper bound: true words", "filter: precision, recall"] and list(shown.columns) == [
        f"pocket-{name}" for name in results
    ]
    assert benchmark.numbers({"voc": results["voc"]}, "filter")["benchmark_object_elbo"] == "not run"
    assert results["voc"].by_choice("diffsegmenter")["wrong2"].label == "true words and 2 wrong"
    assert results["voc"].by_method("image")["elbo"].label == "elbo" and results["voc"].row("elbo", "all") is None
    run = committed_result("recipes", "pocket", RecipeResult).result
    assert recipes.moving(run) == ["photograph", "photography", "plural", "paper_weights"]
    assert recipes.recipe_table(run.rows).loc["no ++", "whose choice"] == recipes.SWITCHES["no_emphasis"].source
    run = committed_result("pseudo", "pocket", PseudoResult).result
    assert list(pseudo.mask_table(run.rows).loc["t = 100"]) == [format_value(one) for one in (run.rows["one"], run.rows["one"].edges, run.rows["one"].inside)]
    assert pseudo.crf_table({"chosen": run.crf}).loc["chosen", "from"] == "chosen on train images"
    run = committed_result("network", "pocket", NetworkResult).result
    assert list(network.masks_table(run.masks).index) == ["our pseudo-labels", "dense CLIP's pseudo-labels"]
    assert network.network_table(run.rows).loc["drawn masks", "mIoU, %"] == f"{run.rows['drawn'].value:.1f}"
    run = committed_result("edits", "pocket", EditResult).result
    shown = edits.edit_table(run.rows)
    assert shown.loc["Prompt-to-Prompt", "SSIM outside, x 100"] == f"{100 * run.rows['plain'].ssim.value:.1f}" and shown.shape == (7, 4)
    run = committed_result("qualitative", "pocket", QualitativeResult).result
    assert qualitative.effects_table({"here": run, "large": None}).shape == (len(run.effects), 2)


def test_a_transformer_and_a_unet_are_measured_on_the_same_images(segmenter):
    from diffseg_lib.experiments import transformers

    joint = DiffSegmenter.from_profile("pocket-transformer")
    found = transformers.transformer_study(joint, segmenter, train_images=1, images=2, levels=(200, 500), looked_at=1)
    blocks = len(joint.backbone.unet.transformer_blocks)
    assert set(transformers.main_rows(found)) == {
        "unet_fused",
        "unet_completed",
        "fused",
        "completed",
        "completed_by_all",
        "over_words_fused",
        "over_words",
        "concepts",
    }
    assert {name for name in found.rows if name.startswith("block_")} == {f"block_{i}" for i in range(blocks)} and 0 <= found.block < blocks
    assert set(found.to_text) == {f"block {i}" for i in range(blocks)} == set(found.to_words)
    assert all(0 < found.to_words[name].value < found.to_text[name].value < 100 for name in found.to_text)
    assert len(found.areas) == blocks + 10 and len(transformers.share_table(found)) == blocks
    assert (
        found.images == 2
        and found.level in (200, 500)
        and {name: list(rows) for name, rows in transformers.by_level(found).items()}
        == {
            "fused maps": [0.2, 0.5],
            "completed": [0.2, 0.5],
        }
    )
    rows, effects = found.rows, found.effects
    assert effects["transformer_minus_unet"].value == pytest.approx(rows["completed"].value - rows["unet_completed"].value)
    assert effects["fusion_minus_block"].value == pytest.approx(rows["fused"].value - rows[f"block_{found.block}"].value)
    unet = transformers.transformer_study(joint, segmenter, train_images=1, images=2, levels=(200,), looked_at=1).rows["unet_completed"]
    assert unet == rows["unet_completed"], "the same images, noise and rule"
    with pytest.raises(ValueError, match="the study reads joint attention, and the model of profile 'pocket' has none"):
        transformers.transformer_study(segmenter, segmenter, train_images=1, images=1)
