"""Spoiled run folders: whatever a file holds, the next start ends as the first one did, or says which file it is."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import ray_synth as rs
from ray_synth.classifier import final
from ray_synth.evaluators.table import EVALUATORS
from ray_synth.nodes import Nodes
from ray_synth.report import plots
from ray_synth.report.sections import shown
from ray_synth.sampling import generate
from ray_synth.stages.estimate import Estimate
from ray_synth.stages.inputs import Inputs
from ray_synth.sweep import tuner
from ray_synth.sweep.trial import run_trial
from ray_synth.training.team import Team

from .conftest import DIGITS

pytestmark = pytest.mark.slow
# Every stage, in two seconds.
FEW = {
    "generator.block_out_channels": [8, 16],
    "generator.steps": 2,
    "generator.batch_size": 4,
    "generate.images_per_class": 2,
    "generate.num_inference_steps": 1,
    "generate.chunk_size": 2,
    "generate.num_actors": 1,
    "data.shots": 2,
    "classifier.updates": 2,
    "classifier.evaluations": 1,
    "classifier.batch_size": 8,
    "sweep.num_trials": 3,
    "evaluate.repeats": 1,
}
WRONG: list[Any] = [float("nan"), float("-inf"), 1e308, -1, 10**400, "text", None, True, [], {}, [[1]], {"a": 1}]
SAYS_WHAT_TO_DO = re.compile(r"move|remove|choose|run|type")


@pytest.fixture(scope="module", autouse=True)
def here() -> Iterator[None]:
    """Without Ray: its actors, trials and workers are in this process."""
    import ray.train

    def over_pool(items: list[Any], worker: type, arguments: tuple[Any, ...], shared: Any, **_: Any) -> Iterator[Any]:
        yield from map(worker(*arguments, shared, "cpu"), items)

    def run_team(work: Any, given: Any, **_: Any) -> None:
        work(given, Team())

    def run_trials(searcher: Any, work: Any, slots: Any) -> None:
        while isinstance(config := searcher.suggest("trial"), dict):
            rows: list[dict[str, Any]] = []
            run_trial(config, work, report=rows.append)
            searcher.on_trial_complete("trial", rows[-1])

    known: dict[str, Any] = {}
    predict = Estimate._ranked

    def ranked(self: Estimate, real: Any, synthetic: Any, *, reporter: Any = None, **settings: Any) -> Any:
        """Of the same images the same, without the ten seconds."""
        images = b"".join(one.images().tobytes() for one in (real, *synthetic.values()))
        key = f"{hashlib.sha256(images).hexdigest()} {settings}"
        if key not in known:
            known[key] = predict(self, real, synthetic, reporter=reporter, **settings)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Estimate, "_ranked", ranked)
        for module in (plots, shown):
            patch.setattr(module, "as_svg", lambda figure: "<svg></svg>")
        patch.setattr(Inputs, "start_ray", lambda self: None)
        patch.setattr(generate, "over_pool", over_pool)
        patch.setattr(final, "run_team", run_team)
        patch.setattr(tuner, "_run_trials", run_trials)
        for module in (final, tuner):
            nodes = Nodes(cpus=1, gpus=(), most_cpus=1, most_gpus=(), grows=False)
            patch.setattr(module, "cluster_nodes", lambda nodes=nodes: nodes)
        patch.setattr(ray.train, "report", lambda *_: None)
        patch.delitem(EVALUATORS, "label_fidelity")  # it trains a judge
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    rs.run(DIGITS, out=out, overrides=FEW)
    return out


def files_of(out: Path) -> list[Path]:
    return sorted(p for p in out.rglob("*") if p.is_file() and "stale" not in p.parts and p.name != "log.txt")


def told(out: Path) -> dict[str, Any]:
    """What a run found, but for its seconds."""
    summary = json.loads((out / "summary.json").read_text())
    del summary["seconds"]
    rows = (out / "sweep" / "trials.csv").read_text().splitlines()
    places = [place for place, name in enumerate(rows[0].split(",")) if "seconds" not in name]
    return {
        "summary": {name: value for name, value in summary.items() if name != "cheapest"},  # ties go by seconds
        "trials": [[row.split(",")[place] for place in places] for row in rows],
        **{name: json.loads((out / name).read_text()) for name in ("estimate.json", "metrics.json", "splits.json")},
    }


def spoiled(data: bytes, rng: random.Random) -> bytes:
    """Other bytes: none, half of them, noise in their midst, a bit flipped; or another value in JSON."""
    ways = ["empty", "half", "noise", "garbled", "flip", "flip"]
    lines = data.splitlines(keepends=True)
    place = rng.randrange(len(lines)) if lines else 0
    for text in (data, lines[place] if lines else b""):
        try:
            plain = json.loads(text)
        except ValueError:
            continue
        if rng.random() < 0.6:
            changed = json.dumps(_changed(plain, rng)).encode()
            return changed if text is data else b"".join([*lines[:place], changed + b"\n", *lines[place + 1 :]])
    way, spoilt = rng.choice(ways), bytearray(data)
    if way == "empty" or not data:
        return b""
    if way == "half":
        return data[: len(data) // 2]
    if way == "noise":
        return rng.randbytes(len(data))
    count = 1 if way == "flip" else max(1, len(data) // 20)
    for _ in range(count):
        spoilt[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


def _changed(plain: Any, rng: random.Random) -> Any:
    """With another value somewhere, or without one."""
    inside = list(plain) if isinstance(plain, dict) else list(range(len(plain))) if isinstance(plain, list) else []
    if not inside or rng.random() < 0.1:
        return rng.choice(WRONG)
    key = rng.choice(inside)
    if rng.random() < 0.1:
        del plain[key]
    else:
        plain[key] = _changed(plain[key], rng)
    return plain


def begun_again(out: Path, rng: random.Random) -> None:
    """As a run that goes on: nothing is left to do, or something that needs what lies before it."""
    stages = ["finetune", "generate", "estimate", "sweep", "train", "evaluate", "report"]
    if rng.random() < 0.4:
        return
    stage = rng.choice(stages)
    if rng.random() < 0.5:  # killed in it
        for later in stages[stages.index(stage) :]:
            record = out / "stages" / f"{later}.json"
            record.write_text(json.dumps(json.loads(record.read_text()) | {"complete": False, "sha256": {}}))
    else:  # somebody removed what it made
        made = {"finetune": "generator", "generate": "generation.json", "estimate": "estimate.json", "sweep": "sweep"}
        made |= {"train": "model", "evaluate": "metrics.json", "report": "report.html"}
        (out / made[stage]).rename(out.parent / "removed")


def start_again(whole: Path, out: Path, seed: int) -> None:
    rng = random.Random(seed)
    shutil.copytree(whole, out)
    begun_again(out, rng)
    folders: dict[str, list[Path]] = {}
    for file in files_of(out):  # a folder of many files is no likelier than a file
        folders.setdefault(str(file.parent) if file.parent.name == "synthetic" else str(file), []).append(file)
    victim = rng.choice(rng.choice(list(folders.values())))
    victim.write_bytes(spoiled(victim.read_bytes(), rng))
    name = str(victim.relative_to(out))
    with what_is_said() as said:
        rs.run(DIGITS, out=out, overrides=FEW)
    if said:
        assert "\n" not in said[0]
        assert name in said[0]
        assert SAYS_WHAT_TO_DO.search(said[0])
    else:
        assert told(out) == told(whole), name
        before = [file.read_bytes() for file in files_of(out)]
        rs.run(DIGITS, out=out, overrides=FEW)
        assert [file.read_bytes() for file in files_of(out)] == before


@contextmanager
def what_is_said() -> Iterator[list[str]]:
    """What ray_synth says of input and work that cannot be: other errors pass."""
    said: list[str] = []
    try:
        yield said
    except (rs.InputError, rs.WorkError) as error:
        said.append(str(error))


@pytest.mark.parametrize("seed", range(24))
def test_a_spoiled_file_is_made_anew_or_named(whole: Path, tmp_path: Path, seed: int) -> None:
    start_again(whole, tmp_path / "run", seed)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1000, 1276))
def test_so_are_three_hundred(whole: Path, tmp_path: Path, seed: int) -> None:
    start_again(whole, tmp_path / "run", seed)
