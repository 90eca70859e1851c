"""The training loop: interrupted and resumed runs end where uninterrupted ones do."""

import csv

import pytest
import torch
from torch import nn

from diffseg_lib.pocket.training.fitting import Schedule, fit, load_average

SCHEDULE = Schedule(steps=12, lr=0.05, ema=0.9)


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def _loss(model, stop_after=None):
    calls = []

    def loss(generator, progress):
        calls.append(progress)
        if stop_after is not None and len(calls) > stop_after:
            raise KeyboardInterrupt
        x = torch.randn(8, 3, generator=generator)
        return (model(x).float() - x.sum(1, keepdim=True)).square().mean()

    return loss


def test_a_run_that_was_cut_off_ends_as_one_that_was_not(tmp_path):
    whole, cut, again = _model(), _model(), _model()
    fit(whole, _loss(whole), SCHEDULE, tmp_path / "whole", say=lambda line: None)
    with pytest.raises(KeyboardInterrupt):
        fit(cut, _loss(cut, stop_after=5), SCHEDULE, tmp_path / "cut", save_seconds=0, say=lambda line: None)
    lines = []
    fit(again, _loss(again), SCHEDULE, tmp_path / "cut", say=lines.append)
    assert lines[0].startswith("going on from step 5")
    for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_training_learns_and_leaves_a_curve_and_its_average(tmp_path):
    model, schedule = _model(), Schedule(steps=150, lr=0.03, ema=0.9)
    start = _loss(model)(torch.Generator().manual_seed(1), 0.0).item()
    fit(model, _loss(model), schedule, tmp_path, say=lambda line: None)
    assert _loss(model)(torch.Generator().manual_seed(1), 1.0).item() < start / 2
    rows = list(csv.DictReader((tmp_path / "curve.csv").open()))
    assert rows[-1]["step"] == "150"
    fresh = _model()
    assert load_average(tmp_path, fresh)["step"] == "150"
    torch.testing.assert_close(fresh[0].weight, model[0].weight)


def test_tied_weights_keep_one_average(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(3, 3, bias=False)
            self.second = nn.Linear(3, 3, bias=False)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(self.first(x))

    model = Tied()

    def loss(generator, progress):
        x = torch.randn(8, 3, generator=generator)
        return (model(x).float() - x).square().mean()

    fit(model, loss, SCHEDULE, tmp_path, say=lambda line: None)
    before = model.first.weight.clone()
    load_average(tmp_path, model)
    torch.testing.assert_close(model.first.weight, before)


def test_a_schedule_warms_up_anneals_and_ends_by_the_clock():
    schedule = Schedule(steps=100, minutes=1, lr=1.0, warmup=0.1, floor=0.05)
    assert schedule.rate(0.05) == pytest.approx(0.5)
    assert schedule.rate(0.1) == pytest.approx(1.0)
    assert schedule.rate(1.0) == pytest.approx(0.05)
    assert schedule.progress(10, 0) == pytest.approx(0.1)
    assert schedule.progress(10, 30) == pytest.approx(0.5)
    assert schedule.progress(10, 90) == 1.0


def test_no_run_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="train this model first"):
        load_average(tmp_path, _model())
