"""Clean latents, noise and times in; what the network sees, what it should predict, and what its error weighs, out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ray_synth.errors import InputError

PREDICTIONS = ("epsilon", "v_prediction", "flow")


@dataclass(frozen=True)
class Corruption:
    """How a model's noise schedule spoils data: x_t = signal(t) x_0 + noise(t) n.

    prediction: what its network predicts: the noise n, the velocity signal(t) n - noise(t) x_0, or the flow n - x_0.
    signal, noise: float32 [T], of each time.
    """

    prediction: str
    signal: torch.Tensor
    noise: torch.Tensor

    @classmethod
    def of(cls, scheduler: Any) -> Corruption:
        """That of a scheduler of diffusers. Raises InputError for one that predicts anything else."""
        if hasattr(scheduler, "alphas_cumprod"):
            prediction, kept = scheduler.config["prediction_type"], scheduler.alphas_cumprod.float()
            signal, noise = kept.sqrt(), (1 - kept).sqrt()
        else:
            # Flow matching: a straight line from data to noise; times are in falling order of the noise there.
            prediction, noise = "flow", scheduler.sigmas[: scheduler.config["num_train_timesteps"]].float().flip(0)
            signal = 1 - noise
        if prediction not in PREDICTIONS:
            raise InputError(
                f"generator.finetune: the model's scheduler says prediction_type={prediction}, and what predicts "
                f"{', '.join(PREDICTIONS)} can be trained; type --set generator.finetune=null"
            )
        return cls(prediction, signal, noise)

    @property
    def times(self) -> int:
        return len(self.signal)

    def noisy(self, clean: torch.Tensor, noise: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """[B,...] and times int [B] -> [B,...]"""
        return _along(self.signal, times, clean) * clean + _along(self.noise, times, clean) * noise

    def target(self, clean: torch.Tensor, noise: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """What the network should predict, [B,...]."""
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "flow":
            return noise - clean
        return _along(self.signal, times, clean) * noise - _along(self.noise, times, clean) * clean

    def noise_error(self, residual: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """The error of the noise that an error of the prediction amounts to, [B,...]."""
        return residual if self.prediction == "epsilon" else _along(self.signal, times, residual) * residual

    def snr(self, times: torch.Tensor) -> torch.Tensor:
        """Signal-to-noise ratio, [B]."""
        return (self.signal[times] / self.noise[times].clamp(min=1e-8)) ** 2

    def weights(self, times: torch.Tensor, gamma: float | None) -> torch.Tensor:
        """Of the squared error at each time, [B] on the CPU: 1, or min-SNR (Hang et al., 2023).

        That weighs the error of the clean data by min(SNR, gamma). The clean data's squared error is that of the noise
        over SNR; of the velocity, times noise(t)^2 = 1 / (SNR + 1); and of the flow, times noise(t)^2.
        """
        times = times.cpu()
        if gamma is None:
            return torch.ones(times.shape)
        snr = self.snr(times)
        if self.prediction == "epsilon":
            return (gamma / snr).clamp(max=1)  # at no signal at all too
        return snr.clamp(max=gamma) * self.noise[times] ** 2


def _along(values: torch.Tensor, times: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Values of the times [B], shaped to multiply `like`."""
    return values.to(like)[times.to(like.device)].view(-1, *[1] * (like.ndim - 1))


def denoising_loss(residual: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean squared error, each image's own weighed: the simple loss of Ho et al., 2020. residual: [B,...]"""
    errors = residual.to(torch.promote_types(residual.dtype, torch.float32))
    return (errors.square().flatten(1).mean(dim=1) * weights.to(errors)).mean()
