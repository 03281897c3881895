"""An open_clip architecture, local weights and class names in; a zero-shot classifier with LoRA adapters out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ray_synth.classifier.weights import misfit, read_weights
from ray_synth.config import Classifier, Lora
from ray_synth.errors import InputError
from ray_synth.features.clip import (
    as_loaded,
    check_open_clip,
    load_open_clip,
    open_clip_name,
    tokens_of,
    tower_settings,
)
from ray_synth.torch_ops import import_torchvision

TEXTS_AT_ONCE = 256  # class prompts per pass where no gradient is kept
ADAPTER = "lora_"  # in the name of every adapter's parameter


class SplitAttention(nn.Module):
    """Multi-head attention with a Linear each for q, k, v and out.

    nn.MultiheadAttention and CLIP's attention pool hand weights, not layers, to a function: an adapter wrapped around
    such a layer is never called, and one on the fused projection changes q, k and v at once.
    """

    def __init__(self, projections: dict[str, nn.Linear], num_heads: int, *, batch_first: bool):
        super().__init__()
        self.q_proj, self.k_proj = projections["q"], projections["k"]
        self.v_proj, self.out_proj = projections["v"], projections["out"]
        self.num_heads, self.batch_first = num_heads, batch_first

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        need_weights: bool = False,
        attn_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, None]:
        """[B,L,d], [B,S,k], [B,S,v] (the first two axes swapped unless batch_first) -> ([B,L,out], None)."""
        if not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = self._heads(self.q_proj(query)), self._heads(self.k_proj(key)), self._heads(self.v_proj(value))
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=self._mask(attn_mask, q))
        out = self.out_proj(found.transpose(1, 2).flatten(2))
        return (out if self.batch_first else out.transpose(0, 1)), None

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        heads: torch.Tensor = x.unflatten(-1, (self.num_heads, -1))
        return heads.transpose(1, 2)  # (B, heads, L, d / heads)

    def _mask(self, mask: torch.Tensor | None, q: torch.Tensor) -> torch.Tensor | None:
        """[L,S] or [B * heads,L,S], added, or True where nothing may be seen -> what the fused kernel takes."""
        if mask is None:
            return None
        mask = mask.logical_not() if mask.dtype == torch.bool else mask.to(q.dtype)
        return mask.unflatten(0, (-1, self.num_heads)) if mask.ndim == 3 else mask


class SplitAttentionPool(nn.Module):
    """The attention pool of CLIP's residual networks: the mean position asks all positions."""

    def __init__(self, positional_embedding: nn.Parameter, attention: SplitAttention):
        super().__init__()
        self.positional_embedding, self.attention = positional_embedding, attention

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B,d,H,W] -> [B,out]."""
        positions = x.flatten(2).transpose(1, 2)
        positions = torch.cat([positions.mean(dim=1, keepdim=True), positions], dim=1) + self.positional_embedding
        pooled: torch.Tensor = self.attention(positions[:, :1], positions, positions)[0]
        return pooled[:, 0]


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer


def split_attention(module: nn.MultiheadAttention) -> SplitAttention:
    """The same attention, its fused projection cut into three."""
    if module.bias_k is not None or module.add_zero_attn or module.dropout:
        raise InputError("LoRA is not implemented for attention with bias_k, add_zero_attn or dropout")
    fused = module.in_proj_weight
    separate = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    weights = separate if fused is None else fused.chunk(3)
    biases = (None, None, None) if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
    projections = {name: _linear(w, b) for name, w, b in zip("qkv", weights, biases, strict=True)}
    projections["out"] = _linear(module.out_proj.weight, module.out_proj.bias)
    return SplitAttention(projections, module.num_heads, batch_first=module.batch_first)


def split_attention_pool(module: Any) -> SplitAttentionPool:
    """open_clip's AttentionPool2d, with layers that are called."""
    layers = {"q": module.q_proj, "k": module.k_proj, "v": module.v_proj, "out": module.c_proj}
    return SplitAttentionPool(module.positional_embedding, SplitAttention(layers, module.num_heads, batch_first=True))


def split_towers(clip: nn.Module, towers: Sequence[str]) -> list[str]:
    """Replace every attention of the towers, in place; the names of the new ones.

    Raises:
        InputError: a tower without an attention that is known here.
    """
    from open_clip.modified_resnet import AttentionPool2d

    known = {nn.MultiheadAttention: split_attention, AttentionPool2d: split_attention_pool}
    for name, module in list(clip.named_modules()):
        if type(module) in known and _tower(name) in towers:
            clip.set_submodule(name, known[type(module)](module))
    found = [name for name, module in clip.named_modules() if isinstance(module, SplitAttention)]
    for tower in towers:
        if not any(_tower(name) == tower for name in found):
            others = [other for other in ("image", "text") if other != tower]
            raise InputError(
                f"LoRA finds no attention of a known kind in the {tower} tower; take a model such as ViT-B-16 or RN50, "
                f"or type --set classifier.lora.towers={others}"
            )
    return found


def _tower(name: str) -> str:
    """Which tower a module of an open_clip model belongs to. CoCa's text decoder belongs to none."""
    first = name.split(".")[0]
    return {"visual": "image", "transformer": "text", "text": "text"}.get(first, "")


def add_lora(clip: nn.Module, lora: Lora) -> None:
    """Freeze the model and put adapters on the chosen projections of the chosen towers, in place."""
    import_torchvision()  # peft imports transformers, which imports it
    from peft import LoraConfig, inject_adapter_in_model

    clip.requires_grad_(False)
    targets = [f"{name}.{p}_proj" for name in split_towers(clip, lora.towers) for p in lora.projections]
    alpha: Any = lora.alpha  # a float to peft's code, whatever its annotation says
    config = LoraConfig(r=lora.r, lora_alpha=alpha, lora_dropout=lora.dropout, target_modules=targets, bias="none")
    inject_adapter_in_model(config, clip)
    adapted = {name.split(".lora_A.")[0] for name, _ in clip.named_parameters() if ".lora_A." in name}
    if adapted != set(targets):  # a peft that matches names otherwise must not pass unseen
        raise InputError(
            f"peft put adapters on {len(adapted)} layers where {len(targets)} were meant; use peft 0.17 to 0.21"
        )


