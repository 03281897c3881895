"""A folder of class folders, or of images, in; the image files of each class, and what is left out of it, out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ray_synth.data.decoding import EXTENSIONS
from ray_synth.data.listing import PARTS, skipped_notes
from ray_synth.data.opening import HEIF, HEIF_CURE
from ray_synth.errors import InputError, one_spelling

# Folders that systems put beside people's own: archives of macOS, disks of Synology and Windows, an interpreter's.
SYSTEM = {"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found", "__pycache__"}
NAMED = 5


@dataclass(kw_only=True)
class Found:
    """What lies in one folder.

    images: files, by name; others: names of what is no image; folders: its visible folders; dangling: links that lead
    nowhere; hidden: image files that are hidden (those of macOS's archives, ._*, are no images).
    """

    images: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    dangling: list[Path] = field(default_factory=list)
    hidden: list[Path] = field(default_factory=list)

    @classmethod
    def of(cls, folder: Path) -> Found:
        found = cls()
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda each: each.name):
                found._add(entry)
        return found

    def _add(self, entry: os.DirEntry[str]) -> None:
        is_image = os.path.splitext(entry.name)[1].lower() in EXTENSIONS
        if is_image and not entry.name.startswith(".") and entry.is_file():
            self.images.append(entry.path)  # a path's object would be most of what is held of millions
            return
        path = Path(entry.path)
        if entry.name.startswith("."):
            if entry.is_dir():
                self.hidden += _images_below(path, hidden=True)
            elif is_image and not entry.name.startswith("._"):
                self.hidden.append(path)
        elif entry.is_dir():
            self.folders.append(path)
        elif entry.is_file():
            self.others.append(entry.name)
        elif entry.is_symlink():
            self.dangling.append(path)

    @property
    def own_folders(self) -> list[Path]:
        """Without those that a system made."""
        return [path for path in self.folders if path.name.lower() not in SYSTEM]


@dataclass(frozen=True, kw_only=True)
class Classes:
    """The image files of each class, by its name (NFC, so that it is one name on every system), sorted; and notes of
    what is left out."""

    files: dict[str, list[str]]
    notes: tuple[str, ...]


def look_in(root: Path, *, least: int = 2) -> Classes:
    """Of `root/class_name/*`. least: classes that there must be.

    Raises:
        InputError: no such folder, fewer classes, parts of a data set in place of classes, a class without images.
    """
    found = _found(root, "it must hold one folder per class")
    check_links(root, found.dangling)
    folders = _by_name(root, found.own_folders)
    _check_names(root, folders, least, found)
    inside = {name: _found(folder, "it must hold images") for name, folder in folders.items()}
    below = {name: _images_in_folders(each) for name, each in inside.items()}
    parts = [name for name in folders if name.lower() in PARTS and below[name] and not inside[name].images]
    if parts:
        _refuse_parts(root, {name: folders[name] for name in parts})
    for name, each in inside.items():
        if not each.images:
            raise InputError(_empty(root, name, each, below[name]))
    notes = skipped_notes(name for each in inside.values() for name in each.others)
    notes += _left_out(found, inside, below)
    system = [path.name for path in found.folders if path.name.lower() in SYSTEM]
    notes += [f"folder left out: {name}, which a system made" for name in system]
    return Classes(files={name: each.images for name, each in inside.items()}, notes=tuple(notes))


def has_class_folders(root: Path) -> bool:
    """Whether there is a folder that may be a class, or a link in the place of one."""
    if not root.is_dir():
        return False
    found = _found(root, "it must hold images, or one folder per class")
    return bool(found.own_folders) or any(path.suffix.lower() not in EXTENSIONS for path in found.dangling)


def images_directly_in(root: Path) -> tuple[list[str], tuple[str, ...]]:
    """Of a folder whose classes are not known, with notes of what is left out."""
    found = _found(root, "it must hold images, or one folder per class")
    if not found.images:
        raise InputError(
            f"no image in {root}; expected {root}/*.png (or another image), or {root}/class_name/*.png where the "
            f"classes are known{_heif_cure(found)}"
        )
    return found.images, (*skipped_notes(found.others), *_left_out(Found(), {root.name: found}, {}))


def _found(folder: Path, holds: str) -> Found:
    if not folder.exists():
        raise InputError(f"image folder not found: {folder}; {holds}")
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; give the folder: {holds}")
    try:
        return Found.of(folder)
    except OSError as error:
        raise InputError(f"image folder {error.filename} cannot be read: {error.strerror}") from None


def check_links(root: Path, dangling: Sequence[Path]) -> None:
    """A link in the place of a class folder would take the whole class away."""
    lost = [path for path in dangling if path.suffix.lower() not in EXTENSIONS]
    if lost:
        raise InputError(
            f"{_counted(lost, root)} in {root} lead nowhere: a class each, it seems; repair or remove them "
            f"({lost[0].name} points to {os.readlink(lost[0])})"
        )


def _by_name(root: Path, folders: Sequence[Path]) -> dict[str, Path]:
    """Folders by the names of classes, sorted."""
    named: dict[str, Path] = {}
    for folder in folders:
        name = one_spelling(folder.name)
        try:
            name.encode()
        except UnicodeEncodeError:
            raise InputError(f"a class folder in {root} has a name that is not UTF-8; rename it") from None
        if name in named:
            raise InputError(
                f"two class folders in {root} have one name, {name!r}, written with other code points of Unicode; "
                "move the images of one into the other"
            )
        named[name] = folder
    return dict(sorted(named.items()))


def _check_names(root: Path, folders: dict[str, Path], least: int, found: Found) -> None:
    if not folders:
        more = (
            f"; {len(found.images)} image(s) lie in it directly, of no class: move them into a folder with the name of "
            f"theirs, or give {root.absolute().parent} where {root.name!r} is that name"
            if found.images
            else ""
        )
        raise InputError(f"no class folder in {root}; expected {root}/class_name/*.png (or another image){more}")
    if len(folders) >= 2 and all(name.lower() in PARTS for name in folders):
        _refuse_parts(root, folders)
    if len(folders) < least:
        (name, folder), *_ = folders.items()
        wrapped = Found.of(folder).own_folders
        hint = f"; give {folder} in its place, which has folders {_some(wrapped)}" if wrapped else ""
        raise InputError(f"only one class in {root}: {name!r}; a classifier needs at least two class folders{hint}")


def _refuse_parts(root: Path, folders: dict[str, Path]) -> None:
    first = min(folders, key=lambda name: (PARTS[name.lower()] != "train", name))
    raise InputError(
        f"{root} holds {', '.join(folders)}: parts of a data set, not classes; give one of them in its place: "
        f"{folders[first]}"
    )


def _empty(root: Path, name: str, found: Found, below: Sequence[Path]) -> str:
    """Why a class has no image."""
    said = f"class folder {name!r} holds no image"
    if below:
        return (
            f"{said} of its own, but {len(below)} in its folders {_some(found.own_folders)}; if these are the classes, "
            f"give {root / name} in place of {root}, else move the images up into {name}"
        )
    if found.dangling:
        return f"{said}: {_counted(found.dangling, root)} lead nowhere; repair or remove them, or remove the folder"
    others = "".join(f" ({note})" for note in skipped_notes(found.others))
    return f"{said}{others}; add png, jpg, webp, tif or other image files, or remove the folder{_heif_cure(found)}"


def _heif_cure(found: Found) -> str:
    return f"; {HEIF_CURE}" if any(name.lower().endswith(HEIF) for name in found.others) else ""


def _left_out(found: Found, inside: dict[str, Found], below: dict[str, list[Path]]) -> list[str]:
    """Images that no class has, and links that lead to none, counted and named."""
    kinds: dict[str, Sequence[str | Path]] = {
        "beside the class folders": found.images,
        "in folders inside of class folders": [file for files in below.values() for file in files],
        "hidden": [path for each in (found, *inside.values()) for path in each.hidden],
    }
    notes = [f"{len(files)} image(s) {where} left out: {_some(files)}" for where, files in kinds.items() if files]
    dangling = [path for each in (found, *inside.values()) for path in each.dangling]
    if dangling:
        notes.append(f"{len(dangling)} link(s) that lead nowhere left out: {_some(dangling)}")
    return notes


def _images_in_folders(found: Found) -> list[Path]:
    return [file for folder in found.own_folders for file in _images_below(folder)]


def _images_below(folder: Path, *, hidden: bool = False) -> list[Path]:
    """Image files anywhere below a folder."""
    files: list[Path] = []
    for place, folders, names in os.walk(folder, onerror=None if hidden else _refuse):
        folders[:] = sorted(name for name in folders if hidden or not name.startswith("."))
        files += [
            Path(place, name)
            for name in sorted(names)
            if os.path.splitext(name)[1].lower() in EXTENSIONS and not name.startswith("._" if hidden else ".")
        ]
    return files


def _refuse(error: OSError) -> None:
    raise InputError(f"image folder {error.filename} cannot be read: {error.strerror}") from None


def _counted(paths: Sequence[Path], root: Path) -> str:
    return f"{len(paths)} link(s), {_some(paths)},"


def _some(paths: Sequence[str | Path]) -> str:
    """The first by name, each with its folder."""
    shown = ", ".join(f"{path.parent.name}/{path.name}" for path in map(Path, paths[:NAMED]))
    return shown + (f" and {len(paths) - NAMED} more" if len(paths) > NAMED else "")
