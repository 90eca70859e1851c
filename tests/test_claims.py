"""Verdicts follow from the JSON by rule: another JSON, another verdict."""

from __future__ import annotations

import json

import pytest

from diffseg_lib.book.ledger import ledger_cards
from diffseg_lib.book.plots import claim_forest
from diffseg_lib.cli.study import STUDIES
from diffseg_lib.experiments.claims import (
    CLAIMS,
    PAPER,
    SUCCESSORS,
    UNTESTABLE,
    Claim,
    counts,
    effect_verdict,
    ledger,
    measured_text,
    numbers,
    verdict,
    write_ledger,
)
from diffseg_lib.experiments.measure import CommittedRun, Effect, StudyResult, committed_result
from diffseg_lib.experiments.successor_claims import ALL_CLAIMS, SUCCESSOR_CLAIMS
from diffseg_lib.profiles import load_profile
from diffseg_lib.support.files import to_plain, write_json
from diffseg_lib.support.identity import describe_models
from diffseg_lib.support.paths import data_dir

CLAIM = Claim("a beats b", "Table 1", "11_benchmark", "some", ("a_minus_b", "a_minus_c"), "+1")


def fill_template(folder, images=500, seeds=(0,), **effects):
    folder.mkdir(parents=True, exist_ok=True)
    found = {name: Effect(value=sum(ci) / 2, ci95=ci, seeds=seeds, images=images) for name, ci in effects.items()}
    result = StudyResult(rows={}, effects=found, images=images, seeds=(0, 1), dataset="voc")
    models = describe_models(load_profile("pocket"))
    about = {"command": "run it", "device": "cpu", "seconds": 1.0, "commit": None, "dirty": None, "versions": {}, "models": models, "data": (), "code": {}}
    write_json(folder / "some.json", CommittedRun(study="some", profile=folder.name, result=result, **about))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [((1, 3), (2, 4), "reproduced"), ((1, 3), (-1, 4), "inconclusive"), ((1, 3), (-4, -1), "not reproduced"), ((0, 3), (1, 2), "inconclusive")],
)
def test_a_changed_json_changes_the_verdict(tmp_path, first, second, expected):
    fill_template(tmp_path / "pocket", a_minus_b=first, a_minus_c=second)
    [row] = ledger(tmp_path, claims=[CLAIM])
    assert row.verdict == expected
    shown = {"reproduced": first, "inconclusive": min(first, second), "not reproduced": second}[expected]
    assert row.effect == sum(shown) / 2 and row.command == "run it" and row.images == 500


def test_a_claim_of_the_opposite_sign():
    assert verdict([(-3, -1)], opposite=True) == "reproduced" and verdict([(1, 3)], opposite=True) == "not reproduced"
    assert verdict([]) == "not run"


def test_what_was_not_measured_is_not_run_or_says_by_what_it_will_be(tmp_path):
    assert ledger(tmp_path, claims=[CLAIM])[0].verdict == "not run"
    fill_template(tmp_path / "pocket", a_minus_b=(1, 2))
    [row] = ledger(tmp_path, claims=[CLAIM])
    assert (row.verdict, row.effect, row.ci95, row.real) == ("not measured yet", None, None, "not run")
    assert row.command == measured_text(row) == "python -m diffseg_lib study some"
    assert numbers([row])["claims_unrun"] == "1" and numbers([row])["claims_named_unrun"] == "a beats b"


@pytest.mark.parametrize(("images", "expected"), [(1, "undecided: 1 images"), (99, "undecided: 99 images"), (100, "reproduced")])
def test_few_images_decide_nothing(tmp_path, images, expected):
    fill_template(tmp_path / "pocket", images, a_minus_b=(1, 2), a_minus_c=(1, 2))
    rows = ledger(tmp_path, claims=[CLAIM])
    assert rows[0].verdict == effect_verdict(Effect(value=1.5, ci95=(1, 2), images=images)) == expected
    assert set(counts(rows)) == {expected.split(":")[0]} and numbers(rows)["claims_open"] == str(int(images < 100))
    assert len(claim_forest(rows).axes) == 1


