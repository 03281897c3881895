"""Several generators in one run: what a file may say, whose images are made, and what a setting trains on."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_synth.classifier.experiment_data import ExperimentData
from ray_synth.classifier.setting import Setting, default_setting
from ray_synth.config import Experiment, load_experiment
from ray_synth.data.images import first_per_class
from ray_synth.data.splits import Splits
from ray_synth.errors import InputError, WorkError
from ray_synth.pipeline import Run
from ray_synth.progress import Reporter
from ray_synth.runs import RunFolder
from ray_synth.sampling.card import About
from ray_synth.sampling.chunks import Plan, finished_chunks, read_chunk, read_synthetic, work_left
from ray_synth.sampling.export import Exported, export_images
from ray_synth.sampling.generate import SampleChunks
from ray_synth.smoke import shrunk
from ray_synth.stages import Estimate, Generate

from ..conftest import DIGITS
from .several import write_generator

EACH = 9


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("generators")
    return {name: write_generator(root / name, seed=seed, each=EACH) for seed, name in enumerate(("plain", "fancy"), 1)}


def of_both(folders: dict[str, str], **changes: Any) -> dict[str, Any]:
    return {"generator": {"kind": "folder", "path": folders}, "data.shots": 2, "generate.chunk_size": 3,
            "generate.images_per_class": 8, **changes}  # fmt: skip


def run_of(out: Path, folders: dict[str, str], **changes: Any) -> Run:
    return Run(load_experiment(DIGITS, of_both(folders, **changes)), RunFolder(out), Reporter())


def test_several_are_searched_among_and_one_is_as_it_was(folders: dict[str, str]) -> None:
    def space(**changes: Any) -> Any:
        return load_experiment(DIGITS, of_both(folders, **changes)).sweep.searched

    assert space()["generator"].choices == ("plain", "fancy")
    assert space(**{"sweep.space.generator.choices": ["fancy"]})["generator"].choices == ("fancy",)
    assert "generator" not in space(**{"generator": {"kind": "folder", "path": folders["plain"]}})
    one = load_experiment(DIGITS, {"generator": {"kind": "folder", "path": folders["plain"]}})
    assert "generator" not in default_setting(one, 10, 2.0).to_dict()
    raw = load_experiment(DIGITS, of_both(folders)).model_dump(mode="json")
    assert Experiment.model_validate(raw).sweep.searched["generator"].choices == ("plain", "fancy")  # a run folder's


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sweep.space.generator.choices": ["plian"]}, r"'plian' is no name in generator.path; did you mean plain\?"),
        ({"sweep.space.generator": {"low": 0, "high": 1}}, r"takes choices; type .*choices: \[plain, fancy\]"),
        ({"sweep.space.generator": None}, "null leaves open which of plain, fancy to train on"),
        ({"generator.path": {"plain, too": "images"}}, "must be a plain word of letters.*got 'plain, too'"),
        ({"generator.path": {"same": "{plain}/"}}, "plain and same are the same folder"),
        ({"generator.path": 7}, "must be a folder, or a name for each of several.*got 7"),
        ({"generator": {"kind": "diffusion"}, "sweep.space.generator.choices": ["a"]}, "names one or none.*{a: DIR"),
    ],
)  # fmt: skip
def test_wrong_words_are_refused(folders: dict[str, str], changes: dict[str, Any], words: str) -> None:
    path = changes.get("generator.path")
    if isinstance(path, dict):
        changes = {"generator.path": {name: place.format(**folders) for name, place in path.items()}}
    with pytest.raises(InputError, match=words):
        load_experiment(DIGITS, _merged(of_both(folders), changes))


def _merged(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    if "generator.path" in changes and isinstance(changes["generator.path"], dict):
        path = {**settings["generator"]["path"], **changes["generator.path"]}
        return {**settings, "generator": {"kind": "folder", "path": path}}
    return {**settings, **changes}


def test_wrong_folders_are_refused_before_anything_starts(folders: dict[str, str], tmp_path: Path) -> None:
    shutil.copytree(folders["plain"], tmp_path / "copy")
    with pytest.raises(InputError, match=r"plain and again hold the same images.*leave again out"):
        run_of(tmp_path / "run", {**folders, "again": str(tmp_path / "copy")})
    for name in range(1, 10):
        shutil.rmtree(tmp_path / "copy" / str(name))
    (tmp_path / "copy" / "0").rename(tmp_path / "copy" / "zero")
    with pytest.raises(InputError, match=r"generator.path.lacking=.* has no folder for class '0'.*it has zero; give"):
        run_of(tmp_path / "run", {**folders, "lacking": str(tmp_path / "copy")})
    with pytest.raises(InputError, match=f"images_per_class must be <= {EACH}, the images of class '0' in .*fancy"):
        run_of(tmp_path / "run", {"fancy": folders["fancy"], "plain": folders["plain"]},
               **{"generate.images_per_class": EACH + 1})  # fmt: skip


def test_generators_of_other_classes_are_compared_on_those_that_all_have(
    folders: dict[str, str], tmp_path: Path
) -> None:
    part = {"plain": tmp_path / "plain", "fancy": tmp_path / "fancy"}
    for (name, place), gone in zip(part.items(), ([0, 1], [1, 2, 3]), strict=True):
        shutil.copytree(folders[name], place)
        for label in gone:
            shutil.rmtree(place / str(label))
    run = run_of(tmp_path / "run", {name: str(place) for name, place in part.items()})
    kept = [0, 0, 0, 0, 8, 8, 8, 8, 8, 8]
    assert run.of(Generate).images.images_per_class == (*kept, *kept)
    (note,) = [note for note in run.notes if "real only" in note]
    assert note == (
        "class(es) '0', '1', '2', '3' stay real only, for generators are compared on the classes that all have: "
        "plain has none of '0', '1'; fancy has none of '1', '2', '3'"
    )
    for label in range(4, 10):
        shutil.rmtree(part["plain"] / str(label))
        shutil.rmtree(part["fancy"] / str(label))
    shutil.rmtree(part["plain"] / "2")
    shutil.rmtree(part["plain"] / "3")
    shutil.copytree(Path(folders["plain"]) / "1", part["plain"] / "1")
    with pytest.raises(InputError, match=r"plain and fancy have images of no class in common.*into one folder"):
        run_of(tmp_path / "run", {name: str(place) for name, place in part.items()})


def made(run: Run, number: int, out: Path) -> Plan:
    """So many images a class of each generator, by what workers run."""
    out.mkdir(exist_ok=True)
    images, folder = run.of(Generate), RunFolder(out)
    plan = images.images_up_to(np.full(10, number))
    sample = SampleChunks(images.job(folder.absolute_url, plan), None, "cpu")
    while missing := work_left(finished_chunks(folder, plan), plan).missing:
        for chunk in missing:
            sample({"label": chunk.label, "start": chunk.start, "stop": chunk.stop})
    return plan


def pixels(folders: Iterable[str]) -> list[bytes]:
    from ray_synth.data.readers import read_folder

    return [image.tobytes() for folder in folders for image in read_folder(Path(folder)).images()]


def test_each_generator_has_its_quota_whatever_another_one_lacks(folders: dict[str, str], tmp_path: Path) -> None:
    torn = shutil.copytree(folders["fancy"], tmp_path / "torn")
    (torn / "3" / "001.png").write_bytes(b"no image")
    run, out = run_of(tmp_path / "run", {"plain": folders["plain"], "torn": str(torn)}), tmp_path / "run"
    plan = made(run, 4, out)
    images = read_synthetic(RunFolder(out), plan, class_names=run.inputs.class_names, shape=run.inputs.shape)
    assert images.counts.tolist() == [8] * 10
    assert images.labels.tolist() == 2 * [label for label in range(10) for _ in range(4)]
    known = set(pixels([folders["plain"]])), set(pixels([folders["fancy"]]))
    for place, own in enumerate(known):
        assert {image.tobytes() for image in images.images()[40 * place : 40 * (place + 1)]} <= own
    names = {chunk.label // 10: read_chunk(RunFolder(out), chunk.name, ["model_id", "label"])
             for chunk in finished_chunks(RunFolder(out), plan)}  # fmt: skip
    assert {place: set(columns["model_id"]) for place, columns in names.items()} == {
        0: {"folder/plain"},
        1: {"folder/torn"},
    }
    assert all(set(columns["label"]) <= set(range(10)) for columns in names.values())
    more = made(run, 6, out)  # and what was made stays
    again = read_synthetic(RunFolder(out), more, class_names=run.inputs.class_names, shape=run.inputs.shape)
    assert set(images.sources) < set(again.sources)
    assert again.counts.tolist() == [12] * 10
    about = About(name="x", version="1", origins=[])
    names = run.inputs.class_names
    export_images(Exported(folder=RunFolder(out), plan=more, class_names=names, extension="png", about=about), "folder")
    assert len(list((out / "export" / "folder" / "torn" / "3").iterdir())) == 6
    exported = {"plain": folders["plain"], "torn": str(out / "export" / "folder" / "torn")}
    assert run_of(tmp_path / "x", exported, **{"generate.images_per_class": 6}).of(Generate).total == 120


def test_images_are_counted_for_each_generator(folders: dict[str, str], tmp_path: Path) -> None:
    changes = {"generate.images_per_class": 8, "estimate.pilot_ratio": 2}
    both, one = run_of(tmp_path / "a", folders, **changes).of(Generate), run_of(
        tmp_path / "b", folders, **{**changes, "generator": {"kind": "folder", "path": folders["plain"]}}
    ).of(Generate)  # fmt: skip
    assert both.max_ratio(16.0) == one.max_ratio(16.0) == 4.0
    assert (both.total, one.total) == (160, 80)
    assert (both.pilot_total, one.pilot_total) == (80, 40)
    assert both.pilot.tolist() == one.pilot.tolist()
    assert both.number_for(2.0) == 2 * one.number_for(2.0)
    fewer = {"generate.images_per_class": None, "sweep.max_ratio": 16.0}
    assert run_of(tmp_path / "c", folders, **fewer).of(Generate).max_ratio(16.0) == EACH / 2


def test_the_pilot_has_each_generators_first_images(folders: dict[str, str], tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", folders, **{"generate.images_per_class": 8, "estimate.pilot_ratio": 1})
    made(run, 8, tmp_path / "run")
    pilot = run.of(Generate).pilot_images
    assert pilot.labels.tolist() == 2 * [label for label in range(10) for _ in range(2)]
    assert len(set(pilot.sources)) == 40
    assert {image.tobytes() for image in pilot.images()[20:]} <= set(pixels([folders["fancy"]]))
    fancy = run.of(Generate).of_generator("fancy")
    assert set(pilot.sources[20:]) <= set(fancy.sources)
    assert not set(pilot.sources[:20]) & set(fancy.sources)


def data_of(folders: dict[str, str], splits: Splits) -> ExperimentData:
    """The second generator's images are those of the first, backwards and darker."""
    own = splits.generator
    first = own.take(first_per_class(own.labels, np.full(10, 10)))
    dark = type(first)(
        pixels=first.images()[::-1] // 2, labels=first.labels[::-1].copy(), class_names=first.class_names
    )
    both = type(first)(
        pixels=np.concatenate([first.images(), dark.images()]),
        labels=np.concatenate([first.labels, dark.labels]),
        class_names=first.class_names,
    )
    return ExperimentData(
        experiment=load_experiment(DIGITS, of_both(folders)),
        real=splits.train,
        synthetic=both,
        validation=splits.validation,
        features=np.arange(len(splits.train) + 200, dtype=np.float32)[:, None],
    )


