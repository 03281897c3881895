"""`ray-synth plan` as a person meets it, and how a plan is said and drawn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ray_synth.errors import InputError
from ray_synth.pipeline import run
from ray_synth.planning.request import Request, parse_nodes, plan_for
from ray_synth.progress import Reporter
from ray_synth.report.costs import bytes_said, money_said, number_said, scaling_picture, seconds_said
from ray_synth.tables import print_plan

from ..conftest import DIGITS, ROOT
from ..test_cli import ray_synth, refused
from .test_work import SHORT, TINY, finished, run_in

IMAGENET = ROOT / "sweeps" / "imagenet.yaml"


def asked(**words: object) -> dict[str, object]:
    request = Request(**{"experiment": DIGITS, **words})  # type: ignore[arg-type]
    return plan_for(request, Reporter(), started=0.0).to_dict()


def test_a_published_gpu_on_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = (
        "plan",
        DIGITS,
        "--out",
        out,
        "--gpu",
        "L4",
        "--nodes",
        "1,4",
        "--price",
        "2",
        "--plot",
        tmp_path / "a.svg",
    )
    done = ray_synth(*words)
    assert done.returncode == 0, done.stderr
    for word in ("finetune", "24 trials", "GPU-hours", "money, spot", "over nodes", "up to 90 %", "bends at"):
        assert word in done.stdout
    assert (tmp_path / "a.svg").exists()
    assert not out.exists()


def test_wrong_words_exit_with_2(tmp_path: Path) -> None:
    refused(ray_synth("plan", DIGITS, "--gpu", "V100"), "--gpu must be one of T4", "'V100'", "--save-rates")
    refused(ray_synth("plan", DIGITS, "--rates", tmp_path / "no.json"), "rates file not found", "--save-rates")


def test_json_holds_the_origin_of_every_rate() -> None:
    found = asked(gpu="L4", nodes=[4, 1], price=2.0)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert [point["nodes"] for point in found["scaling"]] == [1, 4]  # type: ignore[attr-defined]
    assert found["origins"]["price"] == "--price"  # type: ignore[index]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"gpu": "T4", "rates": Path("r.json")}, "--gpu and --rates exclude each other"),
        ({"gpu": "T4", "calibrate": True}, "--gpu and --calibrate exclude each other"),
        ({"gpu": "T4", "save_rates": Path("r.json")}, "--save-rates keeps what was measured"),
        ({"without_data": True}, "add --gpu NAME or --rates FILE"),
        ({"gpu": "T4", "until": "party"}, "--until must be one of finetune"),
        ({"gpu": "T4", "gpus_per_node": 0}, "--gpus-per-node must be between 1 and 64, got 0"),
        ({"gpu": "T4", "price": -1.0}, "--price must be >= 0"),
    ],
)
def test_words_that_do_not_go_together(words: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        asked(**words)


def test_nodes_are_numbers() -> None:
    assert parse_nodes("1,2, 8") == [1, 2, 8]
    for wrong in ("", "1,,2", "1.5", "0", "a"):
        with pytest.raises(InputError, match="--nodes"):
            parse_nodes(wrong)


@pytest.mark.slow
def test_a_finished_run_costs_its_start_and_is_json(tmp_path: Path) -> None:
    run = run_in(tmp_path, **SHORT)
    finished(run)
    found = asked(out=str(tmp_path), overrides={**TINY, **SHORT}, save_rates=tmp_path / "rates.json")
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert [stage["name"] for stage in found["stages"]] == ["start"]  # type: ignore[attr-defined]
    assert found["saving"] is None
    print_plan(found)
    with pytest.raises(InputError, match=r"needs '\w+', and the rates hold nothing for it.*measure again without"):
        asked(out=str(tmp_path / "new"), overrides={**TINY, **SHORT}, rates=tmp_path / "rates.json")


def test_data_that_are_not_here_are_counted_as_published() -> None:
    found = asked(experiment=IMAGENET, gpu="A100", until="generate", nodes=[4])
    assert found["images"] == 12_840_000
    assert any("not here" in note for note in found["notes"])  # type: ignore[union-attr]
    assert found["saving"] is None
    with pytest.raises(InputError, match="data/imagenet"):
        asked(experiment=IMAGENET)


MANY = {"sweep.workers_per_trial": 64, "classifier.num_workers": 64, "classifier.batch_size": 128}


def test_another_machine_is_not_held_to_this_one() -> None:
    """64 workers find room on eight nodes of eight GPUs, whatever the machine that the plan is typed on has."""
    found = asked(gpu="A100", overrides=MANY, nodes=[8])
    assert (found["nodes"], found["slots"]) == (8, 8)
    with pytest.raises(InputError, match=r"workers_per_trial=64 and there are 8 GPUs; type --nodes 8"):
        asked(gpu="A100", overrides=MANY)


def test_what_is_measured_or_run_here_must_find_room_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for refuses in (
        lambda: asked(overrides=MANY),
        lambda: run(DIGITS, out=tmp_path, overrides=MANY, dry_run=True),
        lambda: run(DIGITS, out=tmp_path, overrides=MANY, until="finetune"),
    ):
        with pytest.raises(InputError, match=r"sweep.workers_per_trial must be <= \d+, the [CG]PUs here, got 64"):
            refuses()
    assert not list(tmp_path.iterdir())


def test_an_output_folder_of_another_is_refused(tmp_path: Path) -> None:
    (tmp_path / "experiment.yaml").write_text("name: theirs\n")
    with pytest.raises(InputError, match="belongs to experiment 'theirs'"):
        asked(gpu="T4", out=str(tmp_path))


def test_a_plan_as_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    # Not in runs/digits, where the demo may be complete.
    found = asked(gpu="H100", nodes=[1, 2, 64], out=str(tmp_path / "out"))
    print_plan(found)
    text = capsys.readouterr().out
    for word in (
        "plan: digits",
        "generating 1,600 images of 20 steps in 20 chunks",
        "wall time on spot",
        "no source was found",
    ):
        assert word in text
    print_plan({**found, "scaling": [{**found["scaling"][0], "money": None, "spot": None}]})  # type: ignore[index]
    text = capsys.readouterr().out
    assert "--price X gives" in text
    assert "with the images" in text
    print_plan({**found, "saving": {**found["saving"], "everything": None}})  # type: ignore[dict-item]
    text = capsys.readouterr().out
    assert "saves" in text
    assert "with the images" not in text


def test_the_scaling_curve_is_drawn(tmp_path: Path) -> None:
    found = asked(gpu="A100", nodes=[1, 2, 64])
    figure = scaling_picture(found)
    assert len(figure.axes) == 2
    assert found["bend"] is not None
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert any(label.startswith("bends: ") for label in labels)
    unpriced = {**found, "scaling": [{**p, "money": None, "spot": None} for p in found["scaling"]]}  # type: ignore[union-attr]
    assert len(scaling_picture(unpriced).axes) == 1


def test_numbers_as_they_are_said() -> None:
    def interval(low: float, median: float, high: float) -> dict[str, float]:
        return {"low": low, "median": median, "high": high}

    assert seconds_said(interval(90, 90, 90)) == "90 s"
    assert seconds_said(interval(600, 720, 900)) == "12.0 min (10.0 to 15.0)"
    assert seconds_said(interval(3600, 86_400, 90_000)) == "24 h (1 to 25)"
    assert seconds_said(interval(86_400, 864_000 / 4, 864_000)) == "2.5 days (1.0 to 10.0)"
    assert money_said(interval(1, 2, 3)) == "$2.00 (1.00 to 3.00)"
    assert money_said(interval(8000, 10_468, 13_000)) == "$10,468 (8,000 to 13,000)"
    assert number_said(interval(0.001, 12, 1399)) == "12 (0.001 to 1,399)"
    assert [bytes_said(n) for n in (12, 1200, 3.4e6, 1.41e12, 5e15)] == [
        "12 bytes",
        "1.2 kB",
        "3.4 MB",
        "1.41 TB",
        "5e+03 TB",
    ]
