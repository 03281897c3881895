"""A model's name in, a checked local folder out: complete, safe to load, of the right architecture, with its licence.

Shapes are compared by reading the headers of safetensors files, so that a wrong model or LoRA is found in a second and
before any GPU is asked for.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import re
import struct
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ray_synth.config.section import short
from ray_synth.config.yaml import read_yaml
from ray_synth.errors import InputError
from ray_synth.generator.adapters import adapter_files, adapter_settings, as_in_a_pipeline, is_pefts_own, part_of
from ray_synth.text_to_image import STABLE_DIFFUSION, Pipeline, row_named, rows_said

MOST, MOST_LAYERS = 1_000_000, 200  # of any number in a model's settings, and of those that count layers
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
TEXT_PREFIX = "text_model."  # of a CLIP text encoder's weights; transformers 5.6 took it away
# Parts of the names of weights that versions of transformers put in or left out.
WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:model|text_model|language_model)\.")
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
Shapes = dict[str, tuple[int, ...]]


def local_folder(model: str, revision: str | None, *, key: str = "generator", allow_pickle: bool = False) -> Path:
    """Where a model lies on this machine; a hub id is downloaded at its pinned commit (or found in the cache).

    Raises:
        InputError: no such folder, an id without a commit, or a hub that does not have it.
    """
    if os.path.isdir(model):
        return Path(model).resolve()
    if os.path.isfile(model) or model.endswith((".safetensors", *(kind[1:] for kind in PICKLED))):
        raise InputError(_one_file(model, key))
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", model):
        raise InputError(
            f"{key}.model: no folder {model!r} ({os.path.abspath(model)}); give a folder that holds a model, or a hub "
            "id OWNER/NAME"
        )
    if revision is None:
        raise InputError(
            f"{key}.model={model!r} is no local folder, and as a hub id it needs the commit that is meant: "
            f"type --set {key}.revision=COMMIT (40 hex digits, from the model's page)"
        )
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(
            model,
            revision=revision,
            # A component's folder, or the files of a model that is one; not the same weights in other forms.
            allow_patterns=[
                "*.json",
                "*.txt",
                "*.model",
                "*.jinja",
                # A pipeline's lie in folders; beside them is often all of it again in one file.
                "*/*.safetensors" if key == "generator" else "*.safetensors",
                "README.md",
                *(PICKLED if allow_pickle else ()),
            ],
            ignore_patterns=["*fp16*", "*non_ema*", "*ema*only*", "safety_checker/*", "v1-*", "v2-*", "*.msgpack"],
        )
    except Exception as error:  # huggingface_hub raises its own, requests', OSError, ...
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{key}.model={model!r} at {revision} cannot be downloaded ({reason}); "
            f"download it elsewhere and type --set {key}.model=FOLDER"
        ) from None
    return Path(found)


def _one_file(model: str, key: str) -> str:
    """What to type where a model is one file, as other programs take it."""
    if not os.path.isfile(model):
        return f"{key}.model: no file {os.path.abspath(model)}, and a folder of a diffusers pipeline is asked for"
    if not model.endswith(".safetensors"):
        return (
            f"{key}.model={model} is a file that can run any code when it is loaded; take a model with safetensors, in "
            "the folders of a diffusers pipeline"
        )
    folder = os.path.splitext(model)[0]
    return (
        f"{key}.model={model} is one file, and the folder of a diffusers pipeline is asked for; convert it once: "
        'python -c "from diffusers import StableDiffusionPipeline as P; '
        f"P.from_single_file('{model}').save_pretrained('{folder}', safe_serialization=True)\", "
        f"and type --set {key}.model={folder}"
    )


def pipeline_row(folder: Path) -> Pipeline:
    """The row of the pipeline in a folder. Raises InputError where its class has none, or there is no pipeline."""
    kind = read_config(folder / "model_index.json", folder).get("_class_name")
    row = row_named(kind)
    if row is None:
        raise InputError(
            f"{folder} holds a {short(kind) if not isinstance(kind, str) else kind}, of which this version does not "
            f"know how it is sampled; generator.kind: diffusers takes {rows_said()}"
        )
    return row


def check_pipeline(folder: Path, *, allow_pickle: bool) -> None:
    """Raise InputError unless the folder holds a whole pipeline of a class that has a row."""
    row, index = pipeline_row(folder), read_config(folder / "model_index.json", folder)
    for part, classes in row.components.items():
        if not (folder / part).is_dir():
            raise InputError(f"{folder} is incomplete: no folder {part}/; download the model again")
        made_by = index.get(part)
        if not isinstance(made_by, list) or len(made_by) != 2 or not _is_of(part, made_by, classes):
            raise InputError(
                f"{folder}/model_index.json: {part} must be {' or '.join(classes)}, got {short(made_by)}; "
                "download the model again"
            )
    for part in row.with_weights:
        config = read_config(folder / part / "config.json", folder)
        _check_sizes(config, folder / part / "config.json")
        expected = expected_shapes(folder, part, config)
        if has_safetensors(folder / part, allow_pickle=allow_pickle):
            _compare(expected, weight_shapes(folder / part), folder / part)
    for tokenizer, encoder in row.tokenizers.items():
        _check_tokenizer(folder, tokenizer, encoder)
    saved = read_config(folder / "scheduler" / "scheduler_config.json", folder)
    if not isinstance(saved.get("_class_name"), str) or not saved["_class_name"].endswith("Scheduler"):
        raise InputError(
            f"{folder}/scheduler/scheduler_config.json names no scheduler, but {short(saved.get('_class_name'))}; "
            "download the model again"
        )
    _check_sizes(saved, folder / "scheduler" / "scheduler_config.json")


def class_of(folder: Path, part: str) -> str:
    """What model_index.json says a part is made by: `LIBRARY.CLASS`."""
    made_by = read_config(folder / "model_index.json", folder).get(part)
    return ".".join(map(str, made_by)) if isinstance(made_by, list) else ""


def _is_of(part: str, made_by: list[Any], classes: tuple[str, ...]) -> bool:
    library, name = made_by
    if part == "scheduler":
        return library == "diffusers" and isinstance(name, str) and name.endswith("Scheduler")
    return f"{library}.{name}" in classes


def _check_sizes(config: Any, file: Path, key: str = "") -> None:
    """Raise InputError for numbers that no such model has: to build it would take all memory, or no end."""
    if isinstance(config, dict):
        for name, value in config.items():
            _check_sizes(value, file, str(name))
    elif isinstance(config, list):
        if len(config) > MOST_LAYERS:
            raise InputError(
                f"{file}: {key} has {len(config):,} values, at most {MOST_LAYERS}; download the model again"
            )
        for value in config:
            _check_sizes(value, file, key)
    elif isinstance(config, int | float) and not isinstance(config, bool):
        if key == "lambda_min_clipped" and config == -math.inf:
            return  # DPMSolver's own default
        most = MOST_LAYERS if "layer" in key and "norm" not in key else MOST
        if not -most <= config <= most:  # NaN too
            raise InputError(f"{file}: {key} must be at most {most:,}, got {short(config)}; download the model again")


def _check_tokenizer(folder: Path, part: str, encoder: str) -> None:
    """Its vocabulary must be there and be the text encoder's: transformers makes an empty one without a word."""
    is_clip = class_of(folder, part).startswith("transformers.CLIP")
    config = read_config(folder / encoder / "config.json", folder)
    text = config.get("text_config")
    rows = config.get("vocab_size", text.get("vocab_size") if isinstance(text, dict) else None)
    if is_clip:
        words, rows = _words_of_clip(folder, part), rows or 49408
    else:
        words = len(read_tokenizer(folder, part))
    if not isinstance(rows, int) or not 0.9 * rows <= words <= rows:
        raise InputError(
            f"{folder}/{part} is incomplete or of another model: it has {words:,} words, the text encoder reads "
            f"{rows:,}; download the model again"
        )
    if not is_clip:
        return
    longest = config.get("max_position_embeddings", 77)
    limit = read_tokenizer(folder, part).model_max_length
    if not isinstance(limit, int) or not 2 < limit <= longest:
        raise InputError(
            f"{folder}/{part}/tokenizer_config.json: model_max_length must be at most {longest}, what the text "
            f"encoder reads, got {short(limit)}; download the model again"
        )


