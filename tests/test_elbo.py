"""The ELBO baseline: shared noise, convergence, batching, seeds, and what scores mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffseg_lib import DiffSegmenter
from diffseg_lib.baselines.elbo import ElboMethod, Posterior, denoising_errors, draw_noise, elbo_posterior, error_draws, noise_sharing, smooth
from diffseg_lib.evaluation.sources import open_dataset
from diffseg_lib.experiments.elbo import elbo_study
from diffseg_lib.pocket.scenes import photo_or_scene


@pytest.fixture(scope="module")
def segmenter():
    return DiffSegmenter.from_profile("pocket")


@pytest.fixture(scope="module")
def scene():
    return photo_or_scene("", (), 22)


def test_sharing_the_noise_lowers_the_variance_of_a_difference(segmenter, scene):
    shared, independent = noise_sharing(segmenter, scene.image, "house", 300, 6)
    assert independent > 3 * shared > 0


def test_more_samples_converge(segmenter, scene):
    draws = error_draws(segmenter, scene.image, ["house"], [300], 40)
    difference = draws[:, 1] - draws[:, 0]
    reference = difference[16:].mean(0)  # draws that none of the others uses
    distances = [float((difference[:n].mean(0) - reference).square().mean()) for n in (1, 4, 16)]
    assert distances[0] > 1.5 * distances[1] and distances[1] > 1.5 * distances[2]


def test_classes_in_one_batch_are_those_asked_one_by_one(segmenter, scene):
    together = error_draws(segmenter, scene.image, scene.classes, [100], 1)
    batches = error_draws(segmenter.with_config(class_batch=1), scene.image, scene.classes, [100], 1)
    alone = torch.cat([error_draws(segmenter, scene.image, [name], [100], 1)[:, :1] for name in scene.classes], dim=1)
    torch.testing.assert_close(together, batches, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together[:, :-1], alone, atol=1e-5, rtol=1e-4)


def test_the_error_is_that_of_eq_3_by_hand(segmenter, scene):
    latents = segmenter.encode(scene.image)
    [noise] = draw_noise(segmenter, scene.image, latents, 1)
    backbone, words = segmenter.backbone, segmenter.backbone.encode_prompts(["a photograph of a house"])
    kept = backbone.alphas_cumprod[300]
    guess = backbone.unet(kept.sqrt() * latents + (1 - kept).sqrt() * noise, 300, encoder_hidden_states=words).sample
    expected = ((guess - noise) ** 2).mean(1)
    torch.testing.assert_close(denoising_errors(segmenter, latents, noise, 300, words), expected.detach(), atol=1e-5, rtol=1e-4)


def test_noise_is_seeded_and_the_first_draw_is_the_attention_methods(segmenter, scene):
    latents = segmenter.encode(scene.image)
    first, second = draw_noise(segmenter, scene.image, latents, 2)
    assert torch.equal(first, segmenter.noise(scene.image, latents)) and not torch.equal(first, second)
    assert torch.equal(second, draw_noise(segmenter, scene.image, latents, 2)[1])
    assert not torch.equal(first, draw_noise(segmenter.with_config(seed=1), scene.image, latents, 1)[0])


def test_smoothing_by_nothing_changes_nothing():
    maps = torch.rand(2, 8, 12, generator=torch.Generator().manual_seed(0))
    assert torch.equal(smooth(maps, 0.0), maps)
    soft = smooth(maps, 2.0)
    assert soft.var() < maps.var() / 4 and abs(float(soft.mean() - maps.mean())) < 0.05
    flat = torch.tensor([3.0, 0.0])[:, None, None].expand(2, 5, 5)
    torch.testing.assert_close(smooth(flat, 1.0), flat)  # neither the border nor the other map leaks in


def test_probabilities_sum_to_one_and_scores_mean_better_than_no_words():
    errors = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(1))
    found = Posterior(errors[:2], errors[2:], ("a", "b"), 3)
    torch.testing.assert_close(found.probabilities(0.1).sum(0), torch.ones(4, 5))
    assert found.probabilities(0.1).shape == (3, 4, 5)
    assert torch.equal(found.probabilities(0.1).argmax(0), errors.argmin(0))
    assert found.probabilities(0.01).max() > found.probabilities(1.0).max()  # a lower temperature is surer
    assert torch.equal(found.scores(0.1) > 0.5, errors[:2] < errors[2:])
    assert torch.equal(found.scores(0.1).argmax(0), errors[:2].argmin(0))
    bare = Posterior(errors[:2], None, ("a", "b"), 2)
    torch.testing.assert_close(bare.scores(0.1).sum(0), torch.ones(4, 5))
    assert torch.equal(bare.scores(0.1).argmax(0), errors[:2].argmin(0))


def test_the_posterior_is_the_smoothed_mean_of_all_draws_classes_first(segmenter, scene):
    draws = error_draws(segmenter, scene.image, scene.classes, [100, 300], 2)
    found = elbo_posterior(segmenter, scene.image, scene.classes, [100, 300], 2, sigma=1.5)
    rows = torch.cat([found.errors, found.background])
    torch.testing.assert_close(rows, smooth(sum(draws) / 4, 1.5))
    assert found.classes == tuple(scene.classes)
    again = elbo_posterior(segmenter, scene.image, scene.classes, [100, 300], 2, sigma=1.5)
    assert torch.equal(found.errors, again.errors)


def test_calls_count_every_row(segmenter, scene):
    found = elbo_posterior(segmenter, scene.image, scene.classes, [100, 300], 2)
    assert found.calls == (len(scene.classes) + 1) * 4 and found.errors.shape[0] == len(scene.classes)
    assert elbo_posterior(segmenter, scene.image, scene.classes, [100], 1, background="threshold").calls == len(scene.classes)


def test_scores_have_the_images_size_even_if_it_is_not_square(segmenter, scene):
    found = ElboMethod(segmenter, timesteps=(300,), samples=1)(np.ascontiguousarray(scene.image[:96]), ["house", "fish"])
    assert found.scores.shape == (2, 96, 128) and found.scores.min() >= 0 and found.scores.max() <= 1 and found.calls == 3


@pytest.mark.parametrize("wrong", [{"timesteps": []}, {"samples": 0}, {"sigma": -1.0}, {"background": "black"}])
def test_wrong_arguments_are_refused(segmenter, scene, wrong):
    with pytest.raises(ValueError, match="expected"):
        elbo_posterior(segmenter, scene.image, ["house"], **wrong)


def test_the_study_counts_evaluations_and_compares_with_attention(segmenter):
    found = elbo_study(segmenter, train_images=2, images=2, timesteps=(300,), numbers=(1, 2), sigmas=(0.0,))
    words = np.mean([len(sample.classes) for sample in open_dataset("voc", "", "val", 2)])
    assert found.calls == pytest.approx({"draws1": words + 1, "draws2": 2 * (words + 1), "attention": words})
    value = {name: row.value for name, row in found.rows.items()}
    assert found.most == "draws2" and found.rows["draws2_sigma0"].label == "ELBO, 2 draws, sigma 0"
    pairs = {"most_minus_least": "draws1", "smoothed_minus_raw": "draws2_sigma0"}
    for effect, other in pairs.items():
        assert found.effects[effect].value == pytest.approx(value["draws2"] - value[other])
    assert found.effects["attention_minus_elbo"].value == pytest.approx(value["attention"] - value["draws2"])
    assert np.mean([one.attention for one in found.classes.values()]) == pytest.approx(value["attention"])


def test_the_studys_smaller_numbers_of_draws_are_the_first_of_the_larger(segmenter):
    arguments = {"train_images": 2, "images": 2, "timesteps": (300,), "sigmas": ()}
    both = elbo_study(segmenter, numbers=(1, 2), **arguments).rows
    alone = elbo_study(segmenter, numbers=(1,), **arguments).rows["draws1"]
    assert both["draws1"] == alone and both["draws2"].value != alone.value
