"""Settings, an image shape and class names in; a torch module from images in [-1, 1] to logits out."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ray_synth.classifier.clip_lora import build_clip, check_clip
from ray_synth.classifier.weights import misfit, packaged_name, starting_weights
from ray_synth.config import RANDOM, SMALL_RESNET, Classifier
from ray_synth.errors import InputError
from ray_synth.features.clip import image_statistics
from ray_synth.features.packaged import enlarged
from ray_synth.torch_ops import import_torchvision
from ray_synth.training.checkpoint import trainable_state

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL = 64  # pixels a side up to which a residual network gets the stem for small images
Size = tuple[int, int]


class Prepared(nn.Module):
    """A network behind what it wants of its input: three channels, a size, its own mean and standard deviation.

    Takes float [B,1|3,H,W] in [-1, 1] on any device.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        size: Size | None = None,
        mean: tuple[float, ...] = (0.5,),
        std: tuple[float, ...] = (0.5,),
        mode: str = "bilinear",
    ):
        super().__init__()
        self.network, self.size, self.mode = network, size, mode
        # (x + 1) / 2 - mean, over std, as one affine map of x
        self.register_buffer("mean", 2 * torch.tensor(mean).view(1, -1, 1, 1) - 1, persistent=False)
        self.register_buffer("std", 2 * torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.size is not None and images.shape[-2:] != self.size:
            images = F.interpolate(images, self.size, mode=self.mode, antialias=True).clamp(-1, 1)
        logits: torch.Tensor = self.network((images - self.mean) / self.std)  # grey broadcasts to three channels
        return logits


def small_cnn(shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Three 3x3 convolutions, the second of stride 2, and a linear head: for small images. shape: [H,W,C]."""
    return nn.Sequential(
        nn.Conv2d(shape[2], 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 4, num_classes),
    )


def compact_cnn(shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Two 3x3 convolutions with max pooling, two linear layers (Shidani et al., 2025, section I.2.1), for [H,W,C]."""
    return nn.Sequential(
        nn.Conv2d(shape[2], 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * (shape[0] // 4) * (shape[1] // 4), 512),
        nn.ReLU(),
        nn.Dropout(0.25),
        nn.Linear(512, num_classes),
    )


# What is built for the images' own channels and needs no statistics: the network, and where its head begins.
PLAIN: dict[str, tuple[Callable[[tuple[int, int, int], int], nn.Module], str]] = {
    "small_cnn": (small_cnn, "8."),
    "compact_cnn": (compact_cnn, "10."),
}


class SmallResNet(nn.Module):
    """The residual network for images of 32 pixels (He et al., 2016, section 4.2): float [B,3,H,W] -> [B,K].

    layers: 6n + 2, n blocks in each of three stages; width: channels of the first, 16 as published.
    """

    def __init__(self, layers: int, width: int, num_classes: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        blocks, channels = list[nn.Module](), width
        for stage in range(3):
            for place in range((layers - 2) // 6):
                out = width * 2**stage
                blocks.append(_Block(channels, out, stride=2 if stage and not place else 1))
                channels = out
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.blocks(F.relu(self.bn1(self.conv1(images))))
        logits: torch.Tensor = self.fc(x.mean((2, 3)))
        return logits


class _Block(nn.Module):
    """Two 3x3 convolutions beside the identity, which takes every other pixel and lacks channels where they change."""

    def __init__(self, channels: int, out: int, *, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.stride, self.lacks = stride, out - channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        beside = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.lacks))
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + beside)


def residual_network(name: str, size: Size, num_classes: int) -> nn.Module:
    """torchvision's resnet18 or resnet50, with a 3x3 stem of stride 1 and no pooling for images of at most 64 pixels;
    or a `SmallResNet`."""
    if small := re.fullmatch(SMALL_RESNET, name):
        return SmallResNet(int(small[1]), 16 * int(small[2] or 1), num_classes)
    import_torchvision()
    import torchvision

    network: nn.Module = getattr(torchvision.models, name)(weights=None, num_classes=num_classes)
    if max(size) <= SMALL:
        network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        network.maxpool = nn.Identity()
    return network


def timm_network(name: str, num_classes: int) -> nn.Module:
    import_torchvision()
    import timm

    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        raise InputError(
            f"timm has no model {name!r}; did you mean {', '.join(close) or 'resnet18'}? "
            f"type --set classifier.model=timm:{close[0] if close else 'resnet18'}"
        )
    try:
        network: nn.Module = timm.create_model(name, pretrained=False, num_classes=num_classes, in_chans=3)
    except Exception as error:  # an unknown tag, an optional package
        raise InputError(f"timm cannot build {name!r}: {' '.join(str(error).split())}") from None
    return network


def build_model(
    settings: Classifier, shape: tuple[int, int, int], class_names: tuple[str, ...], *, seed: int
) -> nn.Module:
    """float [B,C,H,W] in [-1, 1] -> logits [B,K], with seeded weights; the global random state is left as it was.

    shape: [H,W,C] of the images. class_names: K names, which open_clip's prompts are made of.

    Raises:
        InputError: a model, a weights file or an image shape that does not do.
    """
    _check_channels(settings, shape)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs as well
        if settings.model.startswith("open_clip:"):
            return _prepared_clip(build_clip(settings, class_names))
        return _build_network(settings, shape, len(class_names), load=True)


def undrawn(settings: Classifier) -> Classifier:
    """The settings of a network whose weights are about to be put in: without the file that it started from.

    Of open_clip's models only the adapters are kept, so their file is needed.
    """
    return settings if settings.model.startswith("open_clip:") else settings.model_copy(update={"weights": RANDOM})


def _check_channels(settings: Classifier, shape: tuple[int, int, int]) -> None:
    if shape[2] not in (1, 3) and settings.model not in PLAIN:
        raise InputError(
            f"model {settings.model} takes images of 1 or 3 channels, got {shape[2]}; "
            "type --set classifier.model=small_cnn"
        )


def _prepared_clip(network: Any) -> nn.Module:
    size, mean, std = image_statistics(network.clip.visual)
    return Prepared(network, size=size, mean=mean, std=std, mode="bicubic")


def _build_network(settings: Classifier, shape: tuple[int, int, int], num_classes: int, *, load: bool) -> nn.Module:
    """Every model but open_clip's."""
    size = (settings.image_size, settings.image_size) if settings.image_size else (shape[0], shape[1])
    if settings.model in PLAIN:
        build, head = PLAIN[settings.model]
        network = build((*size, shape[2]), num_classes)
        if load:
            _load(network, settings, head=(head,))
        return Prepared(network, size=size) if settings.image_size else network
    if settings.model.startswith("timm:"):
        return _timm_model(settings, size, num_classes, load=load)
    network = residual_network(settings.model, size, num_classes)
    if load:
        _load(network, settings, head=("fc.",))
    return Prepared(network, size=size, mean=IMAGENET_MEAN, std=IMAGENET_STD)


def _timm_model(settings: Classifier, size: Size, num_classes: int, *, load: bool) -> nn.Module:
    network: Any = timm_network(settings.model.removeprefix("timm:"), num_classes)
    expects: Mapping[str, Any] = network.pretrained_cfg
    if packaged_name(settings.model) and settings.image_size is None:
        size = enlarged(*size)
    if load:
        _load(network, settings, head=_timm_head(network))
    if expects.get("fixed_input_size"):
        own = tuple(expects["input_size"][-2:])
        size = own if settings.image_size is None else size
        if size != own:
            _resize_timm(network, settings, size, own)
    return Prepared(network, size=size, mean=expects["mean"], std=expects["std"])


def _resize_timm(network: Any, settings: Classifier, size: Size, own: Size) -> None:
    """Positions of a transformer are resampled after its weights are loaded."""
    try:
        network.set_input_size(img_size=size)
    except Exception as error:  # assertions on patches and windows
        reason = str(error) if hasattr(network, "set_input_size") else "it is built for one size"
        raise InputError(
            f"classifier.image_size must be {own[0]} for {settings.model}, got {size[0]} ({reason}); "
            f"type --set classifier.image_size={own[0]}"
        ) from None


def _timm_head(network: Any) -> tuple[str, ...]:
    head = network.pretrained_cfg.get("classifier") or ()
    return tuple(f"{name}." for name in ((head,) if isinstance(head, str) else head))


def _load(network: nn.Module, settings: Classifier, head: tuple[str, ...]) -> None:
    """Weights of a file into the network. A head of another number of classes stays as it was drawn."""
    own, given = network.state_dict(), starting_weights(settings)
    if given is None:
        return
    _refuse_misfit(settings, misfit(own, given, loose=head))
    kept = {name: tensor for name, tensor in given.items() if name in own and own[name].shape == tensor.shape}
    heads = {name: own[name] for name in own if name.startswith(head)}
    if not all(name in kept for name in heads):
        kept.update(heads)  # weight and bias of a head belong together
    network.load_state_dict(kept)


def _refuse_misfit(settings: Classifier, problem: str | None) -> None:
    if problem is None:
        return
    cure = "give the weights of this architecture"
    if settings.model.startswith("resnet") and "conv1.weight is" in problem:
        cure = "the stem follows the image size: type --set classifier.image_size=224 for weights of large images"
    raise InputError(f"classifier.weights: {settings.weights} does not fit {settings.model} ({problem}); {cure}")


def check_model(settings: Classifier, shape: tuple[int, int, int] | None = None) -> None:
    """Raise InputError for a model, weights or an image shape that `build_model` would refuse; builds no weights.

    shape: [H,W,C] of the images, where it is known; then one pass without numbers shows whether the size will do.
    """
    if shape is not None:
        _check_channels(settings, shape)
    if settings.model.startswith("open_clip:"):
        check_clip(settings)
        return
    given = starting_weights(settings, shapes_only=True)
    if shape is None and settings.image_size is None:
        if settings.model == "compact_cnn":
            return  # its first linear layer is as large as the images
        # The stem that the file has; without a file any will do.
        small = given is not None and "conv1.weight" in given and given["conv1.weight"].shape[-1] == 3
        side = SMALL if small else 224
        shape = (side, side, 3)
    side = settings.image_size or 0
    with torch.device("meta"):
        model = _build_network(settings, shape or (side, side, 3), 2, load=False)
    network: Any = model.network if isinstance(model, Prepared) else model
    if given is not None:
        _refuse_misfit(settings, misfit(_native_state(settings, network), given, loose=_heads(settings, network)))
    _check_size(settings, model, shape or (side, side, 3))


def _native_state(settings: Classifier, network: nn.Module) -> Mapping[str, torch.Tensor]:
    """Names and shapes before timm resampled positions, which is when a file is loaded."""
    if not settings.model.startswith("timm:"):
        return network.state_dict()
    with torch.device("meta"):
        return timm_network(settings.model.removeprefix("timm:"), 2).state_dict()


def _heads(settings: Classifier, network: nn.Module) -> tuple[str, ...]:
    if settings.model.startswith("timm:"):
        return _timm_head(network)
    return (PLAIN[settings.model][1],) if settings.model in PLAIN else ("fc.",)


def _check_size(settings: Classifier, model: nn.Module, shape: tuple[int, int, int]) -> None:
    try:
        with torch.no_grad():
            model.eval()(torch.empty(2, shape[2], shape[0], shape[1], device="meta"))
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        own = getattr(getattr(model, "network", None), "pretrained_cfg", {}).get("input_size", (3, 224, 224))[-1]
        height, width = (model.size if isinstance(model, Prepared) else None) or shape[:2]
        raise InputError(
            f"{settings.model} cannot take images of {height} x {width} pixels ({reason}); "
            f"type --set classifier.image_size={own}"
        ) from None


def load_trainable(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put back what `trainable_state` gave.

    Raises:
        InputError: names or shapes of another model.
    """
    problem = misfit(trainable_state(model), tensors)
    if problem:
        raise InputError(f"the saved classifier belongs to another model ({problem}); train again with these settings")
    model.load_state_dict(dict(tensors), strict=False)