def _words_of_clip(folder: Path, part: str) -> int:
    """How many words its files hold, before anything loads them."""
    if (folder / part / "vocab.json").is_file():
        return len(read_config(folder / part / "vocab.json", folder))
    if not (folder / part / "tokenizer.json").is_file():
        return 0
    model = read_config(folder / part / "tokenizer.json", folder).get("model", {})
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    return len(vocabulary) if isinstance(vocabulary, dict | list) else 0


def read_tokenizer(folder: Path, part: str = "tokenizer") -> Any:
    """A tokenizer of a pipeline. Raises InputError for one that cannot be loaded."""
    from ray_synth.torch_ops import import_torchvision

    import_torchvision()
    import transformers

    try:
        kind = getattr(transformers, class_of(folder, part).removeprefix("transformers."))
        return kind.from_pretrained(folder / part, local_files_only=True)
    except InputError:
        raise
    except Exception as error:  # of Rust's and Python's many, for a file that is not as it should be
        raise InputError(f"{folder}/{part} cannot be loaded ({_first_line(error)}); download the model again") from None


def has_safetensors(folder: Path, *, allow_pickle: bool, flag: bool = True) -> bool:
    """Whether weights lie there as safetensors. flag: whether there is a way to allow others.

    Raises:
        InputError: no weights, or pickled ones only without leave to load them.
    """
    if any(folder.glob("*.safetensors")):
        return True
    pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
    if not pickled:
        raise InputError(f"{folder} is incomplete: no *.safetensors in it; download the model again")
    if not allow_pickle:
        raise InputError(
            f"{folder} has pickled weights only ({pickled[0]}), which can run any code when they are loaded; take a "
            "copy with safetensors"
            + (", or type --set generator.allow_pickle=true (--allow-pickle) if you trust its maker" if flag else "")
        )
    return False


