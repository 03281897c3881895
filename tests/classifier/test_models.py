"""Every model family: what goes in, what comes out, seeds, weights from a file, and wrong input found early."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from ray_synth.classifier.models import build_model, check_model, load_trainable, small_cnn
from ray_synth.config import Classifier
from ray_synth.errors import InputError
from ray_synth.training.checkpoint import trainable_state

FAMILIES = ["small_cnn", "compact_cnn", "resnet18", "timm:test_resnet", "timm:test_vit"]
NAMES = ("a", "b", "c")


def built(name: str, shape: tuple[int, int, int] = (32, 32, 3), names: tuple[str, ...] = NAMES, seed: int = 0, **more):
    return build_model(Classifier(model=name, **more), shape, names, seed=seed)


def images(number: int = 4, height: int = 32, width: int = 32, channels: int = 3) -> torch.Tensor:
    return torch.rand(number, channels, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("shape", [(32, 32, 3), (32, 32, 1), (40, 72, 3)])
def test_images_in_the_common_range_become_logits(name: str, shape: tuple[int, int, int]) -> None:
    check_model(Classifier(model=name), shape)
    model = built(name, shape).eval()
    height, width, channels = shape
    assert model(images(2, height, width, channels)).shape == (2, 3)


def test_resnet50_is_there() -> None:
    with torch.device("meta"):
        model = built("resnet50", (224, 224, 3)).to("meta")
        assert model(torch.empty(2, 3, 224, 224)).shape == (2, 3)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_seed_gives_the_weights_and_leaves_the_global_state(name: str) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, again, other = (built(name, seed=s).state_dict() for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert any(not torch.equal(first[n], other[n]) for n in first)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_step_in_bfloat16_is_finite(name: str) -> None:
    model = built(name).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = F.cross_entropy(model(images()), torch.tensor([0, 1, 2, 0]))
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_small_images_get_the_small_stem() -> None:
    small, large = built("resnet18").network, built("resnet18", (96, 96, 3)).network
    assert small.conv1.weight.shape == (64, 3, 3, 3)
    assert small.conv1.stride == (1, 1)
    assert isinstance(small.maxpool, nn.Identity)
    assert large.conv1.weight.shape == (64, 3, 7, 7)
    resized = built("resnet18", (96, 96, 3), image_size=64)
    assert resized.network.conv1.weight.shape == (64, 3, 3, 3)


def test_what_a_network_sees_is_resized_coloured_and_standardized() -> None:
    model = built("resnet18", (20, 28, 1), image_size=96).eval()
    seen: list[torch.Tensor] = []
    model.network.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    grey = images(2, 20, 28, 1)
    model(grey)
    from torchvision.transforms.v2 import functional as tv

    resized = tv.resize(((grey + 1) / 2).expand(-1, 3, -1, -1), [96, 96], antialias=True)
    expected = tv.normalize(resized, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(seen[0], expected, atol=1e-5, rtol=1e-5)


def test_a_timm_transformer_sees_its_own_size_and_statistics_unless_told() -> None:
    own, larger = built("timm:test_vit"), built("timm:test_vit", image_size=192)
    assert own.size == (160, 160)
    assert larger.size == (192, 192)
    assert own.mean.flatten().tolist() == pytest.approx([0.0] * 3)  # 2 * .5 - 1
    assert larger.eval()(images()).shape == (4, 3)
    assert built("timm:test_resnet").size == (32, 32)
    with pytest.raises(InputError, match=r"image_size must be 224 for timm:xcit_nano_12_p8_224, got 64 \(it is built"):
        check_model(Classifier(model="timm:xcit_nano_12_p8_224", image_size=64))


def test_small_cnn_is_what_it_was() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        plain = small_cnn((8, 8, 2), 3)
    model = built("small_cnn", (8, 8, 2), seed=4)
    assert list(model.state_dict()) == list(plain.state_dict())
    batch = images(3, 8, 8, 2)
    assert torch.equal(model(batch), plain(batch))
    assert built("small_cnn", (8, 8, 2), image_size=16)(batch).shape == (3, 3)


@pytest.mark.parametrize(("side", "channels", "classes"), [(32, 3, 10), (8, 1, 4), (31, 2, 7)])
def test_compact_cnn_is_the_papers(side: int, channels: int, classes: int) -> None:
    model = built("compact_cnn", (side, side, channels), tuple(map(str, range(classes))))
    convolutions = (9 * channels + 1) * 32 + (9 * 32 + 1) * 64
    linear = (64 * (side // 4) ** 2 + 1) * 512 + 513 * classes
    assert sum(p.numel() for p in model.parameters()) == convolutions + linear
    assert model.eval()(images(2, side, side, channels)).shape == (2, classes)
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.25]
    assert built("compact_cnn", (8, 8, 2), image_size=16)(images(3, 8, 8, 2)).shape == (3, 3)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_an_image_too_small_for_two_poolings_is_refused() -> None:
    with pytest.raises(InputError, match="compact_cnn cannot take images of 3 x 3 pixels"):
        check_model(Classifier(model="compact_cnn"), (3, 3, 1))


def saved_weights(name: str, path: Path, classes: int, shape: tuple[int, int, int] = (32, 32, 3)) -> dict:
    """The network's own names, as their authors publish them."""
    model = built(name, shape, tuple(f"c{i}" for i in range(classes)), seed=9)
    state = getattr(model, "network", model).state_dict()
    state = {k: v.clone().contiguous() for k, v in state.items()}
    save_file(state, path) if path.suffix == ".safetensors" else torch.save({"model": state}, path)
    return state


