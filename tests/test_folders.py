"""`estimate` on folders: what it reads, what it refuses before it reads anything, and what it says and draws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ray_synth import folders, tables
from ray_synth.data.images import ImageSet
from ray_synth.data.source import ImageSource
from ray_synth.errors import InputError
from ray_synth.folders import FolderEstimate, cheapest, checked_costs, estimate_folders, rank_folders
from ray_synth.report.methods import NAMES, method_rows
from ray_synth.report.plots import check_picture, estimate_picture, write_picture

from .conftest import write_folder


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory, digits: ImageSet) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("sides")
    real = write_folder(root / "real", digits, classes=(0, 1, 2), each=6)
    return real, write_folder(root / "synthetic", digits, classes=(0, 1, 2, 3), each=30, skip=10)


@pytest.fixture(scope="module")
def estimated(sides: tuple[Path, Path]) -> FolderEstimate:
    return estimate_folders(*sides)


def inverted(root: Path, digits: ImageSet, *, flat: bool) -> Path:
    """Another domain: white on black turned to black on white, twice as large and in colour."""
    for label in (0, 1, 3):
        folder = root if flat else root / f"digit {label}"
        folder.mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(digits.images()[digits.labels == label][50:56]):
            Image.fromarray(255 - image[..., 0]).resize((16, 16)).convert("RGB").save(folder / f"{label}-{i}.png")
    return root


def test_classes_are_named(estimated: FolderEstimate) -> None:
    classes = estimated.to_dict()["classes"]
    assert {each["class_name"] for each in classes} == {"digit 0", "digit 1", "digit 2"}
    assert all(each["class_name"] == f"digit {each['label']}" for each in classes)
    assert estimated.estimate.features == "thumbnails of at most 16 pixels a side"
    assert estimated.notes == ("synthetic class(es) without real images are left out: 'digit 3'",)


def test_of_many_images_each_class_gives_its_share_and_the_answer_is_for_all(
    tmp_path: Path, digits: ImageSet, sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = write_folder(tmp_path / "real", digits, classes=(0, 1), each=90)
    for file in sorted((real / "digit 1").iterdir())[30:]:
        file.unlink()
    asked: dict[str, Any] = {}

    def rank(source: ImageSource, generators: dict[str, ImageSource], **words: Any) -> tuple[()]:
        asked.update(words, real=source, **generators)
        return ()

    monkeypatch.setattr(folders, "LEAST_IMAGES", 1)
    monkeypatch.setattr(folders, "rank_sources", rank)
    for most, seed in ((60, 0), (60, 0), (60, 1), (500, 0)):
        before = asked.get("real")
        rank_folders(real, sides[1:], max_images=most, seed=seed)
        found = asked["real"]
        if most == 60:
            assert (found.counts.tolist(), asked["num_real"]) == ([45, 15], 120)
            assert len(asked[str(sides[1])]) == 30  # of 120 in four classes, of which two are asked for
            if before is not None:
                assert (list(before.sources) == list(found.sources)) == (seed == 0)
        else:
            assert (found.counts.tolist(), asked["num_real"]) == ([90, 30], None)
    rank_folders(real, sides[1:], max_images=2, num_real=7)
    assert (asked["real"].counts.tolist(), asked["num_real"]) == ([2, 2], 7)


def test_too_few_images_to_read_are_refused(sides: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match=r"--max-images must be at least 100, got 99; leave it out for 10,000"):
        estimate_folders(*sides, max_images=99)


@pytest.mark.parametrize("flat", [False, True])
def test_the_target_is_another_domain_with_or_without_labels(
    tmp_path: Path, digits: ImageSet, sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, flat: bool
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(folders, "rank_sources", lambda *_, **words: asked.update(words) or ())
    target = inverted(tmp_path / "target", digits, flat=flat)
    (target / "readme.txt").write_text("not an image")
    sets = folders._Folders.read(sides[0], target, crop=False)
    notes = "\n".join(sets.notes)
    assert rank_folders(sides[0], sides[1:], target, num_real=600) == ()
    assert asked["num_real"] == 600
    assert asked["target"].images().shape == ((18 if flat else 12), 8, 8, 1)
    assert asked["target_labelled"] is not flat
    assert "image(s) resized to 8x8" in notes
    assert "RGB to grey" in notes
    if flat:
        assert "unlabelled" in notes
    else:
        assert np.bincount(asked["target"].labels).tolist() == [6, 6]
        assert "no target images for the real class(es) 'digit 2'" in notes
        assert "target class(es) without real images are left out: 'digit 3'" in notes


def test_a_target_moves_the_prediction(
    tmp_path: Path, digits: ImageSet, sides: tuple[Path, Path], estimated: FolderEstimate
) -> None:
    found = estimate_folders(*sides, inverted(tmp_path / "target", digits, flat=False)).estimate
    assert found.curve.error[0] > estimated.estimate.curve.error[0]  # black on white, learnt from white on black


def test_a_target_that_is_none_is_refused(tmp_path: Path, digits: ImageSet, sides: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match="image folder not found"):
        estimate_folders(*sides, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no image in .*class_name"):
        estimate_folders(*sides, tmp_path / "empty")
    other = write_folder(tmp_path / "other", digits, classes=(7, 8), each=2)
    with pytest.raises(InputError, match="target has 'digit 7', 'digit 8'"):
        estimate_folders(*sides, other)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"\x89PNG")
    with pytest.raises(InputError, match=r"cannot be read: .*a\.png"):
        estimate_folders(*sides, tmp_path / "broken")


def test_wrong_features_are_refused_before_any_image_is_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file at /nowhere"):
        estimate_folders(tmp_path / "nowhere", tmp_path / "nowhere", features="open_clip:ViT-B-32:/nowhere")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"cost_per_update": 0.5}, "--cost-per-update 0.5 needs .* type --updates 10000"),
        ({"cost_per_image": -1.0}, "--cost-per-image must be .* got -1.0; type --cost-per-image 0.01"),
        ({"cost_per_image": float("nan")}, "--cost-per-image must be a finite number"),
        ({"updates": 100, "cost_per_image": 1.0}, "--updates came without .* type --cost-per-update"),
        ({"tolerance": 0.1}, "--tolerance came without a cost; type --cost-per-image"),
        ({"budget": "images", "cost_per_image": 1.0}, "--budget must be updates or epochs, got 'images'"),
    ],
)
def test_costs_that_lack_something_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        checked_costs(given)


def test_the_cheapest_ratio_is_no_higher_than_the_best_and_never_dearer(estimated: FolderEstimate) -> None:
    assert checked_costs({"cost_per_image": None, "updates": None}) is None
    for tolerance in (0.0, 0.005, 1.0):
        costs = checked_costs({"cost_per_image": 0.1, "tolerance": tolerance})
        assert costs is not None
        found = cheapest(estimated.estimate, costs)
        assert found["ratio"] <= found["best_ratio"]
        assert 0 <= found["error"] - found["best_error"] <= tolerance
        assert found["saving"] == found["best_cost"] - found["cost"] >= 0
    assert found["ratio"] == found["cost"] == 0


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "a.svg", "a.pdf"])
def test_a_picture_is_what_its_name_says(tmp_path: Path, estimated: FolderEstimate, name: str) -> None:
    file = tmp_path / name
    check_picture(file)
    write_picture(estimate_picture(estimated.estimate, estimated.class_names), file)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    if file.suffix.lower() == ".png":
        with Image.open(file) as image:
            assert image.format == "PNG"
            assert min(image.size) > 800
            assert len(image.convert("RGB").getcolors(1 << 24) or []) > 50  # something is drawn
    else:
        assert {".svg": b"<svg", ".pdf": b"%PDF"}[file.suffix] in file.read_bytes()[:1000]


def test_a_picture_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    for path, words in (
        (tmp_path / "a.jpg", r"must end in .*got .*a\.jpg.* type --plot .*a\.png"),
        (tmp_path / "none" / "a.png", "mkdir -p .*none"),
        (tmp_path, "is a folder; type --plot .*estimate.png"),
    ):
        with pytest.raises(InputError, match=words):
            check_picture(path)


def test_a_failure_leaves_no_half_picture(
    tmp_path: Path, estimated: FolderEstimate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError("no space left")

    (tmp_path / "a.png").write_text("the one before")
    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no space left"):
        write_picture(estimate_picture(estimated.estimate, estimated.class_names), tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_text() == "the one before"


def test_odd_names_and_missing_parts_are_drawn_and_printed(
    tmp_path: Path, estimated: FolderEstimate, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("$x^{", "[red]:cat:", "名\n" + 30 * "W")
    first, *others = sorted(estimated.estimate.classes, key=lambda each: each.label != 1)
    odd = replace(
        estimated.estimate,
        warnings=("first", "second"),
        real_equivalent=3.0,
        weights=(),
        interval=(0.0, 16.0),
        classes=(replace(first, recall=0.5), *others),
    )
    for left in (NAMES, ("probe",), ("stability", "closed_form"), ()):
        result = replace(odd, methods={name: odd.methods[name] for name in left})
        assert {name for name, _, _ in method_rows(result)} - {""} == {NAMES[name] for name in left}
        write_picture(estimate_picture(result, names), tmp_path / "a.png")
        tables.print_estimate(result, names)
    lines = capsys.readouterr().out.splitlines()
    assert "warning: first" in lines
    assert "warning: second" in lines
    assert any(line.startswith("[red]:cat:") for line in lines)
    assert any("1 real image is worth 3 synthetic ones" in line for line in lines)
