"""Digests hold what sections say beyond their defaults, so what the defaults are is part of the format."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from ray_synth.config import FORMAT, Classifier, Data, Distill, Experiment, Generate, digest, said
from ray_synth.config.generator import GENERATORS

DEFAULTS = {2: "003cc6095c5aaecb"}


def defaults_of(model: type[BaseModel]) -> dict[str, Any]:
    """Every default of a section and of those inside it, by dotted name."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        default = field.default
        if isinstance(default, BaseModel):
            found |= {f"{name}.{inner}": value for inner, value in defaults_of(type(default)).items()}
        elif default is not PydanticUndefined:
            found[name] = default
    return found


def test_a_default_that_changes_raises_the_format() -> None:
    """Digests leave it out: what was made with the old one would be taken for what the new one makes."""
    models = [Experiment, Distill, *(GENERATORS[kind] for kind in ("diffusion", "stable_diffusion", "folder"))]
    text = json.dumps([defaults_of(model) for model in models], sort_keys=True, default=str)
    found = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert DEFAULTS.get(FORMAT) == found, (
        f"the defaults are others ({found}). A new setting: put this hash in the place of the old one. A default that "
        "changed: raise FORMAT in ray_synth/config/section.py and add a line for it"
    )


def test_a_digest_leaves_out_what_is_as_it_comes() -> None:
    assert said(Classifier()) == {}
    assert said(Classifier(updates=7)) == {"updates": 7}
    assert digest(Classifier()) == digest(Classifier(updates=Classifier().updates)) != digest(Classifier(updates=7))
    assert digest(Generate(), Data()) == digest(Generate(), Data())
    assert said(Classifier(updates=7, batch_size=10), without={"updates"}) == {"batch_size": 10}
