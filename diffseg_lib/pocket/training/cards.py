"""Model cards: ``diffseg pocket cards``.

Every figure in a card is read from ``measurements.json`` and from the training runs' own records.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...support.files import write_text
from .measure import against_targets, name_of, sizes

_CARDS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...], str]] = {
    "diffusion": (
        "Pocket diffusion model",
        ("vae", "decoder", "unet"),
        ("vae", "diffusion", "choose", "absent", "grounding"),
        """An `AutoencoderKL` (f = 4, four latent channels), a one-layer `CLIPTextModel` and a `UNet2DConditionModel` with
attention at sides 32, 16, 8 and 4 for 128 px pictures; epsilon prediction on Stable Diffusion's noise schedule. Load it with
`StableDiffusionPipeline.from_pretrained`, or as the profile `pocket` of this library. `profile.json` holds the timestep, the
fusion weights and the background threshold, chosen on the train split, and the words the model was trained on.

The text tower has one layer on purpose: a word's meaning then stays at the word's own token instead of gathering at the end
token, which is what attention maps of single words need. Autoencoder: trained whole, then its decoder alone on the squared error.
UNet and text tower: trained together, first on small pictures of 64 px, then on the crowded ones among them, then on whole scenes of
128 px; a tenth of the captions empty, a third naming one thing only. (In the run that is shipped those one-thing captions were added
after the first 42 minutes; the recipe in the code has them from the start.)

Drawing is its weakest part: colours and counts are often wrong, brick comes far too often (see `samples.png`), and the judge of the
figure below, the pocket CLIP, knows only this world and recognises drawings that an eye may not.""",
    ),
    "transformer": (
        "Pocket joint transformer",
        ("transformer-first", "transformer"),
        tuple(name_of(measure, "transformer") for measure in ("diffusion", "choose", "grounding", "separation", "drawings")),
        """An `SD3Transformer2DModel` of eight blocks, 160 channels and five heads, queries and keys normalised as in Stable Diffusion 3.5, on patches
of 2 x 2 latents; a `CLIPTextModelWithProjection` of two layers, which began as the pocket CLIP's text tower; a second text tower that says
zeros, and no T5. Autoencoder and tokenizer are those of the pocket UNet. Load it with

    StableDiffusion3Pipeline.from_pretrained("data/pocket/models/transformer", text_encoder_3=None, tokenizer_3=None)

and call it with `max_sequence_length=0`, or as the profile `pocket-transformer` of this library. `profile.json` holds the noise level
(timestep t for s = t / 1000), the weights of the blocks and the background threshold, chosen on the train split.

Transformer and text tower were trained together by flow matching on the pictures and captions that the UNet was trained on, in the same
order of stages: small pictures of 64 px, then the crowded ones among them, then whole scenes of 128 px for half of the time; a tenth of the
captions empty, a third naming one thing only. Noise levels are the logistic function of normal numbers. After the fourth block image tokens
also learn to say what the pocket CLIP sees at their place (Yu et al. 2025, "REPA"), through a projection that is not shipped; CLIP itself was
trained on the same pictures and captions. No layer falls silent by turns, as those of the UNet do. The run began from the weights of a first
one (`transformer-first`), which had no help of CLIP's; eight of that one's minutes went into encoding pictures, before the clock
started afterwards.""",
    ),
    "clip": (
        "Pocket CLIP",
        ("clip",),
        ("clip",),
        """A `CLIPModel`: a vision transformer on 64 px pictures with 8 px patches, a text tower of two layers. Contrastive training on captions,
with an added term that asks which of sixteen phrases the picture's own caption says. Contrast alone teaches things slowly: a first run of
26 minutes ended at a mean average precision of .65. The pocket BLIP was trained from that run's vision tower, and the shipped CLIP from BLIP's
(`--from-blip`), which is the run in the table.""",
    ),
    "blip": (
        "Pocket BLIP",
        ("blip",),
        ("blip",),
        """A `BlipForConditionalGeneration`: its vision tower starts from the first run of the pocket CLIP, its text decoder has two layers.
Next-word prediction on captions; the first 10 minutes on 16,000 pictures, the rest on 40,000.""",
    ),
}

_CARD = """# {title}

{text}

| part | parameters | file |
|---|---|---|
{sizes}

## Training

On pictures rendered by `diffseg_lib.pocket.world` (seed 0, split "train") and their generated captions. **No label map was ever read.**

| run | command | updates | minutes |
|---|---|---|---|
{runs}

Hardware: two cores of a server processor, shared with other work. The curves are in `../curves/`.

## What it does, on scenes it was not trained on

| what | figure | 95 % interval | target | verdict | on |
|---|---|---|---|---|---|
{figures}

Measured by:

{commands}

## Limits

It knows sixteen kinds of painted things, ten colours and seven grounds, and nothing of photographs. MIT licence.
"""

_PARTS = {"diffusion": ("vae", "text_encoder", "unet"), "transformer": ("vae", "text_encoder", "text_encoder_2", "transformer")}
_RUN_COMMANDS = {name: f"python -m diffseg_lib pocket train {name}" for name in ("vae", "decoder", "unet", "blip")} | {
    "clip": "python -m diffseg_lib pocket train clip --from-blip",
    "transformer-first": "python -m diffseg_lib pocket train transformer --start data/pocket/models",
    "transformer": "python -m diffseg_lib pocket train transformer --start data/pocket/models",
}


def _interval(measured: dict[str, Any], name: str, key: str) -> str:
    found = measured.get(name, {}).get("gain_ci95" if key == "gain" else "ci95") if key not in ("precision", "recall") else None
    return f"{found[0]:.2f} to {found[1]:.2f}" if found else ""


def card(models: Path, name: str) -> str:
    """The text of one model's card."""
    title, runs, measures, text = _CARDS[name]
    measured = json.loads((models / "measurements.json").read_text())
    folders = {part: models / name / part for part in _PARTS[name]} if name in _PARTS else {name: models / name}
    facts = {run: json.loads((models / "curves" / f"{run}.json").read_text()) for run in runs}
    return _CARD.format(
        title=title,
        text=text,
        sizes="\n".join(f"| {part} | {row['parameters']} | {row['file']} |" for part, row in sizes(folders).items()),
        runs="\n".join(f"| {run} | `{_RUN_COMMANDS[run]}` | {int(f['step']):,} | {float(f['seconds']) / 60:.0f} |" for run, f in facts.items()),
        figures="\n".join(
            f"| {row['what']} | {row['figure']} | {_interval(measured, row['measure'], row['key'])} | {row['target']} | {row['verdict']} | {row['images']} |"
            for row in against_targets(measured)
            if row["measure"] in measures
        ),
        commands="\n".join(f"- `{measured[m]['command']}` ({measured[m]['seconds']} s)" for m in measures if m in measured),
    )


def write_cards(models: Path) -> list[Path]:
    """Write the card of every model, ``README.md`` in its folder; returns their paths.

    Args:
        models: The folder of the models, with ``measurements.json`` and ``curves`` in it.
    """
    return [write_text(models / name / "README.md", card(models, name)) for name in _CARDS]
