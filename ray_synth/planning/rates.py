"""A GPU's name, a file or a calibration in; seconds per unit of an experiment's work out, each with its uncertainty.

Whatever was not measured is scaled by counted floating-point operations from what was published; see gpus.yaml.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ray_synth.config import Diffusion, Experiment, ImageFolder, StableDiffusion, digest
from ray_synth.config.yaml import read_yaml
from ray_synth.errors import InputError
from ray_synth.planning.sizes import Sizes
from ray_synth.planning.work import SD_SIDE, image_side, pilot_per_class

TABLE = Path(__file__).with_name("gpus.yaml")
ESTIMATE_IMAGES, ESTIMATE_POWER = 20_000, 0.27  # of README's "What an estimate costs": 5.5 s, 8.8 s, 18.5 s
SPECTRUM_PIXELS = 224 * 224 * 3  # of the image whose spectrum gpus.yaml has
FORWARD_AND_BACK = 3  # forward passes that a training step costs
STRAGGLER = 3.0


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number, the standard deviation of its logarithm, and where it is from."""

    value: float
    sigma: float
    origin: str

    def times(self, factor: float, *, sigma: float = 0.0, note: str = "") -> Measure:
        origin = f"{self.origin}; {note}" if note else self.origin
        return Measure(value=self.value * factor, sigma=math.hypot(self.sigma, sigma), origin=origin)


NOTHING = Measure(value=0.0, sigma=0.0, origin="none")
UNMEASURED = Measure(value=0.0, sigma=0.0, origin="not measured")  # null in a file; never taken for 0 seconds
NOT_FAR = 0.05  # part by which numbers of images may differ from those that were measured on


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What does not grow with the nodes, a second over all of them."""

    head_tasks: Measure
    storage_bytes: Measure
    storage_puts: Measure
    storage_lists: Measure


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Seconds of one worker (a GPU, or a CPU where there is none) per unit of work of one experiment.

    slots: GPUs or CPUs of a node. trial, trial_image, update: a trial takes trial + images * trial_image + updates *
    update seconds, its validation passes included; an update with images of one side alone takes update_one_side.
    final: how much longer or shorter an update of a final training is, which has the machine for itself.
    """

    hardware: str
    kind: str  # gpu | cpu
    slots: int
    limits: Limits
    start: Measure
    ray_start: Measure
    generator_start: Measure  # imports, and the model built and saved
    generator_step: Measure
    pool_start: Measure
    chunk: Measure
    image: Measure
    read_image: Measure
    estimate: Measure
    tune_start: Measure
    trial: Measure
    trial_image: Measure
    update: Measure
    update_one_side: Measure
    train_start: Measure
    final: Measure
    diagnosis_image: Measure
    evaluate: Measure
    test_image: Measure
    judged_image: Measure  # a synthetic one: its spectrum, and the judge's look at it
    report: Measure
    node_start: Measure
    replacement: Measure
    interruptions: Measure  # of a node, per hour
    jitter: Measure  # standard deviation of the logarithm of one chunk's time
    stragglers: Measure  # share of chunks that take STRAGGLER times as long
    data_parallel: Measure  # what each of several workers of one training is worth
    price: Measure | None = None  # of a node, per hour, in dollars
    spot_price: Measure | None = None
    image_bytes: float | None = None  # of an image file, where it was measured
    prices_read: str = ""
    measured_for: Mapping[str, str] = field(default_factory=dict)  # part of the experiment -> digest
    measured_on: Mapping[str, int] = field(default_factory=dict)  # set -> its images

    def to_dict(self) -> dict[str, Any]:
        return {name: None if self.lacks(name) else value for name, value in asdict(self).items()}

    def lacks(self, name: str) -> bool:
        """Whether a rate was not measured."""
        return getattr(self, name, None) == UNMEASURED

    def for_experiment(self, e: Experiment, sizes: Sizes) -> Rates:
        """The same, when they were measured on what the experiment trains and samples.

        Raises:
            InputError: they were measured on something else.
        """
        for name, count in images_of(e, sizes).items():
            measured = self.measured_on.get(name, count)
            if abs(measured - count) > NOT_FAR * max(measured, count):
                raise InputError(
                    f"these rates were measured with {measured:,} {name}, and there are {count:,}; leave --rates out "
                    "to measure again, or type --gpu NAME for published ones"
                )
        for part, value in fingerprint(e, sizes).items():
            if self.measured_for and self.measured_for.get(part) != value:
                raise InputError(
                    f"these rates were measured with another {part}; leave --rates out to measure again, or type "
                    "--gpu NAME for published ones"
                )
        return self


