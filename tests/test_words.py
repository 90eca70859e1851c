"""Names of classes as people give them: spellings of one class are one, a text is a list, and data sets' own lists stay as they are."""

from __future__ import annotations

import pytest

from diffseg_lib.data.names import CONTEXT, CONTEXT_ORIGINAL, RELEASED_ALIASES, VOC, prompt_words
from diffseg_lib.pocket.world import CLASS_NAMES, GROUND_NAMES
from diffseg_lib.support.words import class_names

COCO = (
    "person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant stop_sign parking_meter bench bird cat dog horse "
    "sheep cow elephant bear zebra giraffe backpack umbrella handbag tie suitcase frisbee skis snowboard sports_ball kite baseball_bat "
    "baseball_glove skateboard surfboard tennis_racket bottle wine_glass cup fork knife spoon bowl banana apple sandwich orange broccoli carrot "
    "hot_dog pizza donut cake chair couch potted_plant bed dining_table toilet tv laptop mouse remote keyboard cell_phone microwave oven toaster "
    "sink refrigerator book clock vase scissors teddy_bear hair_drier toothbrush"
)


@pytest.mark.parametrize(
    ("given", "names", "merged"),
    [
        ("dog", ("dog",), 0),
        ("dog, red  fish,", ("dog", "red fish"), 0),
        (["dog, cat", "house"], ("dog", "cat", "house"), 0),
        (["Dog", "a dog", "dogs", "dog "], ("Dog",), 1),
        (["bus", "The Buses", "children", "child", "person", "people"], ("bus", "children", "person"), 3),
        (["glass", "glasses", "wood", "woods", "lens", "cloth", "clothes"], ("glass", "glasses", "wood", "woods", "lens", "cloth", "clothes"), 0),
        (["red house", "house", "dog house", "dog"], ("red house", "house", "dog house", "dog"), 0),
        ([""], ("",), 0),
    ],
)
def test_spellings_of_one_class_are_one_and_said(given, names, merged):
    found, notes = class_names(given)
    assert found == names and len(notes) == merged and all(note.endswith(tuple(f"are one class, {name}" for name in names)) for note in notes)
    assert class_names(given if isinstance(given, list) else [given], merge=False) == (tuple(given) if isinstance(given, list) else (given,), ())


@pytest.mark.parametrize(
    "names",
    [
        VOC,
        CONTEXT,
        CONTEXT_ORIGINAL,
        prompt_words(["", *VOC]),
        prompt_words(["", *VOC], RELEASED_ALIASES),
        [one.replace("_", " ") for one in COCO.split()],
        [*CLASS_NAMES, *GROUND_NAMES],
    ],
)
def test_no_two_classes_of_a_data_set_are_one(names):
    assert class_names(names) == (tuple(names), ())


def test_a_text_is_a_list_wherever_classes_are_taken(backbone, picture, pipeline_folder, tmp_path):
    from PIL import Image

    from diffseg_lib.book.run import parameters_for
    from diffseg_lib.cli.main import main
    from diffseg_lib.pocket.scenes import photo_or_scene
    from diffseg_lib.segmenter import DiffSegmenter
    from diffseg_lib.support.paths import repository_root

    segmenter = DiffSegmenter(backbone)
    found = segmenter.segment(picture, "house, fish")
    assert found.classes == ("house", "fish") and segmenter.segment(picture, "house").classes == ("house",)
    said = segmenter.segment(picture, ["House", "a fish", "houses"])
    assert said.classes == ("House", "a fish") and "House and houses are one class, House" in said.notes
    assert segmenter.segment(picture, ["house", "houses"], merge=False).classes == ("house", "houses")  # a data set's own
    Image.fromarray(picture).save(tmp_path / "photo.png")
    assert photo_or_scene(str(tmp_path / "photo.png"), "house").classes == ("house",)
    chapter = repository_root() / "notebooks" / "01_quickstart.ipynb"
    for text, names in (("dog", ["dog"]), ("dog, cat", ["dog", "cat"]), ("[dog, cat]", ["dog", "cat"])):
        assert parameters_for(chapter, {}, {}, {"classes": text}) == {"classes": names}
    assert main(["segment", str(tmp_path / "photo.png"), "--classes", "house,fish", "--profile", str(pipeline_folder), "--out", str(tmp_path / "out")]) == 0
    assert '"fish"' in (tmp_path / "out" / "result.json").read_text()
