"""Objectives against finite differences, diffusers' own schedulers, and each other."""

from __future__ import annotations

import pytest
import torch

from ray_synth.generator.objectives.denoising import Corruption, denoising_loss
from ray_synth.generator.objectives.mmd import GAMMA, mmd_loss
from ray_synth.torch_ops import import_torchvision

import_torchvision()
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler  # noqa: E402


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(6, 4, 3, 3, generator=random) for _ in range(2))
    return clean, noise, torch.randint(1, 1000, (6,), generator=random)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_noise_and_targets_are_those_of_diffusers(prediction: str, batch: tuple[torch.Tensor, ...]) -> None:
    clean, noise, times = batch
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", prediction_type=prediction)
    ours = Corruption.of(scheduler)
    torch.testing.assert_close(ours.noisy(clean, noise, times), scheduler.add_noise(clean, noise, times))
    target = noise if prediction == "epsilon" else scheduler.get_velocity(clean, noise, times)
    torch.testing.assert_close(ours.target(clean, noise, times), target)


def test_flow_noise_is_that_of_diffusers(batch: tuple[torch.Tensor, ...]) -> None:
    clean, noise, times = batch
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    ours = Corruption.of(scheduler)
    at = scheduler.timesteps.flip(0)[times]  # diffusers counts from the noisiest
    torch.testing.assert_close(ours.noisy(clean, noise, times), scheduler.scale_noise(clean, at, noise))
    torch.testing.assert_close(ours.target(clean, noise, times), noise - clean)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "flow"])
def test_min_snr_is_one_weight_of_the_error_of_clean_data_whatever_is_predicted(prediction: str) -> None:
    """A wrong guess of the clean image costs min(SNR, gamma) times its squared error in each parameterization."""
    kept = DDPMScheduler(beta_schedule="scaled_linear").alphas_cumprod.double()
    noise_of = (1 - kept).sqrt() if prediction != "flow" else torch.linspace(0.001, 1, 1000).double()
    signal_of = kept.sqrt() if prediction != "flow" else 1 - noise_of
    ours = Corruption(prediction, signal_of, noise_of)
    random = torch.Generator().manual_seed(1)
    clean, noise, guess = (torch.randn(5, 12, generator=random, dtype=torch.double) for _ in range(3))
    times = torch.tensor([3, 200, 400, 600, 900])
    seen = ours.noisy(clean, noise, times)
    # What the network says when it takes `guess` for the clean image and explains the rest of x_t as noise.
    implied = (seen - signal_of[times, None] * guess) / noise_of[times, None]
    residual = ours.target(clean, noise, times) - ours.target(guess, implied, times)
    cost = residual.square().sum(dim=1) * ours.weights(times, 5.0)
    expected = (clean - guess).square().sum(dim=1) * ours.snr(times).clamp(max=5.0)
    torch.testing.assert_close(cost, expected, rtol=1e-9, atol=0)


def test_weights_are_finite_where_no_signal_is_left() -> None:
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", rescale_betas_zero_snr=True)
    for prediction in ("epsilon", "v_prediction"):
        ours = Corruption(prediction, scheduler.alphas_cumprod.sqrt(), (1 - scheduler.alphas_cumprod).sqrt())
        assert ours.weights(torch.arange(1000), 5.0).isfinite().all()


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_the_gradient_of_the_mmd_term_is_right(variant: str) -> None:
    random = torch.Generator().manual_seed(2)
    residual = torch.randn(4, 2, 3, generator=random, dtype=torch.double, requires_grad=True)
    weights = torch.rand(4, generator=random, dtype=torch.double)

    assert torch.autograd.gradcheck(lambda x: mmd_loss(x, weights, variant=variant), residual)  # type: ignore[arg-type]


def test_released_and_paper_differ_by_a_known_factor() -> None:
    """At batch 8 and without SNR weights, .003 of the sum is .192 of the mean, where the paper has .05."""
    residual = torch.randn(8, 4, 5, 5, generator=torch.Generator().manual_seed(3))
    paper = GAMMA["paper"] * mmd_loss(residual, torch.ones(8), variant="paper")
    released = GAMMA["released"] * mmd_loss(residual, torch.ones(8), variant="released")
    assert float(released / paper) == pytest.approx(0.192 / 0.05, rel=1e-5)


def test_the_mmd_term_is_below_the_denoising_loss_and_meets_it_where_all_errors_are_one() -> None:
    """Jensen's inequality, the step from Eq. 7 to the diffusion loss."""
    residual = torch.randn(8, 4, 5, 5, generator=torch.Generator().manual_seed(4))
    assert mmd_loss(residual, torch.ones(8)) < denoising_loss(residual, torch.ones(8))
    same = residual[:1].expand(8, -1, -1, -1)
    torch.testing.assert_close(mmd_loss(same, torch.ones(8)), denoising_loss(same, torch.ones(8)))
