"""Figures of several panels: each draws what it was given, from plain data."""

from __future__ import annotations

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from diffseg_lib.book import plots

PIXELS = np.full((8, 12, 3), 200, np.uint8)
TRUTH = np.zeros((8, 12), int)
TRUTH[2:6, 1:5] = 1
TRUTH[2:6, 7:11] = 2
SAMPLE = SimpleNamespace(image=PIXELS, truth=TRUTH, classes=("house", "fish"))


def one(value, label="", **more):
    return SimpleNamespace(label=label, value=value, ci95=(value - 1, value + 2), **more)


ROWS = {"ours": one(80.0, "our maps"), "rival": one(60.0, "the rival's")}
RUN = SimpleNamespace(rows=ROWS, effects={"ours_minus_rival": one(20.0, "ours minus the rival's"), "ours_minus_none": one(5.0, "ours minus none")})


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    yield
    for number in plt.get_fignums():
        plt.figure(number).canvas.draw()  # nothing that was put on a figure may fail when it is drawn
    plt.close("all")


def titles(figure):
    return [ax.get_title() for ax in figure.axes]


def test_rows_of_every_run_stand_beside_each_other_and_a_missing_run_says_so():
    figure = plots.study_rows({"this page": RUN, "larger run": None}, {"rows alone": ROWS, "again": ROWS}, strong="ours")
    assert titles(figure) == ["this page", "larger run", "rows alone", "again"]
    first, missing = figure.axes[:2]
    assert [bar.get_width() for bar in first.patches] == [80, 60] and [text.get_text() for text in missing.texts] == ["not run"]
    assert [label.get_text() for label in first.get_yticklabels()] == ["our maps", "the rival's"]
    assert first.patches[0].get_facecolor() != first.patches[1].get_facecolor()


def test_effects_are_named_by_their_labels_in_the_order_asked_for():
    [ax] = plots.study_effects({"this page": RUN, "larger run": None}).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["ours minus the rival's", "ours minus none"]
    [ax] = plots.study_effects({"this page": RUN}, ["ours_minus_none"]).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["ours minus none"] and list(ax.lines[0].get_xdata()) == [5.0]


def test_a_class_report_leaves_out_what_does_not_occur():
    figure = plots.class_report(["background", "house", "fish"], [[8, 2, 0], [1, 3, 0], [0, 0, 0]], {"background": 70.0, "house": 90.0, "fish": None})
    matrix, bars = figure.axes
    assert [label.get_text() for label in matrix.get_yticklabels()] == ["background", "house"]
    assert [label.get_text() for label in bars.get_yticklabels()] == ["house", "background"]  # from the highest down


def test_measures_name_their_rows_once():
    figure = plots.measure_bars({"a, %": ROWS, "b, %": ROWS, "c, %": ROWS}, "ours", columns=3)
    assert [ax.get_xlabel() for ax in figure.axes] == ["a, %", "b, %", "c, %"]
    assert [len(ax.get_yticklabels()) and ax.get_yticklabels()[0].get_text() for ax in figure.axes] == ["our maps", "", ""]


def test_claims_that_were_not_measured_are_not_drawn():
    rows = [SimpleNamespace(claim=name, effect=effect, ci95=(1, 3), verdict="reproduced") for name, effect in (("a", 2.0), ("b", None))]
    [ax] = plots.claim_forest(rows).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a"]


