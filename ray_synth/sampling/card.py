"""What is known of a set of generated images in, the card (README.md) and features of a Hugging Face dataset out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from ray_synth.config.yaml import as_yaml
from ray_synth.generator.folder import folder_name

MOST_CLASSES = 100  # that the table of the card lists
COLUMNS = {
    "image": "the image; it says in itself that it was generated (IPTC digital source type)",
    "label": "the class",
    "key": "stable id: a function of generator, class and index",
    "prompt": "what it was asked for with",
    "negative_prompt": "and without",
    "seed": "of its noise",
    "parent_key": "the real image behind a latent prior or a caption",
    "model_id": "the generator",
    "model_revision": "its revision",
    "model_license": "the licence that the generator came with",
    "near_copy_distance": "to the nearest real image, as a share of the mean distance to the next 50, where the filter "
    "`near_copies` measured it",
    "clip_probability": "that open_clip gives to its class, where the filter `clip` asked it",
}
TYPES = {"label": pa.int64(), "seed": pa.int64(), "near_copy_distance": pa.float32(), "clip_probability": pa.float32()}
FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
RESULTS = {"real_only": "real images alone", "at_predicted": "at the predicted ratio", "best": "the best of the sweep"}


@dataclass(frozen=True, kw_only=True)
class About:
    """How images were made, and what came of them.

    origins: (model, revision, licence) of each generator. settings: name -> value, of what an image depends on.
    filters: names of those that looked at the images. rejected: how many were set aside, by reason. figures: those of
    summary.json, as far as the run has come.
    """

    name: str
    version: str
    origins: Sequence[tuple[str, str, str]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    filters: Sequence[str] = ()
    rejected: Mapping[str, int] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)


def dataset_features(class_names: Sequence[str]) -> tuple[list[tuple[str, pa.DataType]], dict[str, Any]]:
    """Columns of the parquet files, and the same as `datasets` says it."""
    types = {name: FILE if name == "image" else TYPES.get(name, pa.string()) for name in COLUMNS}
    features: dict[str, Any] = {name: {"dtype": _dtype(kind), "_type": "Value"} for name, kind in types.items()}
    features |= {"image": {"_type": "Image"}, "label": {"names": list(class_names), "_type": "ClassLabel"}}
    return list(types.items()), features


def _dtype(kind: pa.DataType) -> str:
    return {"float": "float32"}.get(str(kind), str(kind))


def dataset_card(about: About, configs: Sequence[tuple[str, str, Sequence[int]]], class_names: Sequence[str]) -> str:
    """configs: of each generator its name, its files and its images of each class; the first is the default one."""
    total = sum(sum(counts) for _, _, counts in configs)
    head: dict[str, Any] = {
        "pretty_name": f"{about.name}: generated images",
        "task_categories": ["image-classification"],
        "tags": ["synthetic", "generated", "ray_synth"],
        "size_categories": [_size(total)],
        "configs": [
            {"config_name": folder_name(name), "data_files": [{"split": "train", "path": files}]}
            | ({"default": True} if len(configs) > 1 and not row else {})
            for row, (name, files, _) in enumerate(configs)
        ],
    }
    parts = [
        f"---\n{as_yaml(head, allow_unicode=True)}---\n",
        f"# {_plain(about.name)}: generated images\n",
        f"{total:,} generated images of {len(class_names):,} classes, all in the split `train`. No photograph is among "
        f"them: each was made by a model, and its file says so (IPTC digital source type "
        f"`trainedAlgorithmicMedia`). Made with ray_synth {about.version}.\n",
        '```python\nfrom datasets import load_dataset\n\nimages = load_dataset("THIS FOLDER", split="train")\n```\n',
        "## How they were made\n",
        *_origins(about, configs),
        *_settings(about),
        *_set_aside(about),
        *_figures(about),
        "## Columns\n",
        "".join(f"- `{name}`: {says}\n" for name, says in COLUMNS.items()),
        *_classes(configs, class_names),
        "## Licence\n",
        "The generator's licence stands above and in every row. Which licence the images have is for whoever publishes "
        "them to say; add `license:` to the head of this file.\n",
    ]
    return "\n".join(parts)


def _origins(about: About, configs: Sequence[tuple[str, str, Sequence[int]]]) -> list[str]:
    rows = [
        f"| {_cell(name)} | {_cell(model)} | {_cell(revision)} | {_cell(licence or 'not said')} |"
        for (name, _, _), (model, revision, licence) in zip(configs, about.origins, strict=True)
    ]
    return ["| configuration | generator | revision | licence |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"]


def _settings(about: About) -> list[str]:
    if not about.settings:
        return []
    return [f"```yaml\n{as_yaml(dict(about.settings), allow_unicode=True)}```\n"]


def _set_aside(about: About) -> list[str]:
    looked = f"Filters: {', '.join(f'`{name}`' for name in about.filters) or 'none'}."
    reasons = ", ".join(f"{count:,} as `{reason}`" for reason, count in about.rejected.items())
    return [f"{looked} Set aside, and not among these: {reasons or 'none'}.\n"]


def _figures(about: About) -> list[str]:
    figures = about.figures
    said = []
    if "predicted_ratio" in figures:
        low, high = figures["interval"]
        said.append(
            f"Predicted before training: about {figures['predicted_ratio']:.3g} synthetic images for each real one "
            f"({low:.3g} to {high:.3g}), with {figures['num_real']:,} real ones; verdict: {figures['verdict']}.\n"
        )
    if accuracy := figures.get("accuracy"):
        rows = [
            f"| {RESULTS.get(name, _cell(name))} | {value:.4f} | {figures['accuracy_std'].get(name, 0):.4f} |"
            for name, value in accuracy.items()
        ]
        table = "| trained on | test accuracy | std |\n|---|---|---|\n" + "\n".join(rows)
        said.append(f"{table}\n\nOver {figures['repeats']} trainings each; best ratio {figures['best_ratio']:.3g}.\n")
    return ["## How many to use\n", *said] if said else []


def _classes(configs: Sequence[tuple[str, str, Sequence[int]]], class_names: Sequence[str]) -> list[str]:
    if len(class_names) > MOST_CLASSES:
        return []
    head = "| class | " + " | ".join(_cell(name) for name, _, _ in configs) + " |\n|---|" + "---|" * len(configs)
    rows = [
        f"| {_cell(name)} | " + " | ".join(f"{counts[label]:,}" for _, _, counts in configs) + " |"
        for label, name in enumerate(class_names)
    ]
    return ["## Images of each class\n", head + "\n" + "\n".join(rows) + "\n"]


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")


def _plain(text: str) -> str:
    """Of a name, what a page of Markdown shows as it is."""
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")


def _size(count: int) -> str:
    """The hub's words for how many rows there are."""
    steps = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"),
             (10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M")]  # fmt: skip
    return next((word for most, word in steps if count < most), "100M<n<1B")
