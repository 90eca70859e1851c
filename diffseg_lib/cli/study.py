"""The larger runs: ``python -m diffseg_lib.studies [STUDY ...]`` writes ``data/results/<profile>/<study>.json``.

Parts are kept under ``build/studies``, so the same command goes on where it was cut off; ``--fresh`` forgets them.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from ..category_filter import CategoryFilter
from ..data import READERS
from ..experiments.measure import CommittedRun, Store, StudyResult
from ..profiles import Profile, load_profile
from ..segmenter import DiffSegmenter
from ..support.files import write_json
from ..support.identity import weights_hash
from ..support.paths import build_dir, data_dir
from ..support.provenance import run_metadata

TRAIN_IMAGES = 800  # train images whose masks a network is trained on
EDITS, EDITS_TUNED = 100, 16  # that are measured at most, and that settings are chosen on


def _ablation(segmenter: DiffSegmenter, o: argparse.Namespace, store: Store) -> StudyResult:
    from ..experiments.ablation import ablation_study

    return ablation_study(segmenter, "voc", o.voc, o.split, o.train_images, o.images, o.seeds, store)


def _timesteps(segmenter: DiffSegmenter, o: argparse.Namespace, store: Store) -> StudyResult:
    from ..experiments.timesteps import timestep_study

    return timestep_study(segmenter, "voc", o.voc, o.split, o.train_images, o.images, o.timesteps, o.seeds, store)


def _prompts(segmenter: DiffSegmenter, o: argparse.Namespace, store: Store) -> StudyResult:
    from ..experiments.prompting import prompt_study

    return prompt_study(segmenter, "voc", o.voc, o.split, o.train_images, o.images, seed=o.seeds[0], store=store)


def _recipes(segmenter: DiffSegmenter, o: argparse.Namespace, store: Store) -> StudyResult:
    from ..experiments.recipes import recipe_study

    return recipe_study(segmenter, "voc", o.voc, o.split, o.train_images, o.images, o.seeds[0], store)


def _pseudo(segmenter: DiffSegmenter, o: argparse.Namespace, store: Store) -> StudyResult:
    from ..experiments.pseudo import pseudo_study

    return pseudo_study(segmenter.with_config(seed=o.seeds[0]), "voc", o.voc, "train", o.train_images, o.images, progress=store.progress)


def _network(segmenter: DiffSegmenter, o: argparse.Namespace, store: Store) -> StudyResult:
    from ..experiments.network import network_study

    where = build_dir() / "studies" / profile_folder(segmenter.backbone.profile) / "network"
    return network_study(segmenter, where, "voc", o.voc, o.split, TRAIN_IMAGES, o.images, o.train_images, progress=store.progress)


def _edits(segmenter: DiffSegmenter, o: argparse.Namespace, store: Store) -> StudyResult:
    from ..experiments.edits import edit_study
    from ..vision_language import Clip

    clip = Clip.load(segmenter.backbone.profile.clip, str(segmenter.backbone.device))
    return edit_study(segmenter, clip, "voc", o.voc, o.split, EDITS_TUNED, min(o.images, EDITS), seed=o.seeds[0], progress=store.progress)


def _elbo(segmenter: DiffSegmenter, o: argparse.Namespace, store: Store) -> StudyResult:
    from ..experiments.elbo import elbo_study

    return elbo_study(segmenter, "voc", o.voc, o.split, o.train_images, o.images, store=store)


def _qualitative(segmenter: DiffSegmenter, o: argparse.Namespace, store: Store) -> StudyResult:
    from ..experiments.qualitative import qualitative_study

    return qualitative_study(segmenter, "voc", o.voc, o.split, o.train_images, o.images)


def _benchmark(name: str) -> Callable[[DiffSegmenter, argparse.Namespace, Store], StudyResult]:
    def run(segmenter: DiffSegmenter, o: argparse.Namespace, store: Store) -> StudyResult:
        from ..evaluation.sources import open_dataset
        from ..experiments.benchmark import make_rivals, words_study

        profile, root = segmenter.backbone.profile, getattr(o, name)
        prompts = open_dataset(name, root, o.split, 1).prompts
        vocabulary = CategoryFilter.of_profile(prompts, profile, str(segmenter.backbone.device))
        methods = make_rivals(segmenter, [rival for rival in ("denseclip", "elbo", "groupvit") if rival in o.rivals], ("image", "filter"))
        wanted = () if name == "voc" else ("image", "filter")  # every choice of words on one data set, Table 1's on the others
        return words_study(segmenter, vocabulary, name, root, o.split, o.train_images, o.images, wanted, methods, store)

    return run


STUDIES: Mapping[str, Callable[[DiffSegmenter, argparse.Namespace, Store], StudyResult]] = {
    "ablation": _ablation,
    "timesteps": _timesteps,
    "prompts": _prompts,
    "recipes": _recipes,
    "pseudo": _pseudo,
    "network": _network,
    "edits": _edits,
    "elbo": _elbo,
    "qualitative": _qualitative,
    **{f"benchmark_{name}": _benchmark(name) for name in READERS},
}


def run_study(study: str, segmenter: DiffSegmenter, o: argparse.Namespace, command: str) -> Path:
    """Run one study at the sizes asked for and write its JSON; returns the path."""
    started, profile = time.perf_counter(), segmenter.backbone.profile
    about = {"weights": weights_hash(profile.source, (".safetensors",)), "timesteps": segmenter.timesteps, "weights of sides": dict(segmenter.weights)}
    store = Store(build_dir() / "studies" / profile_folder(profile), about, lambda text: print(f"  {text}", flush=True))
    result = STUDIES[study](segmenter, o, store)
    out = (o.out or data_dir() / "results") / profile_folder(profile)
    out.mkdir(parents=True, exist_ok=True)
    how = run_metadata(started)
    how["seconds"] = round(how["seconds"] + sum(store.saved), 1)
    device = segmenter.backbone.device.type
    return write_json(out / f"{study}.json", CommittedRun(study=study, profile=profile.name, result=result, command=command, device=device, **how))


def profile_folder(profile: Profile) -> str:
    """The folder of a profile's results: its name, or its folder's."""
    return Path(profile.name).name


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m diffseg_lib.studies", description="The paper's experiments at their larger size, resumable.")
    parser.add_argument("studies", nargs="*", metavar="STUDY", help=f"{', '.join(STUDIES)} (default: all)")
    parser.add_argument("--profile", default="pocket")
    parser.add_argument("--device", default="", help="(default: the profile's)")
    parser.add_argument("--images", type=int, default=500, help="test images of each data set")
    parser.add_argument("--train-images", type=int, default=60, help="train images that thresholds are fixed on")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the noise, for the ablation and the timesteps")
    parser.add_argument("--timesteps", type=int, nargs="+", default=[1, 50, 100, 150, 300, 500, 800])
    parser.add_argument("--rivals", nargs="*", default=["denseclip", "elbo"], help="further methods of the benchmark: denseclip, elbo, groupvit")
    parser.add_argument("--split", default="val")
    for name in READERS:
        parser.add_argument(f"--{name}", default="", metavar="DIR", help=f"root of the {name} tree (default: the profile's, or the pocket world's)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the results (default: data/results)")
    parser.add_argument("--fresh", action="store_true", help="forget the parts of runs that were cut off")
    given = sys.argv[1:] if arguments is None else arguments
    o = parser.parse_args(given)
    unknown = [name for name in o.studies if name not in STUDIES]
    if unknown:
        parser.error(f"unknown study {unknown[0]!r}: expected {', '.join(STUDIES)}")
    if o.fresh:
        shutil.rmtree(build_dir() / "studies" / profile_folder(load_profile(o.profile)), ignore_errors=True)
    segmenter = DiffSegmenter.from_profile(o.profile, device=o.device)
    for name in READERS:
        setattr(o, name, segmenter.backbone.profile.data_root(name, getattr(o, name)))
    for study in o.studies or STUDIES:
        print(study, flush=True)
        print(run_study(study, segmenter, o, " ".join(["python -m diffseg_lib.studies", study, *(a for a in given if a not in STUDIES)])), flush=True)
    return 0
