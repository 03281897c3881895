"""Images in, EfficientNet-lite0's features or the maps before its last two stages out; and these stages, K at once."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ray_synth.features.packaged import packaged_state
from tests.benchmarks.ratiobench.truth import Batched

MODEL = "tf_efficientnet_lite0"
SIDE = 64  # pixels that images are brought to
FROZEN = 5  # stages that stay as they are
BLOCK = 256


@functools.lru_cache(maxsize=1)
def network(device: str) -> Any:
    """timm's tf_efficientnet_lite0 with the weights of ImageNet."""
    state = packaged_state(MODEL)  # before timm: it imports what timm needs
    import timm

    model = timm.create_model(MODEL, pretrained=False)
    model.load_state_dict(state)
    return model.eval().to(device)


def _prepared(images: np.ndarray, device: str) -> Tensor:
    x = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    return F.interpolate(x, size=(SIDE, SIDE), mode="bicubic", antialias=True).expand(-1, 3, -1, -1)


@torch.no_grad()
def maps(images: np.ndarray, device: str = "cpu") -> Tensor:
    """uint8 [N,H,W,C] -> [N,4,4,112], before the last two stages."""
    model, parts = network(device), []
    for start in range(0, len(images), BLOCK):
        x = model.bn1(model.conv_stem(_prepared(images[start : start + BLOCK], device)))
        parts.append(model.blocks[:FROZEN](x).permute(0, 2, 3, 1).contiguous())
    return torch.cat(parts)


@torch.no_grad()
def pooled_features(images: np.ndarray, device: str = "cpu") -> Tensor:
    """uint8 [N,H,W,C] -> [N,1280]"""
    model, parts = network(device), []
    for start in range(0, len(images), BLOCK):
        x = model.forward_features(_prepared(images[start : start + BLOCK], device))
        parts.append(model.forward_head(x, pre_logits=True))
    return torch.cat(parts)


class LastStages(Batched):
    """The last two stages and a fresh head, normalisation folded into the convolutions. Maps [K,B,4,4,112] in."""

    def __init__(self, num_classes: int, mixes: int, seeds: int, device: str):
        super().__init__([(1280, num_classes)], mixes, seeds, device)
        model = network(device)
        self.blocks = [block for stage in model.blocks[FROZEN:] for block in stage]
        self.layers: list[tuple[Tensor, Tensor]] = []
        for block in self.blocks:
            for conv, norm in ((block.conv_pw, block.bn1), (block.conv_dw, block.bn2), (block.conv_pwl, block.bn3)):
                self.layers.append(self._folded(conv, norm))
        self.layers.append(self._folded(model.conv_head, model.bn2))

    @property
    def parameters(self) -> list[Tensor]:
        return [*super().parameters, *(tensor for layer in self.layers for tensor in layer)]

    def _folded(self, conv: Any, norm: Any) -> tuple[Tensor, Tensor]:
        """[K,in,out] of a pointwise convolution or [K*channels,1,k,k] of one in depth, and its bias."""
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        weight, bias = conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale
        if conv.groups == 1:
            weight = weight[:, :, 0, 0].T.repeat(self.k, 1, 1)
            bias = bias.repeat(self.k, 1, 1)
        else:
            weight, bias = weight.repeat(self.k, 1, 1, 1), bias.repeat(self.k)
        return weight.detach().clone().requires_grad_(), bias.detach().clone().requires_grad_()

    def forward(self, x: Tensor) -> Tensor:
        layers = iter(self.layers)
        for block in self.blocks:
            start = x
            x = F.relu6(self._pointwise(x, *next(layers)))
            x = F.relu6(self._in_depth(x, *next(layers), stride=block.conv_dw.stride[0]))
            x = self._pointwise(x, *next(layers))
            if block.has_skip:
                x = x + start
        x = F.relu6(self._pointwise(x, *next(layers))).mean(dim=(2, 3))
        return torch.baddbmm(self.biases[0], x, self.weights[0])

    def _pointwise(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """[K,B,H,W,C] -> [K,B,H,W,out]"""
        return torch.baddbmm(bias, x.flatten(1, 3), weight).reshape(*x.shape[:4], -1)

    def _in_depth(self, x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
        k, b, h, w, c = x.shape
        joined = x.permute(1, 0, 4, 2, 3).reshape(b, k * c, h, w)
        pads = []
        for side in (w, h):  # as TensorFlow pads: what is odd goes behind
            missing = max((-(-side // stride) - 1) * stride + weight.shape[-1] - side, 0)
            pads += [missing // 2, missing - missing // 2]
        out = F.conv2d(F.pad(joined, pads), weight, bias, stride=stride, groups=k * c)
        return out.reshape(b, k, c, *out.shape[2:]).permute(1, 0, 3, 4, 2)