def test_an_effect_without_an_interval_decides_nothing(tmp_path):
    assert verdict([(1, 2), None]) == "undecided: 100 images" and effect_verdict(Effect(value=1.5, ci95=None, images=12)) == "undecided: 12 images"


def test_every_row_has_the_seeds_of_its_effect_or_of_its_study(tmp_path):
    fill_template(tmp_path / "pocket", seeds=(), a_minus_b=(1, 2), a_minus_c=(1, 2))
    assert ledger(tmp_path, claims=[CLAIM])[0].seeds == (0, 1)
    assert [row.claim for row in ledger() if row.effect is not None and not row.seeds] == []


def test_a_claim_on_several_weights_is_not_judged_on_one_resolution():
    run = committed_result("ablation", "pocket", StudyResult)
    weights = json.loads((data_dir() / "results" / "pocket" / "ablation.json").read_text())["result"]["weights"]["chosen"]
    alone = sum(value > 0 for value in weights.values()) == 1
    claim = {one.effects: one.claim for one in CLAIMS}
    assert "chosen_weights" in run.result.effects and ("keep one resolution" in claim["chosen_weights",]) == alone
    assert {("several_over_single",), ("several_over_equal",)} <= set(claim)


def test_the_effect_that_decides_is_the_one_shown(tmp_path):
    fill_template(tmp_path / "pocket", a_minus_b=(0.2, 0.6), a_minus_c=(-0.1, 0.9))  # the smaller effect is not the one that is in doubt
    [row] = ledger(tmp_path, claims=[CLAIM])
    assert row.verdict == "inconclusive" and row.ci95 == (-0.1, 0.9)
    fill_template(tmp_path / "pocket", a_minus_b=(-9, 1), a_minus_c=(-1, -0.5))
    [row] = ledger(tmp_path, claims=[CLAIM])
    assert row.verdict == "not reproduced" and row.ci95 == (-1, -0.5)


def test_every_effect_of_the_ledger_agrees_with_its_verdict():
    for row in (one for one in ledger() if one.effect is not None):
        low, high = row.ci95
        assert row.verdict == ("reproduced" if low > 0 else "not reproduced" if high < 0 else "inconclusive"), row.claim


def test_a_claim_that_cannot_be_tested_here_says_why(tmp_path):
    claim = Claim("it beats what nobody has", "Table 1", "11_benchmark", untestable="It takes photographs.")
    [row] = ledger(tmp_path, claims=[claim])
    assert (row.verdict, row.effect, measured_text(row)) == (UNTESTABLE, None, "It takes photographs.")
    assert numbers([row])["claims_untestable"] == "1" and numbers([row])["claims_unrun"] == "0"
    assert [one.claim for one in CLAIMS if bool(one.untestable) == bool(one.study and one.effects)] == []


def test_cards_show_every_claim_whole_with_its_verdict_and_its_chapter(tmp_path):
    fill_template(tmp_path / "pocket", a_minus_b=(1, 2), a_minus_c=(1, 2))
    fill_template(tmp_path / "sd15", a_minus_b=(-2, -1), a_minus_c=(1, 2))
    long = Claim("a < b " * 40, "Table 1", "06_words", untestable="no photographs")
    cards = ledger_cards(ledger(tmp_path, claims=[CLAIM, long]), "mine").data
    assert "a &lt; b " * 39 in cards and "no photographs" in cards and '<a href="06_words.html">Choosing the words</a>' in cards
    assert "+1.5 (+1.0 to +2.0) mIoU, points" in cards and "sd15: not reproduced" in cards
    assert cards.count('name="ledger-mine"') == 3 and 'value="cannot-be-tested-here"' in cards and "not run" not in cards


def test_every_verdict_has_a_filter():
    from diffseg_lib.experiments.claims import VERDICTS
    from diffseg_lib.support.paths import repository_root

    style = (repository_root() / "_static" / "book.css").read_text()
    for kind in VERDICTS:
        name = kind.replace(" ", "-")
        assert f'input[value="{name}"]:checked) li:not(.{name})' in style


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no results at"):
        ledger(tmp_path / "nowhere")


