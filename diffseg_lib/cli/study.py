"""``diffseg study``: the paper's experiments at their larger size, kept part by part.

Results go to ``data/results/<profile>/<study>.json``, parts to ``build/studies``, so that the same command goes on where it was cut off.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ..data import READERS
from ..profiles import Profile
from ..support.errors import nearest
from ..support.files import write_json
from ..support.identity import describe_code, describe_models, fingerprint, model_keys
from ..support.paths import POCKET, build_dir, data_dir, in_repository
from ..support.provenance import run_metadata
from .exits import Exit
from .options import MODELS, PLACES, page, profile_of, segmenter_of, share

if TYPE_CHECKING:
    from ..category_filter import CategoryFilter
    from ..experiments.measure import Store, StudyResult
    from ..segmenter import DiffSegmenter

TRAIN_IMAGES = 800  # train images whose masks a network is trained on
FEWER = 250  # of those, where eight networks are trained
EDITS, EDITS_TUNED = 100, 16  # that are measured at most, and that settings are chosen on


def _ablation(segmenter: DiffSegmenter, o: argparse.Namespace, store: Store) -> StudyResult:
    from ..experiments.ablation import ablation_study

    return ablation_study(segmenter, "voc", o.voc, o.split, o.train_images, o.images, o.seeds, store)


def _fusion(segmenter: DiffSegmenter, o: argparse.Namespace, store: Store) -> StudyResult:
    from ..experiments.fusion import fusion_study

    return fusion_study(segmenter, "voc", o.voc, o.split, o.train_images, o.images, o.seeds[0], store)


def _completion(segmenter: DiffSegmenter, o: argparse.Namespace, store: Store) -> StudyResult:
    from ..experiments.completion import completion_study

    return completion_study(segmenter, "voc", o.voc, o.split, o.train_images, o.images, o.seeds[0], store)


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

    where = build_dir() / "studies" / profile_folder(segmenter.backbone.profile) / f"network-{fingerprint(store.about)}"
    return network_study(segmenter, where, "voc", o.voc, o.split, TRAIN_IMAGES, o.images, o.train_images, progress=store.progress)


def _degradation(segmenter: DiffSegmenter, o: argparse.Namespace, store: Store) -> StudyResult:
    from ..experiments.degradation import degradation_study

    where = build_dir() / "studies" / profile_folder(segmenter.backbone.profile) / f"degradation-{fingerprint(store.about)}"
    return degradation_study(segmenter, where, "voc", o.voc, o.split, FEWER, o.images, o.train_images, progress=store.progress)


def _edits(segmenter: DiffSegmenter, o: argparse.Namespace, store: Store) -> StudyResult:
    from ..experiments.edits import edit_study
    from ..vision_language import Clip

    known = segmenter.backbone.profile
    clip = Clip.load(known.clip, str(segmenter.backbone.device), known.pickled_weights)
    return edit_study(segmenter, clip, "voc", o.voc, o.split, EDITS_TUNED, min(o.images, EDITS), seed=o.seeds[0], progress=store.progress)


def _protocols(segmenter: DiffSegmenter, o: argparse.Namespace, store: Store) -> StudyResult:
    from ..experiments.protocols import protocol_study

    one = segmenter.with_config(seed=o.seeds[0])
    return protocol_study(one, _filter_of(one, "voc", o), "voc", o.voc, o.split, o.train_images, o.images, store)


def _elbo(segmenter: DiffSegmenter, o: argparse.Namespace, store: Store) -> StudyResult:
    from ..experiments.elbo import elbo_study

    return elbo_study(segmenter, "voc", o.voc, o.split, o.train_images, o.images, store=store)


def _qualitative(segmenter: DiffSegmenter, o: argparse.Namespace, store: Store) -> StudyResult:
    from ..experiments.qualitative import qualitative_study

    return qualitative_study(segmenter, "voc", o.voc, o.split, o.train_images, o.images)


def _successors(segmenter: DiffSegmenter, o: argparse.Namespace, store: Store) -> StudyResult:
    from ..experiments.successors import successor_study

    roots = {name: getattr(o, name) for name in datasets_of("successors")}
    return successor_study(segmenter, roots, o.split, o.train_images, o.images, o.seeds[0], store=store)


def _transformers(segmenter: DiffSegmenter, o: argparse.Namespace, store: Store) -> StudyResult:
    from ..experiments.transformers import transformer_study
    from ..segmenter import DiffSegmenter as Segmenter

    unet = Segmenter.from_profile(o.beside, device=str(segmenter.backbone.device))
    return transformer_study(segmenter, unet, "voc", o.voc, o.split, o.train_images, o.images, o.seeds[0], store=store)


def _filter_of(segmenter: DiffSegmenter, name: str, o: argparse.Namespace) -> CategoryFilter:
    """The filter over a data set's words, with the profile's captioner and CLIP."""
    from ..category_filter import CategoryFilter
    from ..evaluation.sources import open_dataset

    prompts = open_dataset(name, getattr(o, name), o.split, 1, _order(o, name)).prompts
    return CategoryFilter.of_profile(prompts, segmenter.backbone.profile, str(segmenter.backbone.device))


def _one_pass(segmenter: DiffSegmenter, o: argparse.Namespace, store: Store) -> StudyResult:
    from ..experiments.one_pass import DATASETS, one_pass_study

    return one_pass_study(segmenter, {name: getattr(o, name) for name in DATASETS}, o.split, o.train_images, o.images, o.seeds[0], store)


def _benchmark(name: str) -> Callable[[DiffSegmenter, argparse.Namespace, Store], StudyResult]:
    def run(segmenter: DiffSegmenter, o: argparse.Namespace, store: Store) -> StudyResult:
        from ..experiments.benchmark import make_rivals, words_study

        root, order, category_filter = getattr(o, name), _order(o, name), _filter_of(segmenter, name, o)
        methods = make_rivals(segmenter, [rival for rival in ("denseclip", "elbo", "groupvit") if rival in o.rivals], ("image", "filter"))
        wanted = () if name == "voc" else ("image", "filter")  # every choice of words on one data set, Table 1's on the others
        return words_study(segmenter, category_filter, name, root, o.split, o.train_images, o.images, wanted, methods, store, order)

    return run


def _order(o: argparse.Namespace, name: str) -> str:
    """The order of labels asked for, which only Context has."""
    return str(o.order) if name == "context" else ""


def _look_at_data(o: argparse.Namespace, name: str) -> None:
    """Open what the studies will read of a data set, so that a tree that cannot be read is told before hours of work."""
    from ..evaluation.sources import open_dataset

    if (root := getattr(o, name)) not in ("", POCKET):
        for split in dict.fromkeys(("train", o.split)):
            open_dataset(name, root, split, 1, _order(o, name))


STUDIES: Mapping[str, Callable[[DiffSegmenter, argparse.Namespace, Store], StudyResult]] = {
    "fusion": _fusion,
    "completion": _completion,
    "ablation": _ablation,
    "timesteps": _timesteps,
    "prompts": _prompts,
    "recipes": _recipes,
    "protocols": _protocols,
    "pseudo": _pseudo,
    "network": _network,
    "degradation": _degradation,
    "edits": _edits,
    "elbo": _elbo,
    "qualitative": _qualitative,
    "successors": _successors,
    "one_pass": _one_pass,
    "transformers": _transformers,
    **{f"benchmark_{name}": _benchmark(name) for name in READERS},
}


def module_of(study: str) -> str:
    """The module that measures a study.

    >>> module_of("benchmark_voc"), module_of("prompts"), module_of("elbo")
    ('experiments.benchmark', 'experiments.prompting', 'experiments.elbo')
    """
    named = {"prompts": "prompting"} | {f"benchmark_{name}": "benchmark" for name in READERS}
    return f"experiments.{named.get(study, study)}"


def datasets_of(study: str) -> tuple[str, ...]:
    """The data sets that a study reads.

    >>> datasets_of("benchmark_object"), datasets_of("successors"), datasets_of("elbo")
    (('object',), ('voc', 'context'), ('voc',))
    """
    if study in ("successors", "one_pass"):
        return ("voc", "context")
    return (study.removeprefix("benchmark_"),) if study.startswith("benchmark_") else ("voc",)


def run_study(study: str, segmenter: DiffSegmenter, o: argparse.Namespace, command: str) -> Path:
    """Run one study at the sizes asked for, print what its figures are of, and write its JSON; returns the path."""
    from ..evaluation.sources import open_dataset
    from ..experiments.measure import CommittedRun, Store, about

    started, backbone = time.perf_counter(), segmenter.backbone
    profile = backbone.profile
    models, code, device = describe_models(profile), describe_code(module_of(study)), backbone.device.type
    facts = {
        "models": model_keys(profile),
        "code": code,
        "config": asdict(segmenter.resolved),
        "size": backbone.size,
        "dtype": str(backbone.dtype),
        "device": device,
        "relative": profile.relative_clip_threshold,
        "similarity": profile.text_similarity_threshold,
    }
    store = Store(build_dir() / "studies" / profile_folder(profile), facts, lambda text: print(f"  {text}", flush=True))
    result = STUDIES[study](segmenter, o, store)
    out = (o.out or (data_dir() if in_repository() else build_dir()) / "results") / profile_folder(profile)
    out.mkdir(parents=True, exist_ok=True)
    how = run_metadata(started)
    how["seconds"] = round(how["seconds"] + sum(store.saved), 1)
    splits = dict.fromkeys(("train", getattr(result, "split", o.split)))  # of pseudo-labels, train alone
    names = [name.removeprefix(f"{POCKET}-") for name in result.dataset.split(", ")]
    data = tuple(open_dataset(name, getattr(o, name), one, 1, _order(o, name)).describe() for name in names for one in splits)
    how |= {"models": models, "data": data, "code": code, "device": device}
    run = CommittedRun(study=study, profile=profile.name, result=result, command=command, **how)
    print(about(run), flush=True)
    return write_json(out / f"{study}.json", run)


def profile_folder(profile: Profile) -> str:
    """The folder of a profile's results: its name, or its folder's."""
    return Path(profile.name).name


ABOUT = """
Run the paper's experiments at their larger size and write their JSON, which the chapters and the ledger of claims read. A study is
kept part by part: the same command goes on where it was cut off.
"""
EXAMPLE = "diffseg study ablation --profile sd15 --device cuda --voc DIR --split val"


def declare(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    kept = "parts that are done are kept, though pseudo, edits and qualitative are one part each"
    page(parser, f"{ABOUT}\nStudies: {', '.join(STUDIES)}.", EXAMPLE, run=run, kept=kept)
    parser.add_argument("studies", nargs="*", metavar="STUDY", help="The studies to run. Without any, all but transformers, which is of no UNet.")
    share(parser, "--profile", *MODELS, *PLACES)
    parser.add_argument("--images", type=int, default=500, metavar="N", help="Images of each data set that are measured.")
    parser.add_argument("--train-images", type=int, default=60, metavar="N", help="Train images that thresholds are fixed on, and that are not measured.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="Seeds of the noise, for the ablation and the timesteps.")
    parser.add_argument("--timesteps", type=int, nargs="+", default=[1, 50, 100, 150, 300, 500, 800], metavar="T", help="Timesteps that are compared.")
    parser.add_argument(
        "--rivals", nargs="*", default=["denseclip", "elbo"], metavar="NAME", help="Further methods of the benchmark: denseclip, elbo, groupvit."
    )
    parser.add_argument("--beside", default=POCKET, metavar="PROFILE", help="The UNet that a transformer is compared with, in the study transformers.")
    share(parser, "--split")
    for name in READERS:
        parser.add_argument(
            f"--{name}", default="", metavar="DIR", help=f"The folder of the {name} tree. Without it, the profile's; pocket is the pocket world's."
        )
    share(parser, "--order")
    share(parser, "--out", help="The folder of the results, one of its own for each profile. Without it, data/results.")
    parser.add_argument("--fresh", action="store_true", help="Forget the parts of runs that were cut off.")


def run(o: argparse.Namespace) -> int:
    """Run the studies, one after the other."""
    unknown = [name for name in o.studies if name not in STUDIES]
    if unknown:
        raise ValueError(f"unknown study {unknown[0]!r}: expected {', '.join(STUDIES)}; {nearest(unknown[0], list(STUDIES))}")
    profile, wanted = profile_of(o), o.studies or [name for name in STUDIES if name != "transformers"]
    if o.fresh:
        shutil.rmtree(build_dir() / "studies" / profile_folder(profile), ignore_errors=True)
    for name in sorted({name for study in wanted for name in datasets_of(study)}):
        setattr(o, name, profile.data_root(name, getattr(o, name)))
        _look_at_data(o, name)
    segmenter = segmenter_of(o, profile)
    given = [one for one in o.arguments[1:] if one not in STUDIES]
    for study in wanted:
        print(study, flush=True)
        print(run_study(study, segmenter, o, " ".join(["python -m diffseg_lib study", study, *given])), flush=True)
    return Exit.OK
