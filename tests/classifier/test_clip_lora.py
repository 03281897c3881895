"""LoRA on CLIP: zero-shot before training, the chosen projections and nothing else in training, and what it counts."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ray_synth.classifier.clip_lora import SplitAttention, add_lora, check_clip, prompts_of, split_attention
from ray_synth.classifier.models import build_model, check_model, load_trainable
from ray_synth.config import Classifier, Lora
from ray_synth.errors import InputError
from ray_synth.training.checkpoint import trainable_state

from .tiny_clip import register_tiny_clips

CLASSES = ("cat", "dog", "fire engine")
MODELS = ["tiny-ViT", "tiny-RN"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return register_tiny_clips(tmp_path_factory.mktemp("clips"))


def settings_of(name: str, files: dict[str, str], **more) -> Classifier:
    return Classifier(model=f"open_clip:{name}", weights=files[name], **more)


def built(name: str, files: dict[str, str], *, seed: int = 0, **more):
    return build_model(settings_of(name, files, **more), (20, 20, 3), CLASSES, seed=seed)


def images(number: int = 4, channels: int = 3) -> torch.Tensor:
    return torch.rand(number, channels, 20, 20, generator=torch.Generator().manual_seed(2)) * 2 - 1


def untouched(name: str, files: dict[str, str]) -> nn.Module:
    import open_clip

    return open_clip.create_model(name, pretrained=files[name], weights_only=True).eval()


def zero_shot(clip: nn.Module, name: str, batch: torch.Tensor) -> torch.Tensor:
    """open_clip's own functions, as its README uses them."""
    import open_clip

    side = clip.visual.image_size
    size = (side, side) if isinstance(side, int) else side
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (clip.visual.image_mean, clip.visual.image_std))
    resized = F.interpolate((batch + 1) / 2, size, mode="bicubic", antialias=True).clamp(0, 1)
    texts = open_clip.get_tokenizer(name)([f"a photo of a {c}" for c in CLASSES])
    with torch.no_grad():
        logits, _ = clip.get_logits((resized - mean) / std, texts)
    return logits


def step(model: nn.Module, *, rate: float = 0.05) -> None:
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, fused=True)
    F.cross_entropy(model(images()), torch.tensor([0, 1, 2, 0])).backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("lora", [None, Lora(projections=("q", "k", "v", "out")), Lora(towers=("image",))])