def variant_of(folder: Path, part: str = "unet") -> str | None:
    """`fp16` where a component has no other weights."""
    files = [path.name for path in (folder / part).glob("*.safetensors")]
    return "fp16" if files and all(".fp16." in name for name in files) else None


def weight_shapes(folder: Path) -> Shapes:
    """Names and shapes of all tensors in a folder's safetensors files."""
    shapes: Shapes = {}
    for path in sorted(folder.glob("*.safetensors")):
        shapes |= file_shapes(path)
    return shapes


def file_shapes(path: Path) -> Shapes:
    """Names and shapes in one safetensors file, from its header. Raises InputError where the file is not whole."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > size:
                raise ValueError("its header is longer than the file")
            header: dict[str, Any] = json.loads(file.read(length))
        header.pop("__metadata__", None)
        end = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
        shapes = {name: tuple(int(side) for side in entry["shape"]) for name, entry in header.items()}
    except (
        OSError,
        ValueError,
        struct.error,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise InputError(f"{path} is no whole safetensors file ({_first_line(error)}); download it again") from None
    if size != 8 + length + end:
        raise InputError(f"{path} has {size:,} bytes, its header says {8 + length + end:,}; download it again")
    return shapes


def check_lora(path: Path, folder: Path, *, allow_pickle: bool) -> None:
    """Raise InputError unless every weight of the LoRA fits a layer of the model in `folder`."""
    if path.is_dir():
        found = next(iter(sorted(path.glob("*.safetensors"))), path / "adapter_model.safetensors")
        raise InputError(f"generator.lora={path} is a folder; give the file in it: type --set generator.lora={found}")
    if not path.is_file():
        raise InputError(f"generator.lora: no file {path.absolute()}; give a *.safetensors file")
    if not pipeline_row(folder).lora:
        raise InputError(f"generator.lora: diffusers loads no LoRA into a {pipeline_row(folder).name}; leave it out")
    if path.suffix != ".safetensors":
        if not allow_pickle:
            raise InputError(f"generator.lora={path} is not a safetensors file; convert it, or type --allow-pickle")
        return
    row, layers = pipeline_row(folder), _layers(folder)
    adapted, shapes = 0, file_shapes(path)
    if is_pefts_own(shapes):
        adapter_settings(path, shapes)
        part = part_of(shapes, row.denoiser)
        shapes = {as_in_a_pipeline(name, part): shape for name, shape in shapes.items()}
    elif row is not STABLE_DIFFUSION and not any(name.startswith(tuple(f"{p}." for p in row.lora)) for name in shapes):
        shapes = _as_diffusers_reads(path, folder, row)
    for name, shape in shapes.items():
        match = re.fullmatch(r"(.+?)\.(?:lora\.|lora_)?(?:linear_layer\.)?(A|B|down|up)(?:\.default)?\.weight", name)
        if match is None:
            continue
        layer, side, adapted = re.sub(r"\.processor\.(\w+?)_lora$", _of_processor, match[1]), match[2], adapted + 1
        if layer not in layers:
            raise InputError(
                f"generator.lora={path} is of another base: it adapts {layer}, which the model in {folder} has not"
            )
        if len(shape) < 2:
            raise InputError(f"generator.lora={path} is no LoRA: {name} has shape {list(shape)}; give another file")
        outputs, inputs = layers[layer][:2] if len(layers[layer]) > 1 else (0, 0)
        wanted, got = (inputs, shape[1]) if side in ("A", "down") else (outputs, shape[0])
        if wanted != got:
            raise InputError(
                f"generator.lora={path} is of another base: {name} has width {got}, the model's layer {wanted}"
            )
    if not adapted:
        raise InputError(f"generator.lora={path} holds no LoRA weights (names with lora_A and lora_B)")


def _as_diffusers_reads(path: Path, folder: Path, row: Pipeline) -> Shapes:
    """Names and shapes of a LoRA in another program's layout, which diffusers translates for this class."""
    from ray_synth.torch_ops import import_torchvision

    import_torchvision()
    import diffusers
    from diffusers.configuration_utils import FrozenDict

    options: dict[str, Any] = {}
    if row.denoiser == "unet":  # whose blocks are numbered by its depth
        options["unet_config"] = FrozenDict(read_config(folder / "unet" / "config.json", folder))
    try:
        read = getattr(diffusers, row.name).lora_state_dict(str(path.parent), weight_name=path.name, **options)
        tensors = read[0] if isinstance(read, tuple) else read
        return {name: tuple(tensor.shape) for name, tensor in tensors.items() if hasattr(tensor, "shape")}
    except Exception as error:  # whatever a translation does with names that it does not know
        raise InputError(
            f"generator.lora={path} is not one for a {row.name} ({_first_line(error)}); give a LoRA of this base"
        ) from None