def fingerprint(e: Experiment, sizes: Sizes) -> dict[str, str]:
    """What rates depend on, and counts do not: generator, sampling, classifier, and the shape of images."""
    sampled = {"scheduler", "num_inference_steps", "guidance_scale", "batch_size", "filter", "format", "quality"}
    sampling = e.generate.model_dump(mode="json", include=sampled)
    ignored = {"updates", "epochs", "budget", "num_workers", "learning_rate", "weight_decay"}
    return {
        "generator": digest(e.generator.model_dump(mode="json", exclude={"steps"}), sampling),
        "classifier": digest(e.classifier.model_dump(mode="json", exclude=ignored), e.partition),
        "image shape": digest(list(sizes.shape)),
    }


def images_of(e: Experiment, sizes: Sizes) -> dict[str, int]:
    """Sets that an estimate or a trial reads as a whole, so that its seconds are of so many images."""
    return {
        "training images": sizes.train,
        "validation images": sizes.validation,
        "synthetic images of the estimate": pilot_per_class(e, sizes) * sizes.classes,
    }


# Files.


def load_rates(path: str | Path) -> Rates:
    """Raises InputError for a file that holds no rates."""
    try:
        raw = json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise InputError(f"rates file not found: {path}; make one with --calibrate --save-rates {path}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"rates file {path} cannot be read: {error}; make one with --calibrate --save-rates") from None
    try:
        return rates_from(raw)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"rates file {path} does not hold rates ({error}); make one with --calibrate --save-rates {path}"
        ) from None


def rates_from(raw: Mapping[str, Any]) -> Rates:
    """What `to_dict` gave. Raises KeyError, TypeError or ValueError."""
    values = dict(raw)
    for one in fields(Rates):
        if isinstance(values.get(one.name), dict) and "origin" in values[one.name]:
            values[one.name] = _measure(values[one.name])
        elif one.name in RATES and values[one.name] is None:
            values[one.name] = UNMEASURED
    values["limits"] = Limits(**{name: _measure(each) for name, each in raw["limits"].items()})
    values["measured_on"] = {name: int(count) for name, count in raw.get("measured_on", {}).items()}
    return Rates(**values)


RATES = tuple(one.name for one in fields(Rates) if one.type == "Measure")  # those that are never left out


def _measure(raw: Mapping[str, Any]) -> Measure:
    measure = Measure(**raw)
    number = isinstance(measure.value, int | float) and isinstance(measure.sigma, int | float)
    if not number or not 0 <= measure.value < math.inf or not 0 <= measure.sigma < 10 or not measure.origin:
        raise ValueError(f"a rate needs value >= 0, sigma >= 0 and an origin, got {dict(raw)}")
    return Measure(value=float(measure.value), sigma=float(measure.sigma), origin=str(measure.origin))


def save_rates(rates: Rates, path: str | Path) -> None:
    """Raises InputError where the file cannot be written."""
    try:
        Path(path).write_text(json.dumps(rates.to_dict(), indent=2) + "\n")
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}; choose another with --save-rates FILE") from None


# The shipped table.


@functools.cache
def table() -> dict[str, Any]:
    """gpus.yaml, its numbers as measures."""
    raw: dict[str, Any] = read_yaml(TABLE.read_text())

    def read(value: Any) -> Any:
        if isinstance(value, dict):
            return _measure(value) if "origin" in value else {name: read(each) for name, each in value.items()}
        return value

    read_table: dict[str, Any] = read(raw)
    return read_table


def gpu_names() -> list[str]:
    return list(table()["gpus"])