def test_real_weights_fill_their_own_column(tmp_path):
    fill_template(tmp_path / "pocket", a_minus_b=(1, 2), a_minus_c=(1, 2))
    fill_template(tmp_path / "sd15", a_minus_b=(-2, -1), a_minus_c=(1, 2))
    [row] = ledger(tmp_path, claims=[CLAIM])
    assert row.verdict == "reproduced" and row.real["sd15"].verdict == "not reproduced"


def test_the_ledger_is_written_as_a_list(tmp_path):
    fill_template(tmp_path / "pocket", a_minus_b=(1, 2), a_minus_c=(1, 2))
    rows = ledger(tmp_path, claims=[CLAIM])
    assert json.loads(write_ledger(rows, tmp_path).read_text()) == to_plain(rows)
    assert {"claim", "where", "chapter", "metric", "effect", "ci95", "seeds", "images", "verdict", "command", "real"} <= set(vars(rows[0]))


def test_the_committed_ledger_follows_from_the_committed_results():
    """Run ``diffseg claims --write`` after new results."""
    assert json.loads((data_dir() / "results" / "claims.json").read_text()) == to_plain(ledger(claims=ALL_CLAIMS))


def test_every_claim_has_a_study_that_was_run_and_a_chapter():
    from diffseg_lib.book.run import notebooks_dir

    assert len(CLAIMS) >= 15 and len({one.claim for one in CLAIMS}) == len(CLAIMS)
    assert [one.claim for one in ALL_CLAIMS if one.study not in STUDIES and not one.untestable] == []
    assert [one.claim for one in ALL_CLAIMS if not (notebooks_dir() / f"{one.chapter}.ipynb").is_file()] == []
    assert [row.claim for row in ledger() if row.verdict == "not run"] == []
    unmeasured = [row for row in ledger() if row.verdict == "not measured yet"]
    assert all(row.command == f"python -m diffseg_lib study {one.study}" for row in unmeasured for one in CLAIMS if one.claim == row.claim)


# -- the second table


def successors(folder, **effects):
    fill_template(folder, **effects)
    (folder / "some.json").rename(folder / "successors.json")


def test_claims_of_the_successors_get_each_verdict_from_the_json(tmp_path):
    two = [one for one in SUCCESSOR_CLAIMS if one.study == "successors" and not one.untestable]
    lower, higher, between, lost = two[0], two[1], two[2], next(one for one in two if one.opposite)
    sides = {lower: (-3, -1), higher: (1, 3), between: (-1, 1), lost: (-4, -2)}
    successors(tmp_path / "pocket", **{name: ci for claim, ci in sides.items() for name in claim.effects})
    found = {row.claim: row for row in ledger(tmp_path, claims=SUCCESSOR_CLAIMS)}
    assert [found[one.claim].verdict for one in sides] == ["not reproduced", "reproduced", "inconclusive", "reproduced"]
    assert {row.verdict for row in found.values()} == {"not reproduced", "reproduced", "inconclusive", "not measured yet", "not run", "cannot be tested here"}
    successors(tmp_path / "pocket", images=60, **dict.fromkeys(higher.effects, (1, 3)))
    assert [row.verdict for row in ledger(tmp_path, claims=[higher])] == ["undecided: 60 images"]


def test_a_claim_that_cannot_be_tested_says_why():
    rows = [row for row in ledger(claims=SUCCESSOR_CLAIMS) if row.verdict == "cannot be tested here"]
    assert len(rows) >= 3 and all(row.why and measured_text(row) == row.why and row.effect is None for row in rows)
    assert len(SUCCESSOR_CLAIMS) >= 14 and all(row.why in ledger_cards(rows, "successors").data for row in rows)


def test_both_tables_are_kept_apart():
    assert {one.table for one in CLAIMS} == {PAPER} and {one.table for one in SUCCESSOR_CLAIMS} == {SUCCESSORS}
    assert len({one.claim for one in ALL_CLAIMS}) == len(ALL_CLAIMS)
    profiles = {"successors": "pocket", "protocols": "pocket", "transformers": "pocket-transformer"}
    known = {study: set(committed_result(study, profile, StudyResult).result.effects) for study, profile in profiles.items()}
    assert all(one.profile in ("", profiles[one.study]) for one in SUCCESSOR_CLAIMS)
    assert all(set(one.effects) <= known[one.study] for one in SUCCESSOR_CLAIMS)