def _of_processor(match: re.Match[str]) -> str:
    """The layer that diffusers once called by its attention processor."""
    return ".to_out.0" if match[1] == "to_out" else f".{match[1]}"


@functools.lru_cache(maxsize=2)
def _layers(folder: Path) -> Shapes:
    """The layers of a model that a LoRA may adapt, under each name that LoRA files give them."""
    layers: Shapes = {}
    row = pipeline_row(folder)
    for part in row.lora:
        called = "unet" if part == row.denoiser else part.replace("text_encoder", "te")
        config = read_config(folder / part / "config.json", folder)
        for name, shape in expected_shapes(folder, part, config).items():
            layer = name.removesuffix(".weight").removeprefix(TEXT_PREFIX)
            for prefix in ("",) if part == row.denoiser else ("", TEXT_PREFIX):
                layers[f"{part}.{prefix}{layer}"] = shape
                layers[f"lora_{called}_{(prefix + layer).replace('.', '_')}"] = shape
    return layers


def adapts_text(path: Path) -> bool:
    """Whether a LoRA changes a text encoder."""
    shapes = file_shapes(path)
    own = is_pefts_own(shapes) and part_of(shapes) == "text_encoder"
    return own or any(name.startswith(("text_encoder", "lora_te")) for name in shapes)


