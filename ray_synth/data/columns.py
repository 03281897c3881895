"""What the columns or arrays of a file are called in, which of them are images, labels, class names and splits out."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ray_synth.config import Columns
from ray_synth.data.listing import PARTS
from ray_synth.errors import InputError

# What people call them. Of other names data.columns says what they are.
NAMES: dict[str, tuple[str, ...]] = {
    "image": ("image", "images", "img", "imgs", "jpg", "jpeg", "png", "webp"),
    "label": ("label", "labels", "fine_label", "fine_labels", "target", "targets", "class", "category", "cls"),
    "class_name": ("class_name",),
    "split": ("split",),
}
REQUIRED = ("image", "label")
ARRAYS = {"image": ("images", "image", "x"), "label": ("labels", "label", "y")}  # of an npz


def columns_of(
    present: Collection[str], asked: Columns, where: str, holds: str, *, typed: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Role -> column of those that there are: as asked, else by type, else by the names that people give them.

    typed: role -> column, where the file itself says which holds images and which classes. holds: what a file must
    hold, for messages.

    Raises:
        InputError: an image or label column that is missing, or several that may be meant.
    """
    found: dict[str, str] = {}
    for role, names in NAMES.items():
        wanted = getattr(asked, role)
        if wanted is not None:
            if wanted not in present:
                raise InputError(f"{where} has no column data.columns.{role}={wanted!r}, it has {_listed(present)}")
            found[role] = wanted
            continue
        likely = [name for name in present if name.lower() in names]
        if names[0] in present:
            found[role] = names[0]
        elif typed is not None and typed.get(role) in present:
            found[role] = typed[role]
        elif len(likely) == 1:
            found[role] = likely[0]
        elif len(likely) > 1:
            raise InputError(
                f"{where} has several columns that may be the {role}: {', '.join(likely)}; "
                f"type --set data.columns.{role}={likely[0]}"
            )
        elif role in REQUIRED:
            raise InputError(
                f"{where} has no column {role!r}, it has {_listed(present)}; type --set data.columns.{role}=NAME if it "
                f"is called otherwise. It needs {holds}"
            )
    return found


def arrays_of(present: Collection[str], asked: Columns, where: str, holds: str) -> dict[str, tuple[str, str]]:
    """Part -> arrays of images and of labels: x_train and y_train (Keras), train_images and train_labels (MedMNIST);
    the part is empty where the arrays are called by nothing else.

    Raises:
        InputError: no images, or images without labels.
    """
    words = {role: (getattr(asked, role),) if getattr(asked, role) else names for role, names in ARRAYS.items()}
    by_name = {name.lower() if name not in words["image"] + words["label"] else name: name for name in present}
    plain = {role: next((by_name[name] for name in names if name in by_name), None) for role, names in words.items()}
    parted = {role: _parted(by_name, names) for role, names in words.items()}
    if plain["image"] is None and parted["image"]:
        lacking = sorted(set(parted["image"]) ^ set(parted["label"]))
        if lacking:
            raise InputError(
                f"{where} has images or labels of {lacking[0]!r} alone, it has {_listed(present)}; save both"
            )
        return {part: (name, parted["label"][part]) for part, name in parted["image"].items()}
    for role, name in plain.items():
        if name is None:
            wanted = getattr(asked, role)
            called = f"data.columns.{role}={wanted!r}" if wanted else repr(words[role][0])
            raise InputError(
                f"{where} has no array {called}, it has {_listed(present)}; type --set data.columns.{role}=NAME if it "
                f"is called otherwise. It must hold {holds}"
            )
    return {"": (str(plain["image"]), str(plain["label"]))}


def _parted(by_name: Mapping[str, str], words: tuple[str, ...]) -> dict[str, str]:
    """Word for a part -> the array of that part."""
    found: dict[str, str] = {}
    for part in PARTS:
        for word in words:
            for name in (f"{part}_{word}", f"{word}_{part}"):
                if name in by_name:
                    found.setdefault(part, by_name[name])
    return found


def columns_note(found: Mapping[str, str], present: Collection[str]) -> list[str]:
    """Which column was taken for what, where it is not called so."""
    others = [f"{role} is {name!r}" for role, name in found.items() if role != name]
    return [f"of the columns {_listed(present)}: {', '.join(others)} (data.columns)"] if others else []


def _listed(names: Collection[str], most: int = 20) -> str:
    shown = ", ".join(map(str, list(names)[:most]))
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