def test_a_setting_trains_on_the_images_of_its_generator_alone(folders: dict[str, str], splits: Splits) -> None:
    data = data_of(folders, splits)
    ratio = 0.5
    fancy = default_setting(data.experiment, 10, ratio, "fancy")
    assert Setting.from_dict(fancy.to_dict()) == fancy
    assert fancy.digest != default_setting(data.experiment, 10, ratio, "plain").digest
    taken = {name: data.at(default_setting(data.experiment, 10, ratio, name))[0].synthetic for name in folders}
    halves = {"plain": data.synthetic.images()[:100], "fancy": data.synthetic.images()[100:]}
    for name, images in taken.items():
        assert images.counts.tolist() == data.counts(fancy).tolist()
        assert {image.tobytes() for image in images.images()} <= {image.tobytes() for image in halves[name]}
    assert data.available.tolist() == (data.synthetic.counts // 2).tolist()
    none, _, _ = data.at(default_setting(data.experiment, 10, 0.0, "fancy"))
    assert len(none.synthetic) == 0
    assert default_setting(data.experiment, 10, 0.0, "fancy").generator == ""


def test_features_follow_the_generator(folders: dict[str, str], splits: Splits) -> None:
    data = data_of(folders, splits)
    e = data.experiment
    online = e.model_copy(update={"classifier": e.classifier.model_copy(update={"algorithm": "lightweight"})})
    data = ExperimentData(experiment=online, real=data.real, synthetic=data.synthetic, validation=data.validation,
                          features=data.features)  # fmt: skip
    n = len(data.real)
    features = data.at(default_setting(online, 10, 0.5, "fancy"))[0].features
    assert features is not None
    assert (features[:n, 0] == np.arange(n)).all()
    assert (features[n:, 0] >= n + 100).all()


def test_the_estimate_rests_on_who_may_be_chosen(folders: dict[str, str], tmp_path: Path) -> None:
    both = run_of(tmp_path / "a", folders)
    one = run_of(tmp_path / "a", folders, **{"sweep.space.generator.choices": ["fancy"]})
    assert both.of(Generate).digest == one.of(Generate).digest  # the same images
    assert both.of(Estimate).digest != one.of(Estimate).digest
    back = run_of(tmp_path / "a", dict(reversed(folders.items())))  # an index then stands for another image
    assert back.of(Generate).digest != both.of(Generate).digest
    assert both.of(Estimate).outputs == ("estimate.json", "ranking.json")
    assert one.of(Estimate).generator == "fancy"


def test_in_small_there_are_several_too(folders: dict[str, str], tmp_path: Path) -> None:
    small = shrunk(load_experiment(DIGITS, of_both(folders)), tmp_path)
    assert small.generator.names == ("plain", "fancy")
    assert len(set(small.generator.folders.values())) == 2  # type: ignore[attr-defined]


def test_a_class_that_is_short_is_named_with_its_generator(folders: dict[str, str], tmp_path: Path) -> None:
    from ray_synth.sampling.generate import _shortfall

    torn = shutil.copytree(folders["fancy"], tmp_path / "torn")
    for file in (torn / "3").iterdir():
        file.write_bytes(b"no image")
    run, out = run_of(tmp_path / "run", {"plain": folders["plain"], "torn": str(torn)}), tmp_path / "run"
    plan = made(run, 2, out)
    work = work_left(finished_chunks(RunFolder(out), plan), plan)
    job = run.of(Generate).job(RunFolder(out).absolute_url, plan)
    with pytest.raises(WorkError, match="torn: class '3' kept 0 of 2 images"):
        raise WorkError(_shortfall(RunFolder(out), job, work))