class ZeroShot(nn.Module):
    """CLIP as a classifier: prepared images [B,3,H,W] -> logits [B,K], the scaled cosines to K class prompts.

    The frozen network stays in evaluation mode, so that batch statistics do not drift; only the adapters' dropout
    follows `train()`. Texts are encoded anew where their tower is trained; else their features are kept.
    """

    tokens: torch.Tensor

    def __init__(self, clip: Any, tokens: torch.Tensor):
        super().__init__()
        self.clip = clip
        self.register_buffer("tokens", tokens, persistent=False)
        self._kept: tuple[tuple[Any, ...], torch.Tensor, torch.Tensor] | None = None
        self.train(self.training)

    def train(self, mode: bool = True) -> ZeroShot:
        super().train(mode)
        self.clip.eval()
        for name, module in self.clip.named_modules():
            if ".lora_dropout." in name:
                module.train(mode)
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        seen = self.clip.encode_image(images, normalize=True)
        texts = self.text_features()
        # In bfloat16 a cosine has three digits, and the scale multiplies its error by 100.
        with torch.autocast(images.device.type, enabled=False):
            logits: torch.Tensor = self.clip.logit_scale.float().exp() * seen.float() @ texts.float().T
        return logits

    def text_features(self) -> torch.Tensor:
        """Normalised embeddings [K,d] of the class prompts."""
        trained = [p for name, p in self.clip.named_parameters() if ADAPTER in name and _tower(name) == "text"]
        if trained and (self.training or torch.is_grad_enabled()):
            features: torch.Tensor = self.clip.encode_text(self.tokens, normalize=True)
            return features
        # Kept features belong to these very adapters: to compare them costs little and misses no way of changing them.
        state = torch.cat([p.detach().flatten() for p in trained]) if trained else self.tokens.new_zeros(0)
        device = self.tokens.device
        key = (device, torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type))
        if self._kept is None or self._kept[0] != key or not torch.equal(self._kept[1], state):
            self._kept = (key, state, self._encode_frozen())
        return self._kept[2]

    def _encode_frozen(self) -> torch.Tensor:
        # Not in inference mode: a tensor made there cannot take part in a later training step.
        with torch.inference_mode(False), torch.no_grad():
            parts = self.tokens.clone().split(TEXTS_AT_ONCE)
            return torch.cat([self.clip.encode_text(part, normalize=True) for part in parts])


def prompts_of(class_names: Sequence[str], prompt: str) -> list[str]:
    return [prompt.replace("{class}", name) for name in class_names]


def build_clip(settings: Classifier, class_names: Sequence[str], *, device: str = "cpu") -> ZeroShot:
    """The classifier with its weights; adapters are drawn from torch's random state. device: meta for names alone.

    Raises:
        InputError: no such architecture, no file, weights that do not fit, or a tower that LoRA is not made for.
    """
    name = _architecture(settings)
    clip = _load_clip(name, settings, device)
    add_lora(clip, settings.lora or Lora())
    if device == "meta":
        return ZeroShot(clip, torch.zeros(len(class_names), 1, dtype=torch.long, device=device))
    return ZeroShot(clip, tokens_of(name, prompts_of(class_names, settings.prompt)))


def _architecture(settings: Classifier) -> str:
    name = open_clip_name(settings.model.removeprefix("open_clip:"))
    check_open_clip(name, settings.weights or "")
    return name


def _load_clip(name: str, settings: Classifier, device: str) -> Any:
    size = _forced_size(name, settings.image_size)
    return load_open_clip(name, settings.weights or "", image_size=size, device=device)


def _forced_size(name: str, image_size: int | None) -> int | None:
    """The size to build for; None: the model's own. Only transformers can be built for another one."""
    vision = tower_settings(name, "vision")
    own = vision.get("image_size", 224)
    if image_size is None or image_size == own:
        return None
    if isinstance(vision.get("layers"), list):
        raise InputError(
            f"classifier.image_size must be {own} for open_clip:{name}, got {image_size}; "
            f"type --set classifier.image_size={own}"
        )
    return image_size


def check_clip(settings: Classifier) -> None:
    """Raise InputError for what `build_clip` would refuse, without weights in memory."""
    name = _architecture(settings)
    text = tower_settings(name, "text")
    if "hf_model_name" in text or "hf_tokenizer_name" in text or "siglip" in name.lower():
        raise InputError(
            f"open_clip:{name} needs a tokenizer that is not part of open_clip, and nothing is downloaded here; "
            "type --set classifier.model=open_clip:ViT-B-16"
        )
    _check_fit(name, settings)
    build_clip(settings, ["a"], device="meta")


def _check_fit(name: str, settings: Classifier) -> None:
    model = _load_clip(name, settings, "meta")
    given = as_loaded(model, read_weights(settings.weights or "", shapes_only=True))
    # open_clip mends the shapes of these when it loads.
    mended = ("logit_scale", "logit_bias", "positional_embedding", "visual.positional_embedding")
    problem = misfit(model.state_dict(), given, loose=(*mended, "text.positional_embedding"))
    if problem:
        raise InputError(
            f"classifier.weights: {settings.weights} does not fit open_clip:{name} ({problem}); "
            "give the weights of this architecture, or type --set classifier.model=open_clip:NAME"
        )
