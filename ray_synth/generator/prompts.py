"""Templates, names and captions in, prompts out; prompts in, their text embeddings out, with what is seen of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ray_synth.config import DiffusersSettings

if TYPE_CHECKING:
    import torch

MOST_KEPT = 4096  # prompts

K = TypeVar("K")
V = TypeVar("V")


def filled(template: str, class_name: str, settings: DiffusersSettings, caption: str = "") -> str:
    """A template with its words in. Names are text and nothing else: braces in one are not read again."""
    words: Mapping[str, str] = {
        "class": settings.class_words.get(class_name, class_name),
        "dataset": settings.dataset,
        "caption": caption,
    }
    parts = template.split("{")
    text = parts[0] + "".join(
        words[name] + rest if closed and name in words else "{" + name + closed + rest
        for name, closed, rest in (part.partition("}") for part in parts[1:])
    )
    return " ".join(text.split())


def encoded_once(kept: dict[K, V], wanted: Sequence[K], encode: Callable[[list[K]], Sequence[V]]) -> list[V]:
    """What is wanted, each encoded once while `kept` holds it; it holds MOST_KEPT at most."""
    new = [one for one in dict.fromkeys(wanted) if one not in kept]
    if len(kept) + len(new) > MOST_KEPT:
        kept.clear()
        new = list(dict.fromkeys(wanted))
    kept.update(zip(new, encode(new) if new else (), strict=True))
    return [kept[one] for one in wanted]


def with_guidance(
    text: torch.Tensor, seen: torch.Tensor, shown: torch.Tensor, *, variant: Literal["paper", "released"]
) -> torch.Tensor:
    """Text embeddings [B,T,D] with visual guidance (Yuan et al., 2024, section 3.2) where it is shown, bool [B].

    seen: [B,k,D], k further tokens, zeros where they are not shown (paper); or [B,1,D], the last token (released).
    """
    import torch

    others = torch.zeros_like(seen) if variant == "paper" else text[:, -1:]
    tokens = torch.where(shown.to(text.device)[:, None, None], seen, others)
    return torch.cat([text if variant == "paper" else text[:, :-1], tokens], dim=1)


class PromptEncoder:
    """prompts -> [B,T,D].

    keep: whether what was encoded is kept; else gradients flow into the text encoder.
    """

    def __init__(self, pipe: Any, device: torch.device, *, keep: bool):
        self.pipe, self.device, self.keep = pipe, device, keep
        self.encoded: dict[str, torch.Tensor] = {}

    def __call__(self, prompts: Sequence[str]) -> torch.Tensor:
        import torch

        with torch.set_grad_enabled(not self.keep and torch.is_grad_enabled()):
            return torch.stack(encoded_once(self.encoded if self.keep else {}, prompts, self._encode))

    def _encode(self, prompts: list[str]) -> Sequence[torch.Tensor]:
        found: torch.Tensor = self.pipe.encode_prompt(prompts, self.device, 1, False)[0]
        return list(found)