def test_before_training_it_is_the_untouched_model(name: str, lora: Lora | None, files: dict[str, str]) -> None:
    model = built(name, files, lora=lora)
    expected = zero_shot(untouched(name, files), name, images())
    assert expected.std() > 0.01
    for mode in (False, True):  # frozen statistics: training mode is the same function
        torch.testing.assert_close(model.train(mode)(images()).detach(), expected, atol=1e-5, rtol=1e-5)
    grey = images(channels=1)
    found = model.eval()(grey).detach()
    torch.testing.assert_close(found, zero_shot(untouched(name, files), name, grey.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "lora", [Lora(r=4), Lora(r=4, projections=("k", "out")), Lora(r=4, towers=("text",)), Lora(towers=("image",))]
)
def test_only_the_chosen_projections_learn_and_each_of_them_does(name: str, lora: Lora, files: dict[str, str]) -> None:
    model = built(name, files, lora=lora.model_copy(update={"dropout": 0.0})).train()
    frozen = {k: v.clone() for k, v in model.state_dict().items() if "lora_" not in k}
    before = model(images()).detach()
    F.cross_entropy(model(images()), torch.tensor([0, 1, 2, 0])).backward()
    learning = {n for n, p in model.named_parameters() if p.requires_grad}
    assert learning == {n for n, p in model.named_parameters() if "lora_" in n}
    for parameter_name, parameter in model.named_parameters():
        if "lora_B" in parameter_name:  # A's gradient is zero while B is
            assert parameter.grad.abs().max() > 0, parameter_name
        elif "lora_" not in parameter_name:
            assert parameter.grad is None
    kinds = {n.split("_proj.")[0].rsplit(".", 1)[1] for n in learning}
    assert kinds == set(lora.projections)
    assert {"image" if ".visual." in n else "text" for n in learning} == set(lora.towers)
    step(model)
    assert (model(images()) - before).abs().max() > 1e-3
    for parameter_name, value in frozen.items():
        assert torch.equal(model.state_dict()[parameter_name], value), parameter_name


@pytest.mark.parametrize("name", MODELS)
def test_each_adapter_reaches_the_logits(name: str, files: dict[str, str]) -> None:
    """A wrapped layer whose weight is taken without calling it would train and change nothing."""
    model = built(name, files, lora=Lora(r=2, projections=("q", "k", "v", "out"))).eval()
    before = model(images()).detach()
    for parameter_name, parameter in model.named_parameters():
        if "lora_B" in parameter_name:
            with torch.no_grad():
                # Not a constant: one added to every key moves no attention.
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
                assert (model(images()) - before).abs().max() > 1e-5, parameter_name
                parameter.zero_()


@pytest.mark.parametrize("name", MODELS)
def test_merged_by_hand_it_is_the_same_function(name: str, files: dict[str, str]) -> None:
    lora = Lora(r=4, alpha=6.0)
    model = built(name, files, lora=lora).train()
    step(model)
    plain = untouched(name, files)
    state = plain.state_dict()
    for parameter_name, b in model.named_parameters():
        if "lora_B" not in parameter_name:
            continue
        a = model.get_parameter(parameter_name.replace("lora_B", "lora_A"))
        place, kind = parameter_name.removeprefix("network.clip.").split(".lora_B.")[0].rsplit(".", 1)
        update = lora.alpha / lora.r * (b @ a).detach()
        if place.startswith("visual.attnpool"):
            state[f"visual.attnpool.{kind}.weight"] += update
        else:
            rows = {"q_proj": 0, "k_proj": 1, "v_proj": 2}[kind]
            state[f"{place}.in_proj_weight"].chunk(3)[rows].add_(update)
    plain.load_state_dict(state)
    expected = zero_shot(plain, name, images())
    torch.testing.assert_close(model.eval()(images()).detach(), expected, atol=1e-4, rtol=1e-4)


def test_dropout_is_for_training_alone(files: dict[str, str]) -> None:
    model = built("tiny-ViT", files, lora=Lora(dropout=0.5)).train()
    step(model)
    assert not torch.equal(model(images()), model(images()))
    model.eval()
    assert torch.equal(model(images()), model(images()))


@pytest.mark.parametrize("towers", [("image", "text"), ("image",), ("text",)])
def test_kept_text_features_are_those_of_the_weights(towers: tuple[str, ...], files: dict[str, str]) -> None:
    model = built("tiny-ViT", files, lora=Lora(towers=towers, dropout=0.0))
    for _ in range(2):
        with torch.inference_mode():
            kept = model.eval()(images())
            calls: list[int] = []
            handle = model.network.clip.ln_final.register_forward_hook(lambda *a, calls=calls: calls.append(1))
            assert torch.equal(model(images()), kept)
            assert not calls  # nothing changed, so nothing was encoded
            handle.remove()
        torch.testing.assert_close(model.train()(images()).detach(), kept, atol=1e-5, rtol=1e-5)
        step(model)  # after a pass in inference mode, and in evaluation mode's stead
    with torch.no_grad():
        before = model.eval()(images())
        load_trainable(model, {k: v + 0.1 for k, v in trainable_state(model).items()})  # without a call of train()
        assert not torch.allclose(model(images()), before)


def test_gradients_flow_to_the_texts_in_evaluation_mode_too(files: dict[str, str]) -> None:
    model = built("tiny-ViT", files).eval()
    model(images())[:, 0].sum().backward()
    grads = [p.grad for n, p in model.named_parameters() if "lora_B" in n and ".visual." not in n]
    assert all(g is not None for g in grads)


@pytest.mark.parametrize(
    ("name", "lora", "expected"),
    [
        # layers x projections x (A: r x width, B: width x r)
        ("ViT-B-16", Lora(), 12 * 2 * 2 * 768 * 16 + 12 * 2 * 2 * 512 * 16),
        ("ViT-B-16", Lora(r=4, projections=("q", "k", "v", "out"), towers=("image",)), 12 * 4 * 2 * 768 * 4),
        ("RN50", Lora(), 2 * 2 * 2048 * 16 + 12 * 2 * 2 * 512 * 16),
        # the pool's last layer maps 2048 to 1024
        ("RN50", Lora(r=4, projections=("out",), towers=("image",)), (2048 + 1024) * 4),
    ],
)
def test_the_trained_parameters_are_as_many_as_the_formula_says(name: str, lora: Lora, expected: int) -> None:
    import open_clip

    with torch.device("meta"):
        clip = open_clip.create_model(name, device="meta")
        add_lora(clip, lora)
    assert sum(p.numel() for p in clip.parameters() if p.requires_grad) == expected


@pytest.mark.parametrize("name", MODELS)
def test_it_learns(name: str, files: dict[str, str]) -> None:
    model, labels = built(name, files, lora=Lora(dropout=0.0)).train(), torch.arange(3)
    colours = 2 * torch.eye(3).view(3, 3, 1, 1).expand(-1, -1, 20, 20) - 1 + 0.05 * images(3)
    before = F.cross_entropy(model(colours), labels).item()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(120):
        optimizer.zero_grad()
        F.cross_entropy(model(colours), labels).backward()
        optimizer.step()
    after = F.cross_entropy(model.eval()(colours), labels).item()
    assert after < 0.3 < before, (before, after)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("mask", ["none", "bool", "float", "per head"])
def test_split_attention_is_torchs(batch_first: bool, mask: str) -> None:
    torch.manual_seed(0)
    fused = nn.MultiheadAttention(24, 3, batch_first=batch_first, kdim=None)
    nn.init.normal_(fused.in_proj_bias)
    nn.init.normal_(fused.out_proj.bias)
    query, key = torch.randn(2, 5, 24), torch.randn(2, 5, 24)
    causal = torch.ones(5, 5, dtype=torch.bool).triu(1)
    masks = {
        "none": None,
        "bool": causal,
        "float": torch.randn(5, 5),
        "per head": torch.randn(6, 5, 5),
    }
    if not batch_first:
        query, key = query.transpose(0, 1), key.transpose(0, 1)
    expected = fused(query, key, key + 1, need_weights=False, attn_mask=masks[mask])[0]
    found, weights = split_attention(fused)(query, key, key + 1, need_weights=True, attn_mask=masks[mask])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert weights is None


def test_split_attention_takes_keys_of_another_width() -> None:
    torch.manual_seed(0)
    fused = nn.MultiheadAttention(24, 3, batch_first=True, kdim=10, vdim=7, bias=False)
    query, key, value = torch.randn(2, 4, 24), torch.randn(2, 6, 10), torch.randn(2, 6, 7)
    expected = fused(query, key, value, need_weights=False)[0]
    torch.testing.assert_close(split_attention(fused)(query, key, value)[0], expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(InputError, match="bias_k"):
        split_attention(nn.MultiheadAttention(24, 3, add_bias_kv=True))


def test_the_other_tower_keeps_its_fused_attention(files: dict[str, str]) -> None:
    model = built("tiny-ViT", files, lora=Lora(towers=("image",)))
    clip = model.network.clip
    assert all(isinstance(block.attn, SplitAttention) for block in clip.visual.transformer.resblocks)
    assert all(isinstance(block.attn, nn.MultiheadAttention) for block in clip.transformer.resblocks)


@pytest.mark.parametrize("name", MODELS)
def test_adapters_are_what_is_saved_and_bring_the_model_back(name: str, files: dict[str, str]) -> None:
    model = built(name, files, seed=1).train()
    step(model)
    saved = trainable_state(model)
    assert set(saved) == {n for n, p in model.named_parameters() if p.requires_grad}
    assert sum(t.numel() for t in saved.values()) < 0.1 * sum(p.numel() for p in model.parameters())
    again = built(name, files, seed=2)
    load_trainable(again, saved)
    assert torch.equal(again.eval()(images()), model.eval()(images()))
    with pytest.raises(InputError, match=r"belongs to another model \(missing: network\.clip"):
        load_trainable(again, dict(list(saved.items())[1:]))
    with pytest.raises(InputError, match="unknown: extra"):
        load_trainable(again, {**saved, "extra": torch.zeros(1)})
    step(model)
    assert not all(torch.equal(saved[n], t) for n, t in trainable_state(model).items())  # a copy, not a view


def test_seeds_draw_the_adapters_and_leave_the_global_state(files: dict[str, str]) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (trainable_state(built("tiny-ViT", files, seed=s)) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert any(not torch.equal(first[n], other[n]) for n in first)


def test_prompts_follow_the_classes(files: dict[str, str]) -> None:
    assert prompts_of(("cat", "dog"), "{class}: a {class}.") == ["cat: a cat.", "dog: a dog."]
    one, other = built("tiny-ViT", files), built("tiny-ViT", files, prompt="a sketch of a {class}")
    assert not torch.allclose(one(images()), other(images()))
    swapped = build_model(settings_of("tiny-ViT", files), (20, 20, 3), CLASSES[::-1], seed=0)
    torch.testing.assert_close(swapped(images()).flip(1), one(images()))


@pytest.mark.parametrize("name", MODELS)
def test_a_step_in_bfloat16_is_finite_and_the_head_stays_exact(name: str, files: dict[str, str]) -> None:
    model = built(name, files).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(images())
        loss = F.cross_entropy(logits, torch.tensor([0, 1, 2, 0]))
    assert logits.dtype == torch.float32
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


def test_another_image_size_is_for_transformers(files: dict[str, str]) -> None:
    model = built("tiny-ViT", files, image_size=48)
    assert model.size == (48, 48)
    assert model(images()).shape == (4, 3)
    check_model(settings_of("tiny-ViT", files, image_size=48))
    with pytest.raises(InputError, match=r"image_size must be 64 for open_clip:tiny-RN, got 96"):
        check_model(settings_of("tiny-RN", files, image_size=96))


@pytest.mark.parametrize("name", MODELS)
def test_wrong_input_is_found_before_anything_starts(name: str, files: dict[str, str], tmp_path: Path) -> None:
    check_clip(settings_of(name, files))
    other = next(other for other in MODELS if other != name)
    with pytest.raises(InputError, match=r"does not fit open_clip:.* \(missing: .*visual"):
        check_clip(settings_of(name, {name: files[other]}))
    with pytest.raises(InputError, match="did you mean"):
        check_clip(Classifier(model="open_clip:ViT-B-61", weights=files[name]))
    with pytest.raises(InputError, match="no file at"):
        check_clip(settings_of(name, {name: str(tmp_path / "none.pt")}))
    with pytest.raises(InputError, match="tokenizer"):
        check_clip(Classifier(model="open_clip:ViT-B-16-SigLIP", weights=files[name]))
    trap = tmp_path / "trap.pt"
    trap.write_bytes(pickle.dumps(Trap(), protocol=2))
    for refuse in (check_clip, lambda s: build_model(s, (20, 20, 3), CLASSES, seed=0)):
        with pytest.raises(InputError, match=r"trap\.pt"):
            refuse(settings_of(name, {name: str(trap)}))


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


def test_a_tower_of_another_kind_is_refused_with_a_cure() -> None:
    import open_clip

    with torch.device("meta"):
        clip = open_clip.create_model("MobileCLIP-S1", device="meta")
        with pytest.raises(InputError, match=r"in the image tower; .*lora\.towers=\['text'\]"):
            add_lora(clip, Lora())


def test_plain_state_dicts_are_read_too(files: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "clip.pt"
    torch.save({"state_dict": untouched("tiny-ViT", files).state_dict()}, path)
    model = built("tiny-ViT", {"tiny-ViT": str(path)})
    check_clip(settings_of("tiny-ViT", {"tiny-ViT": str(path)}))
    assert np.allclose(model(images()).detach(), built("tiny-ViT", files)(images()).detach())