def test_recall_is_drawn_a_dot_a_row_and_size():
    sizes = {name: {"small": one(50.0 + i, "below 2 %", objects=3), "large": one(90.0, "above 8 %", objects=7)} for i, name in enumerate(ROWS)}
    [ax] = plots.recall_by_size(sizes, {"ours": "our maps", "rival": "the rival's"}).axes
    assert [label.get_text() for label in ax.get_xticklabels()] == ["below 2 % of the picture\n(3 objects)", "above 8 % of the picture\n(7 objects)"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["our maps", "the rival's"]


def test_curves_of_the_least_probability_end_where_they_are_told():
    points = [SimpleNamespace(sure=s, kept=1 - s, miou=60 + 10 * s) for s in (0.0, 0.5, 0.9)]
    [ax] = plots.sure_curves({"bare": points}).axes
    assert list(ax.lines[0].get_xdata()) == [100, 50] and [text.get_text() for text in ax.texts] == ["0.5"]


def test_losses_stand_beside_what_came_of_them():
    left, right = plots.losses_and_rows({"ours": [(1, 3.0), (2, 1.0)]}, {"ours": ROWS["ours"]}, "val").axes
    assert list(left.lines[0].get_ydata()) == [3.0, 1.0] and right.get_title() == "val"
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["our maps"]


def test_galleries_have_a_column_a_picture():
    maps = {"before": TRUTH, "after": np.minimum(TRUTH, 1)}
    figure = plots.label_columns([PIXELS, PIXELS], [maps, maps], SAMPLE.classes, ["gains", "loses"])
    assert titles(figure) == ["gains", "loses", "before", "before", "after", "after"]
    assert titles(plots.label_columns([PIXELS], [maps], SAMPLE.classes)) == ["before", "after"]
    found = SimpleNamespace(labels=TRUTH, words=())
    assert titles(plots.truth_and_found([SAMPLE], [found], SAMPLE.classes)) == ["truth: house, fish", "found: no words"]
    scores = {"ours": np.linspace(0, 1, 96).reshape(8, 12)}
    assert titles(plots.score_columns([SAMPLE], [scores]))[0] == "“house” in"
    assert len(plots.label_comparison([SAMPLE, SAMPLE], [maps, maps]).axes) == 6


def test_a_map_gallery_fills_the_panels_beside_the_picture():
    maps = {f"row {i}": np.random.default_rng(i).random((8, 12)) for i in range(4)}
    figure = plots.map_gallery(PIXELS, TRUTH, SAMPLE.classes, maps, columns=3)
    assert titles(figure) == ["“house” in", "row 0", "row 1", "truth", "row 2", "row 3"]
    with pytest.raises(ValueError, match="argument"):
        plots.map_gallery(PIXELS, TRUTH, SAMPLE.classes, maps, columns=4)


def test_edits_stand_beside_the_picture_and_its_mask():
    task = SimpleNamespace(pixels=PIXELS, mask=TRUTH == 1, word="house", new="fish")
    assert titles(plots.edit_rows([task, task], [{"plain": PIXELS}] * 2)) == ["house to fish", "our mask", "plain", "house to fish", "", ""]
    assert titles(plots.picture_strip({"before": PIXELS, "after": PIXELS})) == ["before", "after"]


def test_times_leave_out_what_they_are_compared_with():
    spread = {"median": 1.1, "range": [1.0, 1.2]}
    tables = {"1": {"bare": {"ratio": spread}, "ours": {"ratio": spread}}}
    [ax] = plots.ratio_panels(tables).axes
    assert ax.get_title() == "C = 1" and [label.get_text() for label in ax.get_yticklabels()] == ["ours"]
    [ax] = plots.stage_bars({"small": {"UNet": {"median": 3.0}, "text": {"median": 1.0}}}).axes
    assert [bar.get_width() for bar in ax.patches] == [0.75, 0.25]
    [ax] = plots.bar_figure({"a": 1.0, "b": 2.0}, "minutes").axes
    assert ax.get_xlabel() == "minutes" and len(ax.patches) == 2


def test_methods_are_numbered_by_cost_and_named_below():
    rows = {"ours": one(80.0, "our maps", seconds=0.2), "rival": one(60.0, "the rival's", seconds=0.9)}
    figure = plots.accuracy_against_cost({"voc": rows, "context": {"rival": rows["rival"]}}, strong=("ours",))
    assert titles(figure) == ["voc", "context"]
    assert [[text.get_text() for text in ax.texts] for ax in figure.axes] == [["1", "2"], ["2"]]
    assert "1 our maps" in figure.texts[0].get_text() and any("2 the rival's" in text.get_text() for text in figure.texts)
    marks = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [float(line.get_xdata()[0]) for line in marks] == [0.2, 0.9] and marks[0].get_color() != marks[1].get_color()


def test_flat_labels_are_opaque_and_named_once():
    found = {"ours": np.where(TRUTH == 2, 3, TRUTH)}
    figure = plots.flat_label_gallery([SAMPLE], [found], ["house", "fish", "car"])
    _, truth, ours = (ax.images[0].get_array() for ax in figure.axes)
    assert tuple(truth[3, 2]) == plots.class_colour(1) and tuple(truth[3, 8]) == plots.class_colour(2) and tuple(truth[0, 0]) == (1, 1, 1)
    assert tuple(ours[3, 8]) == plots.class_colour(3)
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["house", "fish", "car"]
    void = plots.flat_label_gallery([SAMPLE], [{"ours": np.where(TRUTH == 2, 255, TRUTH)}], ["house", "fish"])
    assert tuple(void.axes[2].images[0].get_array()[3, 8]) == (0.3, 0.3, 0.3)