def lora_digest(path: Path) -> str:
    """The content of a LoRA, and of the file beside it that scales it."""
    files = adapter_files(path, file_shapes(path) if path.suffix == ".safetensors" else ())
    return content_digest(path) if len(files) == 1 else files_digest(files)


def lora_rank(path: Path) -> int:
    """The largest rank of a LoRA's layers."""
    return max(shape[0] for name, shape in file_shapes(path).items() if re.search(r"(lora_A|down)\.", name))


def pipeline_digest(folder: Path) -> str:
    """What a local pipeline's revision is: the content of what is loaded of it, not of all that lies beside."""
    parts = [content_digest(folder / part) for part in (*pipeline_row(folder).components, "model_index.json")]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def content_digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents below a folder."""
    if path.is_file():
        return _file_digest(path)
    inside = {file.relative_to(path): file for file in sorted(path.rglob("*")) if file.is_file()}
    return files_digest(
        {str(name): file for name, file in inside.items() if not any(part.startswith(".") for part in name.parts)}
    )


def files_digest(files: Mapping[str, Path]) -> str:
    """SHA-256 of names and of the contents of the files that they name."""
    with ThreadPoolExecutor(8) as pool:
        digests = pool.map(_file_digest, files.values())
        lines = [f"{name}\0{one}" for name, one in zip(files, digests, strict=True)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def license_of(folder: Path) -> str:
    """The licence that a model card names, or nothing."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    match = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    try:
        card = read_yaml(match[1]) if match else None
    except InputError:
        return ""
    return str(card.get("license") or "") if isinstance(card, dict) else ""


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_config(path: Path, folder: Path) -> dict[str, Any]:
    """A JSON file of a model folder. Raises InputError where it is missing or broken."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{folder} is incomplete: no {path.relative_to(folder)}; give the folder of a diffusers pipeline "
            "(with model_index.json), or download it again"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}); download the model again") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no settings; download the model again")
    return content


def expected_shapes(folder: Path, part: str, config: dict[str, Any]) -> Shapes:
    """What a component's weights must be, from its configuration alone."""
    module = built_without_weights(folder, part, config)
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}


def built_without_weights(folder: Path, part: str, config: dict[str, Any]) -> Any:
    """A component on torch's device `meta`, which has no memory. Raises InputError for settings that describe none."""
    try:
        return _built(class_of(folder, part), config)
    except Exception as error:  # whatever a class does with settings that are not its own
        raise InputError(
            f"{folder}/{part}/config.json describes no model that can be built: {_first_line(error)}"
        ) from None


def _built(made_by: str, config: dict[str, Any]) -> Any:
    """made_by: a class that a row names, with its library."""
    from ray_synth.torch_ops import import_torchvision

    import_torchvision()
    import diffusers
    import torch
    import transformers

    library, name = made_by.split(".")
    kind = getattr(diffusers if library == "diffusers" else transformers, name)
    with torch.device("meta"):
        own = library == "diffusers"
        return kind.from_config(config) if own else kind(kind.config_class.from_dict(config))


def _compare(expected: Shapes, found: Shapes, folder: Path) -> None:
    found = {_plain(_modern(name)): shape for name, shape in found.items()}
    expected = {_plain(name): shape for name, shape in expected.items()}
    missing = sorted(set(expected) - set(found))
    if missing:
        raise InputError(
            f"{folder} is incomplete or of another architecture: {len(missing)} of {len(expected)} weights are "
            f"missing, such as {missing[0]}; download the model again"
        )
    for name, shape in expected.items():
        if found[name] != shape:
            raise InputError(
                f"{folder} is of another architecture: {name} has shape {list(found[name])}, "
                f"its config.json says {list(shape)}"
            )


def _plain(name: str) -> str:
    """A weight's name without what versions of transformers wrap a text encoder in."""
    return WRAPPERS.sub("", name)


def _modern(name: str) -> str:
    """Today's name of a weight; the decoders of Stable Diffusion 1.x and 2.x still lie there under the old ones."""
    for old, new in OLD_NAMES.items():
        name = re.sub(rf"(attentions\.\d+)\.{old}\.", rf"\1.{new}.", name)
    return name


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
