"""Settings are checked values: types, names and ranges, when they are made and when they are replaced."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict, fields, replace
from typing import Annotated, get_type_hints

import numpy as np
import pytest
from pydantic import Field

from diffseg_lib.applications.crf import PRESETS, Crf
from diffseg_lib.applications.deeplab import Recipe
from diffseg_lib.applications.prompt_to_prompt import Gate, LocalBlend, PromptToPrompt
from diffseg_lib.applications.pseudo_labels import Pseudo
from diffseg_lib.baselines.attention import Attention
from diffseg_lib.baselines.elbo import ElboMethod
from diffseg_lib.config import Config, recipe
from diffseg_lib.evaluation.jobs import Job
from diffseg_lib.evaluation.methods import METHODS
from diffseg_lib.pocket.training.fitting import Schedule
from diffseg_lib.profiles import Profile
from diffseg_lib.segmenter import DiffSegmenter
from diffseg_lib.support.settings import PLAIN, Count, Share, settings

MADE = {
    Config: {},
    Profile: {"name": "mine", "source": "a/b"},
    Job: {"dataset": "voc"},
    Crf: {},
    Pseudo: {"threshold": 0.5, "crf": PRESETS["irn"]},
    Recipe: {},
    PromptToPrompt: {},
    LocalBlend: {"source": "house", "target": "fish"},
    Schedule: {"steps": 10},
}
SEED = "expected an integer from 0 to 2**64 - 1"
SHARE = "expected a number from 0 to 1"
WEIGHTS = "expected a mapping of strides, or of a transformer's blocks from 0, to weights (numbers of at least 0)"
TIMESTEPS = "expected a list of at least one integer of at least 0"


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        (Config, {"threshold": "0.5"}, f"threshold '0.5': {SHARE}, or None"),
        (Config, {"threshold": 1.5}, f"threshold 1.5: {SHARE}, or None"),
        (Config, {"threshold": float("nan")}, f"threshold nan: {SHARE}, or None"),
        (Config, {"threshold": True}, f"threshold True: {SHARE}, or None"),
        (Config, {"emphasis": float("inf")}, "emphasis inf: expected a number"),
        (Config, {"seed": -1}, f"seed -1: {SEED}"),
        (Config, {"seed": 2**64}, f"seed 18446744073709551616: {SEED}"),
        (Config, {"seed": 1.0}, f"seed 1.0: {SEED}"),
        (Config, {"class_batch": 0}, "class_batch 0: expected an integer of at least 1"),
        (Config, {"iterations": True}, "iterations True: expected an integer of at least 0"),
        (Config, {"optimized": 1}, "optimized 1: expected True or False"),
        (Config, {"caption": "complet"}, "caption 'complet': expected none, complete, phrase; did you mean complete?"),
        (Config, {"span": None}, "span None: expected all, last"),
        (Config, {"timesteps": ()}, f"timesteps (): {TIMESTEPS}, or None"),
        (Config, {"timesteps": (100, 1.5)}, f"timesteps (100, 1.5): {TIMESTEPS}, or None"),
        (Config, {"weights": {8: -1.0}}, f"weights {{8: -1.0}}: {WEIGHTS}, or None"),
        (Config, {"weights": {"coarse": 1}}, f"weights {{'coarse': 1}}: {WEIGHTS}, or None"),
        (Config, {"template": "a photograph"}, "template 'a photograph': expected text with the place of the class, '{class}', in it, or None"),
        (Config, {"tresholds": 0.5}, "unknown setting 'tresholds' of Config: did you mean threshold?"),
        (Config, {"tresholds": 0.5, "seed": -1}, f"seed -1: {SEED}; and unknown setting 'tresholds' of Config: did you mean threshold?"),
        (Profile, {"size": -1}, "size -1: expected an integer of at least 0"),
        (Profile, {"weights": 3}, f"weights 3: {WEIGHTS}"),
        (Profile, {"words": "fish"}, "words 'fish': expected a list of texts"),
        (Profile, {"roots": {"voc": 1}}, "roots {'voc': 1}: expected a mapping"),
        (Profile, {"dtype": "float8"}, "dtype 'float8': expected float32, bfloat16, float16; did you mean float32, float16, bfloat16?"),
        (Profile, {"relative_clip_threshold": 97}, f"relative_clip_threshold 97: {SHARE}"),
        (Profile, {"timestep": 5}, "unknown setting 'timestep' of Profile: did you mean timesteps?"),
        (Job, {"dataset": "vok"}, "dataset 'vok': expected voc, context, object; did you mean voc?"),
        (Job, {"method": "dam"}, f"method 'dam': expected {', '.join(METHODS)}; did you mean daam?"),
        (Job, {"order": "reverse"}, "order 'reverse': expected '', alphabetical, original"),
        (Job, {"limit": -1}, "limit -1: expected an integer of at least 0"),
        (Job, {"threads": -1}, "threads -1: expected an integer of at least 0"),
        (Job, {"threads": 1.0}, "threads 1.0: expected an integer of at least 0"),
        (Job, {"labls": "all"}, "unknown setting 'labls' of Job: did you mean labels, labels_from?"),
        (Crf, {"smooth_xy": float("nan")}, "smooth_xy nan: expected a number above 0"),
        (Crf, {"smooth_weight": -1}, "smooth_weight -1: expected a number of at least 0"),
        (Crf, {"color_xy": 3}, "unknown setting 'color_xy' of Crf: did you mean colour_xy, colour_rgb?"),
        (Pseudo, {"threshold": 0}, "threshold 0: expected a number above 0 and up to 1"),
        (Pseudo, {"min_confidence": 2}, f"min_confidence 2: {SHARE}"),
        (Pseudo, {"crf": {"iterations": 3}}, "crf {'iterations': 3}: expected settings of Crf, or None"),
        (Pseudo, {"treshold": 0.5}, "unknown setting 'treshold' of Pseudo: did you mean threshold?"),
        (Recipe, {"net": "10"}, "net '10': expected small, 101; did you mean 101?"),
        (Recipe, {"scales": (2.0, 1.0)}, "scales (2.0, 1.0): expected two numbers above 0, the least first"),
        (Recipe, {"scales": (0.0, 1.0)}, "scales (0.0, 1.0): expected two numbers above 0, the least first"),
        (Recipe, {"momentum": 1}, "momentum 1: expected a number of at least 0 and below 1"),
        (Recipe, {"rates": ()}, "rates (): expected a list of at least one integer of at least 1"),
        (Recipe, {"lr": float("nan")}, "lr nan: expected a number above 0"),
        (Recipe, {"iteration": 5}, "unknown setting 'iteration' of Recipe: did you mean iterations?"),
        (PromptToPrompt, {"cross_replace_steps": 1.5}, "cross_replace_steps 1.5: expected a share of the steps, from 0 to 1"),
        (PromptToPrompt, {"guidance": float("inf")}, "guidance inf: expected a number"),
        (PromptToPrompt, {"stride": False}, "stride False: expected an integer of at least 1"),
        (PromptToPrompt, {"guidence": 3.0}, "unknown setting 'guidence' of PromptToPrompt: did you mean guidance?"),
        (LocalBlend, {"start": -0.1}, f"start -0.1: {SHARE}"),
        (LocalBlend, {"thresholds": 0.1}, "unknown setting 'thresholds' of LocalBlend: did you mean threshold?"),
        (Schedule, {"steps": 0}, "steps 0: expected an integer of at least 1"),
        (Schedule, {"anneal": "lineal"}, "anneal 'lineal': expected linear, cosine; did you mean linear?"),
        (Schedule, {"minutes": float("nan")}, "minutes nan: expected a number of at least 0"),
        (Schedule, {"warm_up": 0.1}, "unknown setting 'warm_up' of Schedule: did you mean warmup?"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(kind, changes, said):
    for attempt in (lambda: kind(**MADE[kind] | changes), lambda: replace(kind(**MADE[kind]), **changes)):
        with pytest.raises(ValueError) as error:
            attempt()
        assert type(error.value) is ValueError and str(error.value) == said
        assert error.value.__context__ is None  # no dump of a library's before it


@pytest.mark.parametrize("kind", MADE, ids=lambda kind: kind.__name__)
def test_settings_are_frozen_values_that_travel(kind):
    made = kind(**MADE[kind])
    assert pickle.loads(pickle.dumps(made)) == made == replace(made) == kind(**{one.name: getattr(made, one.name) for one in fields(kind)})
    if not any(isinstance(value, dict) for value in vars(made).values()):
        assert hash(made) == hash(replace(made))
    assert set(asdict(made)) == {one.name for one in fields(kind)} == set(vars(made))
    with pytest.raises(FrozenInstanceError):
        setattr(made, fields(kind)[0].name, None)


def test_what_is_missing_doubled_or_too_much_is_said():
    with pytest.raises(ValueError, match="^dataset is missing: expected voc, context, object$"):
        Job()
    with pytest.raises(ValueError, match="^source is missing: expected text$"):
        Profile("mine")
    with pytest.raises(ValueError, match="^name 'b': expected one value, got two$"):
        Profile("a", "b/c", name="b")
    with pytest.raises(ValueError, match="^dataset 3: expected voc, context, object$"):
        Job(3)
    with pytest.raises(ValueError, match="^too many settings of PromptToPrompt: expected at most 4$"):
        PromptToPrompt(0.1, 0.1, 2, 1.0, 5, 6)
    with pytest.raises(ValueError, match=r"^words array\(\[ 0, 1, 2, .*\.\.\.: expected a list of texts$"):
        Profile("a", "b/c", words=np.arange(50))


def test_numbers_of_numpy_lists_and_keys_of_json_are_taken_as_plain_values():
    made = Config(threshold=np.float32(0.5), seed=np.int64(7), timesteps=[np.int64(50), 100], weights={"8": 1, 4: np.float64(0.5)}, emphasis=2)
    assert made == Config(threshold=0.5, seed=7, timesteps=(50, 100), weights={8: 1.0, 4: 0.5})
    assert type(made.threshold) is float and type(made.timesteps[0]) is int and type(made.emphasis) is float
    assert Recipe(scales=[0.5, 1], rates=[1, 2]).scales == (0.5, 1.0)


def test_settings_keep_no_hold_of_what_they_are_given():
    weights = {8: 1.0}
    made = Config(weights=weights)
    weights[8] = -1.0
    assert made.weights == {8: 1.0}


def test_a_recipe_and_a_model_refuse_unknown_names_as_well(pipeline_folder):
    with pytest.raises(ValueError, match=r"unknown setting 'capton' of Config: did you mean caption\?"):
        recipe("paper", capton="none")
    with pytest.raises(ValueError, match=r"unknown setting 'treshold' of Config: did you mean threshold\?"):
        DiffSegmenter.from_profile(pipeline_folder, treshold=0.5)


def test_documentation_shows_bare_types():
    assert get_type_hints(Config, include_extras=True)["threshold"] == float | None
    assert get_type_hints(Job, include_extras=True)["dataset"] is str and get_type_hints(Recipe, include_extras=True)["scales"] == tuple[float, float]


def test_a_class_of_its_own_is_two_lines():
    @settings
    class Own:
        share: Share
        count: Count = 1
        below: Annotated[float, Field(lt=3), PLAIN] = 0.0
        up_to: Annotated[float, Field(le=3), PLAIN] = 0.0

    assert Own(1).share == 1.0
    for given, said in (({"share": 2}, "share 2: expected a number from 0 to 1"), ({"below": 3}, "below 3: expected a number below 3")):
        with pytest.raises(ValueError, match=f"^{said}$"):
            Own(**{"share": 1} | given)
    with pytest.raises(ValueError, match="^up_to 4: expected a number of at most 3$"):
        Own(1, up_to=4)


def test_what_holds_a_model_checks_what_is_set_beside_it(backbone):
    segmenter = DiffSegmenter(backbone)
    for attempt, said in (
        (lambda: Attention(segmenter, "cros"), "kind 'cros': expected diffsegmenter, cross, daam; did you mean cross?"),
        (lambda: Attention("pocket"), "segmenter 'pocket': expected an object of DiffSegmenter"),
        (lambda: ElboMethod(segmenter, samples=0), "samples 0: expected an integer of at least 1"),
        (lambda: ElboMethod(segmenter, temprature=0.1), "unknown setting 'temprature' of ElboMethod: did you mean temperature?"),
        (lambda: Gate([[True]]), "mask [[True]]: expected an object of ndarray"),
        (lambda: Gate(np.ones((1, 1), bool), latents=1), "latents 1: expected True or False"),
    ):
        with pytest.raises(ValueError) as error:
            attempt()
        assert str(error.value) == said
    assert ElboMethod(segmenter, timesteps=[300]).segmenter is segmenter


def test_importing_them_loads_nothing_heavy():
    code = "import sys, diffseg_lib.config, diffseg_lib.profiles; print(sorted({'torch', 'numpy', 'scipy', 'diffusers', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