def gpu_rates(name: str, e: Experiment, sizes: Sizes, *, gpus_per_node: int | None = None) -> Rates:
    """The published rates of a GPU, scaled to an experiment.

    Raises:
        InputError: a GPU that is not in the table.
    """
    known = {gpu.lower(): gpu for gpu in gpu_names()}
    if name.lower() not in known:
        raise InputError(
            f"--gpu must be one of {', '.join(gpu_names())}, got {name!r}; for another one type "
            "--calibrate --save-rates FILE on it, and --rates FILE here"
        )
    gpu, flops, over = table()["gpus"][known[name.lower()]], table()["flops"], table()["overheads"]
    network, one_image = _classifier_seconds(gpu, flops, e, sizes)
    slots = gpus_per_node or gpu["gpus_per_node"]
    batch = e.classifier.batch_size * _passes(e)
    clusters = e.partition.clusters(sizes.classes) > 1
    share = slots / gpu["gpus_per_node"]
    return Rates(
        hardware=known[name.lower()],
        kind="gpu",
        slots=slots,
        limits=Limits(**table()["limits"]),
        start=over["start"],
        ray_start=over["ray_start"],
        generator_start=over["generator_start"],
        generator_step=_generator_step(gpu, flops, e, sizes),
        pool_start=over["pool_start"] if isinstance(e.generator, StableDiffusion) else over["tune_start"],
        chunk=over["chunk"],
        image=_image_seconds(gpu, flops, e, sizes),
        read_image=over["read_back"].times((image_side(e, sizes) / SD_SIDE) ** 2),
        estimate=_estimate(over["estimate"], sizes, e),
        tune_start=over["tune_start"],
        trial=over["trial"],
        trial_image=over["trial_image"] if clusters else NOTHING,
        update=network.times(batch),
        update_one_side=network.times(e.classifier.batch_size),
        train_start=over["train_start"],
        final=Measure(value=1.0, sigma=0.05, origin="a trial and a final training have a GPU each"),
        diagnosis_image=one_image,
        evaluate=over["report"].times(2, note="the judge, a small network"),
        test_image=one_image,
        judged_image=over["judged_image"].times(math.prod(sizes.shape) / SPECTRUM_PIXELS),
        report=over["report"],
        node_start=over["node_start"],
        replacement=over["replacement"],
        interruptions=gpu["interruptions"],
        jitter=over["jitter"],
        stragglers=over["stragglers"],
        data_parallel=flops["data_parallel"],
        price=gpu["price"].times(share),
        spot_price=gpu["spot_price"].times(share),
        prices_read=table()["prices_read"],
    )


def _estimate(measured: Measure, sizes: Sizes, e: Experiment) -> Measure:
    images = sizes.train * (1 + e.estimate.pilot_ratio)
    return measured.times(max(0.3, (images / ESTIMATE_IMAGES) ** ESTIMATE_POWER))


def _passes(e: Experiment) -> int:
    """How often each image of a batch goes through the network: mixed and clean ones where the two terms are on."""
    targets, c = e.classifier.targets, e.classifier
    return 2 if (targets.mixup or targets.cutmix) and (c.lambda_1 or c.lambda_2) else 1


def _classifier_seconds(
    gpu: Mapping[str, Any], flops: Mapping[str, Any], e: Experiment, sizes: Sizes
) -> tuple[Measure, Measure]:
    """Seconds of one image in training, and of one in evaluation."""
    cost = classifier_flops(e, sizes)
    published: Measure = gpu["resnet50"]
    each = Measure(value=1 / published.value, sigma=published.sigma, origin=published.origin)
    factor, note = cost.value / flops["resnet50"].value, f"scaled to {cost.value:.2g} FLOP an image ({cost.origin})"
    trained = each.times(factor, sigma=cost.sigma, note=note)
    if cost.value < flops["resnet50"].value / 10:
        small = flops["small_network"]
        trained = trained.times(1 / small.value, sigma=small.sigma, note=small.origin)
    if e.classifier.precision == "float32":
        slow = gpu["float32_slowdown"]
        trained = trained.times(slow.value, sigma=slow.sigma, note="in float32")
    return trained, trained.times(1 / FORWARD_AND_BACK, sigma=0.2, note="forward alone")


def classifier_flops(e: Experiment, sizes: Sizes) -> Measure:
    """Forward operations of one image: stated for known models, counted for the others."""
    from ray_synth.classifier.models import SMALL

    stated, name = table()["flops"], e.classifier.model.split(":")[-1].removesuffix("-quickgelu")
    side = e.classifier.image_size or max(sizes.shape[:2])
    if e.classifier.model in ("resnet50", "resnet18") and side <= SMALL:
        # A stem of stride 1: every layer is 16 times as large as in what is stated.
        return _counted_flops(e, sizes)
    if name in ("resnet50", "resnet18"):
        known: Measure = stated[name]
        return known.times((side / 224) ** 2)
    if name in stated and isinstance(stated[name], Measure):
        fixed: Measure = stated[name]  # CLIP resizes to its own 224 pixels
        return fixed
    return _counted_flops(e, sizes)


