"""What is alive at the peak of a computation that has no memory: closed forms, and torch's own lists of autocast."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import CLIPTextModel

from ray_synth.generator.tiny import tiny_pipeline
from ray_synth.training.memory import ATTENTION, FLOAT32, LOWER, AsOnGpu, Peak

B, H, N, D = 2, 3, 64, 16


def qkv() -> list[torch.Tensor]:
    return [torch.empty(B, H, N, D, device="meta", requires_grad=True) for _ in range(3)]


@pytest.mark.parametrize(("half", "size"), [(False, 4), (True, 2)])
def test_fused_attention_keeps_four_tensors_and_a_number_a_row(half: bool, size: int) -> None:
    given = qkv()
    peak = Peak(given)
    with peak, AsOnGpu(half=half, fused=True):
        out = F.scaled_dot_product_attention(*given)
    casts = 3 if half else 0  # of float32 to bfloat16
    assert peak.now == (casts + 1) * B * H * N * D * size + B * H * N * 4
    assert out.dtype is (torch.bfloat16 if half else torch.float32)


def test_other_attention_keeps_a_matrix_of_all_by_all() -> None:
    kept = {}
    for tokens in (64, 128):
        given = [torch.empty(B, H, tokens, D, device="meta", requires_grad=True) for _ in range(3)]
        peak = Peak(given)
        with peak, AsOnGpu(half=False, fused=False):
            out = F.scaled_dot_product_attention(*given)
        kept[tokens] = peak.now
        del out
    assert kept[64] >= B * H * 64**2 * 4
    assert kept[128] - 2 * kept[64] == pytest.approx(2 * B * H * 64**2 * 4, rel=0.01)  # the part that grows as N^2


def test_a_chain_of_layers_keeps_their_inputs_and_lets_them_go() -> None:
    """Frozen linear layers keep nothing; each sigmoid keeps its output."""
    depth, width, batch = 5, 32, 7
    layers = nn.Sequential(*(m for _ in range(depth) for m in (nn.Linear(width, width), nn.Sigmoid()))).to("meta")
    layers.requires_grad_(False)
    x = torch.empty(batch, width, device="meta", requires_grad=True)
    x.grad = torch.empty_like(x)
    peak = Peak([x, x.grad, *layers.parameters()])
    with peak:
        loss = layers(x).sum()
        assert peak.now == depth * batch * width * 4 + 4
        loss.backward()
        del loss
    assert peak.now == 0
    assert peak.bytes <= (depth + 3) * batch * width * 4 + 8


def test_a_checkpoint_keeps_less_and_computes_again_as_on_a_gpu() -> None:
    width, peaks = 64, {}
    for checkpointed in (False, True):
        blocks = [nn.Sequential(*(m for _ in range(4) for m in (nn.Linear(width, width), nn.Tanh()))) for _ in range(6)]
        mode = AsOnGpu(half=True, fused=True)
        for block in blocks:
            block.to("meta").requires_grad_(False)
        x = torch.empty(1000, width, device="meta", requires_grad=True)
        peak = Peak([x, *(p for block in blocks for p in block.parameters())])
        with peak:
            y = x
            with mode:
                for block in blocks:
                    y = mode.checkpointed(block, y) if checkpointed else block(y)
            y.sum().backward()  # refuses tensors of other types than the first time
        peaks[checkpointed] = peak.bytes
    assert peaks[True] < 0.6 * peaks[False]


# torch's own lists of what autocast does on a GPU lie in the headers that its packages bring.
HEADER = Path(torch.__file__).parent / "include" / "ATen" / "autocast_mode.h"
OTHERWISE = {"__matmul__": "matmul", "__pow__": "pow", "interpolate": "upsample_nearest2d"}


def listed(macro: str) -> set[str]:
    text = re.search(rf"#define AT_FORALL_{macro}\(_\)(.*?)\n\n", HEADER.read_text() + "\n\n", re.DOTALL)
    assert text is not None
    return set(re.findall(r"_\((\w+)", text[1]))


@pytest.fixture
def lists() -> dict[str, set[str]]:
    if not HEADER.exists():
        pytest.skip("this torch has no headers")
    optional = listed("FP32_SET_OPT_DTYPE") | {"norm"}
    return {"lower": listed("LOWER_PRECISION_FP"), "float32": listed("FP32") | optional}


def test_types_are_those_of_torchs_autocast(lists: dict[str, set[str]]) -> None:
    assert {OTHERWISE.get(name, name) for name in LOWER} <= lists["lower"]
    assert {OTHERWISE.get(name, name) for name in FLOAT32} <= lists["float32"]


class Called(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(getattr(func, "__name__", ""))
        return func(*args, **(kwargs or {}))


def test_all_that_a_pipeline_calls_and_autocast_knows_is_known_here(lists: dict[str, set[str]], tmp_path: Path) -> None:
    folder = tiny_pipeline(tmp_path)
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    text = CLIPTextModel.from_pretrained(folder / "text_encoder")
    with Called() as called, torch.no_grad():
        states = text(torch.zeros(1, 77, dtype=torch.long))[0]
        unet(torch.zeros(1, 4, 8, 8), torch.zeros(1), encoder_hidden_states=states)
        vae.decode(torch.zeros(1, 4, 8, 8))
    assert {ATTENTION, "linear", "conv2d", "group_norm", "layer_norm", "interpolate"} <= called.names
    known = {OTHERWISE.get(name, name) for name in called.names} & (lists["lower"] | lists["float32"])
    assert known <= {OTHERWISE.get(name, name) for name in LOWER | FLOAT32}
