"""Prompts in, their text embeddings out: each encoded once where the text encoder stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

MOST_KEPT = 4096


class PromptEncoder:
    """prompts -> [B,T,D].

    keep: whether what was encoded is kept; else gradients flow into the text encoder.
    """

    def __init__(self, pipe: Any, device: torch.device, *, keep: bool):
        self.pipe, self.device, self.keep = pipe, device, keep
        self.encoded: dict[str, torch.Tensor] = {}

    def __call__(self, prompts: Sequence[str]) -> torch.Tensor:
        if not self.keep:
            return self._encode(list(dict.fromkeys(prompts)))[_places(prompts)]
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.encoded]
        if len(self.encoded) + len(new) > MOST_KEPT:
            self.encoded.clear()
            new = list(dict.fromkeys(prompts))
        if new:
            with torch.no_grad():
                self.encoded |= dict(zip(new, self._encode(new), strict=True))
        return torch.stack([self.encoded[prompt] for prompt in prompts])

    def _encode(self, prompts: list[str]) -> torch.Tensor:
        found: torch.Tensor = self.pipe.encode_prompt(prompts, self.device, 1, False)[0]
        return found


def _places(prompts: Sequence[str]) -> list[int]:
    """Where each prompt stands among the different ones."""
    different = list(dict.fromkeys(prompts))
    return [different.index(prompt) for prompt in prompts]