def _counted_flops(e: Experiment, sizes: Sizes) -> Measure:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from ray_synth.classifier.models import build_model

    settings = e.classifier.model_copy(update={"weights": None})
    model = build_model(settings, sizes.shape, tuple(map(str, range(sizes.classes))), seed=0).eval()
    height, width, channels = sizes.shape
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, channels, height, width))
    return Measure(value=float(counter.get_total_flops()), sigma=0.05, origin="counted by torch")


def _image_seconds(gpu: Mapping[str, Any], flops: Mapping[str, Any], e: Experiment, sizes: Sizes) -> Measure:
    """Of sampling one image."""
    if isinstance(e.generator, ImageFolder):
        decoded: Measure = table()["overheads"]["read_image"]
        return decoded
    from ray_synth.planning.work import denoising_steps

    steps = denoising_steps(e)
    if isinstance(e.generator, StableDiffusion):
        step: Measure = gpu["step_compiled" if e.generator.compile else "step"]
        pixels = (image_side(e, sizes) / SD_SIDE) ** 2
        guided = 1.0 if e.generate.guidance_scale > 1 else 0.5
        decoder = flops["decoder_steps"]
        count = (steps * guided + decoder.value) * pixels
        sigma = decoder.sigma * decoder.value * pixels / count
        return step.times(
            count, sigma=sigma, note=f"{steps} steps and the decoder, {image_side(e, sizes)} pixels a side"
        )
    evaluations = steps * (2 if e.generate.guidance_scale != 1.0 else 1)
    return _unet_seconds(gpu, flops, e, sizes).times(evaluations, note=f"{evaluations} evaluations an image")


def _unet_seconds(gpu: Mapping[str, Any], flops: Mapping[str, Any], e: Experiment, sizes: Sizes) -> Measure:
    """One evaluation of the pixel model on one image."""
    step, small = gpu["step"], flops["small_network"]
    cost = pixel_flops(e, sizes)
    note = f"scaled to {cost:.2g} FLOP (counted by torch); {small.origin}"
    scaled: Measure = step.times(cost / flops["step"].value / small.value, sigma=small.sigma, note=note)
    return scaled


def _generator_step(gpu: Mapping[str, Any], flops: Mapping[str, Any], e: Experiment, sizes: Sizes) -> Measure:
    if not isinstance(e.generator, Diffusion):
        return NOTHING
    batch = min(e.generator.batch_size, sizes.generator)
    return _unet_seconds(gpu, flops, e, sizes).times(
        FORWARD_AND_BACK * batch, note=f"batches of {batch}, forward and back"
    )


def pixel_flops(e: Experiment, sizes: Sizes) -> float:
    """Operations of one evaluation of the pixel model on one image, counted."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from ray_synth.generator.diffusion import build_unet

    if not isinstance(e.generator, Diffusion):
        return 0.0
    height, width, channels = sizes.shape
    unet: Any = build_unet(e.generator, num_classes=sizes.classes, shape=sizes.shape)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        unet(torch.zeros(1, channels, height, width), torch.zeros(1).long(), class_labels=torch.zeros(1).long())
    return float(counter.get_total_flops())


def priced(
    rates: Rates, *, price: float | None, spot_interruptions: float | None, gpus_per_node: int | None = None
) -> Rates:
    """The same with what the command line says of money, interruptions and nodes.

    Raises:
        InputError: numbers that do not do.
    """
    if price is not None:
        if not 0 <= price < math.inf:
            raise InputError(f"--price must be >= 0 dollars an hour and node, got {price:g}; type --price 1.2")
        given = Measure(value=price, sigma=0.0, origin="--price")
        spot = rates.spot_price and rates.price and given.times(rates.spot_price.value / rates.price.value)
        rates = replace(rates, price=given, spot_price=spot or None)
    if spot_interruptions is not None:
        if not 0 <= spot_interruptions <= 60:
            raise InputError(
                f"--spot-interruptions must be between 0 and 60 per node and hour, got {spot_interruptions:g}; "
                "type --spot-interruptions 0.05"
            )
        given = Measure(value=spot_interruptions, sigma=0.0, origin="--spot-interruptions")
        rates = replace(rates, interruptions=given)
    if gpus_per_node is not None and rates.slots != gpus_per_node:
        rates = replace(rates, slots=gpus_per_node)
    return rates