@pytest.mark.parametrize(("name", "suffix"), [*((name, ".safetensors") for name in FAMILIES), ("resnet18", ".pth")])
def test_weights_come_from_a_file_and_another_head_stays_drawn(name: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    for classes in (3, 5):
        state = saved_weights(name, path, classes)
        settings = Classifier(model=name, weights=str(path))
        check_model(settings)
        check_model(settings, (32, 32, 3))
        model = built(name, weights=str(path))
        drawn = getattr(built(name), "network", built(name)).state_dict()
        loaded = getattr(model, "network", model).state_dict()
        different = {n for n in loaded if not torch.equal(loaded[n], state[n])} if classes == 3 else set()
        assert not different
        if classes == 5:
            head = [n for n in loaded if loaded[n].shape != state[n].shape]
            assert 1 <= len(head) <= 2
            assert all(torch.equal(loaded[n], drawn[n]) for n in head)
            assert all(torch.equal(loaded[n], state[n]) for n in loaded if n not in head)


def test_a_resized_transformer_takes_weights_of_its_own_size(tmp_path: Path) -> None:
    path = tmp_path / "vit.safetensors"
    saved_weights("timm:test_vit", path, 3)
    settings = {"weights": str(path), "image_size": 192}
    check_model(Classifier(model="timm:test_vit", **settings), (32, 32, 3))
    assert built("timm:test_vit", **settings).eval()(images()).shape == (4, 3)


def test_weights_that_do_not_fit_are_named_by_layer(tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    saved_weights("resnet18", path, 3, (224, 224, 3))
    stem = r"conv1\.weight is \[64, 3, 7, 7\] where the model has \[64, 3, 3, 3\].*image_size=224"
    settings = Classifier(model="resnet18", weights=str(path))
    for refuse in (lambda: check_model(settings, (32, 32, 3)), lambda: built("resnet18", weights=str(path))):
        with pytest.raises(InputError, match=stem):
            refuse()
    check_model(settings)  # where the images' size is not known
    with pytest.raises(InputError, match=r"does not fit timm:test_vit \(missing: .*; unknown: .*more"):
        check_model(Classifier(model="timm:test_vit", weights=str(path)), (32, 32, 3))


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    for i, content in enumerate((pickle.dumps(Trap(), protocol=2), b"", b"not a model")):
        path = tmp_path / f"trap{i}.pth"
        path.write_bytes(content)
        settings = Classifier(model="resnet18", weights=str(path))
        for refuse in (lambda s=settings: check_model(s), lambda p=path: built("resnet18", weights=str(p))):
            with pytest.raises(InputError, match="neither safetensors nor a plain state dict"):
                refuse()
    torch.save({"epoch": 3, "net": nn.Linear(2, 2)}, tmp_path / "module.pth")
    with pytest.raises(InputError, match="save it again with safetensors"):
        check_model(Classifier(model="resnet18", weights=str(tmp_path / "module.pth")))
    torch.save({"epoch": 3}, tmp_path / "nothing.pth")
    with pytest.raises(InputError, match="something else than named tensors"):
        check_model(Classifier(model="resnet18", weights=str(tmp_path / "nothing.pth")))
    with pytest.raises(InputError, match="must be a local file"):
        check_model(Classifier(model="resnet18", weights=str(tmp_path / "none.pth")))


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


def test_names_shapes_and_channels_are_checked() -> None:
    with pytest.raises(InputError, match=r"timm has no model 'resnet81'; did you mean .*resnet18"):
        check_model(Classifier(model="timm:resnet81"))
    with pytest.raises(InputError, match="timm cannot build"):
        check_model(Classifier(model="timm:resnet18.not_a_tag"))
    with pytest.raises(InputError, match=r"images of 1 or 3 channels, got 4"):
        check_model(Classifier(model="resnet18"), (32, 32, 4))
    with pytest.raises(InputError, match=r"cannot take images of 8 x 8 pixels .*image_size=224"):
        check_model(Classifier(model="timm:densenet121"), (8, 8, 3))
    with pytest.raises(InputError, match=r"cannot take images of 64 x 64 pixels .*image_size=299"):
        check_model(Classifier(model="timm:inception_v3", image_size=64), (8, 8, 3))
    check_model(Classifier(model="small_cnn"))
    check_model(Classifier(model="timm:densenet121", image_size=64), (8, 8, 3))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_whole_state_is_saved_and_comes_back(name: str) -> None:
    model = built(name).to(memory_format=torch.channels_last).train()
    model(images())  # moves batch statistics
    saved = trainable_state(model)
    assert set(saved) == set(model.state_dict())
    assert all(t.is_contiguous() and t.device.type == "cpu" for t in saved.values())
    again = built(name, seed=5)
    load_trainable(again, saved)
    assert torch.equal(again.eval()(images()), model.eval().to(memory_format=torch.contiguous_format)(images()))
    with pytest.raises(InputError, match="belongs to another model"):
        load_trainable(built(name, names=("a", "b")), saved)
