"""The command line as a person meets it: help, exit codes, and one line instead of a traceback."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ray_synth import cli
from ray_synth.data.images import ImageSet
from ray_synth.errors import InputError
from ray_synth.runtime import ray_session

from .conftest import DIGITS, write_folder

VERBS = ["distill", "run", "finetune", "generate", "estimate", "sweep", "train", "evaluate", "report", "plan", "submit"]


def ray_synth(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """The command in this process: what most tests ask needs no process of its own."""
    done = CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, [*map(str, words)], prog_name="ray-synth")
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return subprocess.CompletedProcess(words, done.exit_code, done.stdout, done.stderr)


def ray_synth_process(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ray_synth.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200"})


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("ray-synth: ")
    for word in words:
        assert word in line


def test_help_lists_the_verbs_that_work_and_no_other() -> None:
    text = ray_synth_process("--help").stdout
    listed = re.findall(r"^  (\w+)  ", text.split("Commands:")[1], flags=re.MULTILINE)
    assert sorted(listed) == sorted(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_opens_with_an_example(verb: str) -> None:
    lines = [line.strip() for line in ray_synth(verb, "--help").stdout.splitlines() if line.strip()]
    assert lines[0].startswith("Usage:")
    assert lines[1].startswith(f"Example: ray-synth {verb} ")


def test_wrong_words_exit_with_2(tmp_path: Path) -> None:
    refused(ray_synth_process("run", "nowhere.yaml"), "experiment file not found", "nowhere.yaml")
    refused(
        ray_synth("run", DIGITS, "--set", "data.shots=99", "--dry-run"),
        "data.shots must be <= ",
        "got 99",
        "type --set",
    )
    refused(ray_synth("run", DIGITS, "--set", "data.shots", "--dry-run"), "key.path=value")
    refused(ray_synth("run", DIGITS, "--set", "data.image_size=9", "--dry-run"), "9x9", "--set data.image_size=")
    refused(ray_synth("estimate", DIGITS, "--max-ratio", "4"), "--set estimate.max_ratio=4")
    assert ray_synth("run", DIGITS, "--seed", "-1").returncode == 2
    assert ray_synth("distill", DIGITS).returncode == 2
    assert not list(tmp_path.iterdir())


def test_an_output_folder_of_another_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "experiment.yaml").write_text("name: theirs\n")
    refused(ray_synth("run", DIGITS, "--out", tmp_path / "other"), "belongs to experiment 'theirs'", "--out DIR")
    refused(ray_synth("run", DIGITS, "--out", tmp_path / "other", "--dry-run"), "belongs to experiment 'theirs'")
    refused(ray_synth("run", DIGITS, "--out", "foo://bucket/x"), "foo://bucket/x")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    refused(ray_synth("run", DIGITS, "--out", tmp_path / "thesis"), "not empty", "chapter.tex")
    assert [p.name for p in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]
    (tmp_path / "file").write_text("")
    refused(ray_synth("run", DIGITS, "--out", tmp_path / "file"), "file")
    refused(ray_synth("run", DIGITS, "--out", tmp_path / "file" / "below"), "below")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    refused(ray_synth("run", DIGITS, "--out", tmp_path / "locked"), "not writable")


def test_broken_image_folders_are_refused(tmp_path: Path, image_folder: Path) -> None:
    def dry(path: Path, *more: str) -> subprocess.CompletedProcess[str]:
        return ray_synth("run", DIGITS, "--dry-run", "--set", "data.kind=folder", "--set", f"data.path={path}", *more)

    assert dry(image_folder, "--set", "data.shots=2").returncode == 0
    refused(dry(tmp_path / "nowhere"), "image folder not found", "nowhere")
    refused(dry(image_folder, "--set", "data.shots=50"), "data.shots must be <=", "got 50")
    (image_folder / "empty").mkdir()
    refused(dry(image_folder), "class folder", "empty", "holds no image")
    (image_folder / "empty").rmdir()
    victim = image_folder / "digit 1" / "003.png"
    victim.write_bytes(victim.read_bytes()[:40])
    refused(dry(image_folder), "image cannot be read", "digit 1/003.png")
    single = tmp_path / "single"
    single.mkdir()
    (image_folder / "digit 0").rename(single / "digit 0")
    refused(dry(single), "only one class", "digit 0")


def test_estimate_on_two_folders(tmp_path: Path, digits: ImageSet) -> None:
    real = write_folder(tmp_path / "real", digits, classes=(0, 1, 2), each=3)  # too few to be looked at again
    synthetic = write_folder(tmp_path / "synthetic", digits, classes=(1, 2, 3), each=60, skip=10)
    grown = Image.open(synthetic / "digit 1" / "000.png").resize((12, 12)).convert("RGB")
    grown.save(synthetic / "digit 1" / "000.png")
    words = ("estimate", "--real", real, "--synthetic", synthetic, "--max-ratio", "2", "--json")
    done = ray_synth(*words)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert 0 <= result["interval"][0] <= result["ratio"] <= result["interval"][1] <= 2
    assert set(result["methods"]) == {"probe", "closed_form", "exact_risk", "stability", "scaling_law"}
    assert {each["class_name"] for each in result["classes"]} == {"digit 0", "digit 1", "digit 2"}
    assert "cheapest" not in result
    for said in ("'digit 0'", "'digit 3'", "1 image(s) resized to 8x8", "RGB to grey"):
        assert said in done.stderr
    again = ray_synth_process(*words)
    assert again.stdout == done.stdout


def test_estimate_draws_and_counts_costs(tmp_path: Path, digits: ImageSet) -> None:
    real = write_folder(tmp_path / "real", digits, classes=(0, 1), each=6)
    synthetic = write_folder(tmp_path / "synthetic", digits, classes=(0, 1), each=8, skip=10)
    picture = tmp_path / "ratio.png"
    words = ["--cost-per-image", "0.5", "--cost-per-update", "0.001", "--updates", "100", "--budget", "epochs"]
    words += ["--num-real", "40", "--max-ratio", "4", "--real-weight", "2", "--confidence", "0.8", "--features", "auto"]
    done = ray_synth("estimate", "--real", real, "--synthetic", synthetic, "--plot", picture, *words)
    assert done.returncode == 0, done.stderr
    for line in ("predicted ratio", "cheapest ratio", "closed form", "scaling law", "(a sample of 40)"):
        assert line in done.stdout
    assert re.search(r"^warning: 16 synthetic images are few", done.stdout, flags=re.MULTILINE)
    assert "80%" in done.stdout
    with Image.open(picture) as image:
        assert image.format == "PNG"


def test_a_home_folder_after_an_equals_sign(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    refused(ray_synth_process("estimate", "--real=~/photos", "--synthetic", "made"), f"{tmp_path}/photos")


def test_several_synthetic_folders_are_ranked(tmp_path: Path, digits: ImageSet) -> None:
    real = write_folder(tmp_path / "real", digits, classes=(0, 1, 2), each=10)
    good = write_folder(tmp_path / "good", digits, classes=(0, 1, 2), each=40, skip=10)
    bad = write_folder(tmp_path / "bad", digits, classes=(0, 1, 2), each=40, skip=50)
    (bad / "digit 0").rename(bad / "other")
    (bad / "digit 1").rename(bad / "digit 0")
    (bad / "other").rename(bad / "digit 1")  # each under the other's name
    words = ["estimate", "--real", real, "--synthetic", bad, "--synthetic", good, "--max-ratio", "1"]
    done = ray_synth(*words, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [each["name"] for each in result["generators"]] == [str(good), str(bad)]
    assert result["generators"][0]["probability"] > 0.7
    assert result["ratio"] == result["generators"][0]["ratio"]
    refused(ray_synth(*words, "--synthetic", good), "names a folder twice", "give each once")
    cropped = ray_synth(*words, "--fit", "crop", "--json")
    assert json.loads(cropped.stdout) == result  # all are squares


def test_estimate_refuses_before_any_image_is_read() -> None:
    sides = ["--real", "nowhere", "--synthetic", "nowhere"]
    refused(ray_synth("estimate", *sides, "--plot", "ratio.jpg"), "ratio.jpg", ".png", "--plot ratio.png")
    refused(ray_synth("estimate", *sides, "--plot", "none/ratio.png"), "mkdir -p none")
    refused(ray_synth("estimate", *sides, "--cost-per-update", "1"), "--updates 10000")
    refused(ray_synth("estimate", *sides, "--allocation", "even"), "fill, equal, proportional", "'even'")
    refused(ray_synth("estimate", *sides, "--fit", "squeeze"), "stretch or crop", "'squeeze'", "--fit crop")
    refused(ray_synth("estimate", *sides, "--metric", "f1"), "accuracy or balanced_accuracy", "'f1'")
    refused(ray_synth("estimate", *sides, "--confidence", "2"), "(0.5, 1)", "2")
    refused(ray_synth("estimate", DIGITS, "--cost-per-image", "1"), "--cost-per-image belongs to --real")
    refused(ray_synth("estimate", DIGITS, "--real-weight", "2"), "--set classifier.real_weight=2")


def test_estimate_says_what_it_lacks(tmp_path: Path, image_folder: Path) -> None:
    refused(ray_synth("estimate"), "--real DIR --synthetic DIR")
    refused(ray_synth("estimate", "--real", image_folder), "--real DIR --synthetic DIR")
    refused(ray_synth("estimate", DIGITS, "--real", image_folder, "--synthetic", image_folder), "either")
    other = tmp_path / "other"
    for name in ("cat", "dog"):
        (other / name).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(other / name / "a.png")
    refused(ray_synth("estimate", "--real", image_folder, "--synthetic", other), "no class name in common", "'cat'")


OTHER_VERSION = """Version mismatch: The cluster was started with:
    Ray: 2.9.0
    Python: 3.9.1
This process on 127.0.0.1 was started with:
    Ray: 2.60.0
    Python: 3.11.7
"""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("Failed to connect to GCS. Last connection error: Traceback", "no Ray cluster answers there, or it wants"),
        (OTHER_VERSION, r"Ray: 2\.9\.0 Python: 3\.9\.1 This process .* Ray: 2\.60\.0 Python: 3\.11\.7; start this"),
    ],
)
def test_a_cluster_that_is_not_joined_is_told(monkeypatch: pytest.MonkeyPatch, error: str, said: str) -> None:
    import ray

    def refused(**words: object) -> None:
        raise RuntimeError(error)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        monkeypatch.setattr(ray, "init", refused)
        with pytest.raises(InputError, match=rf"RAY_ADDRESS={address}: .*{said}"), ray_session():
            pass


@pytest.mark.parametrize(
    ("address", "said"),
    [("127.0.0.1:1", "no Ray cluster listens there"), ("ray://127.0.0.1:10001", "type ray-synth submit")],
)
def test_nobody_is_waited_for_where_nobody_listens(monkeypatch: pytest.MonkeyPatch, address: str, said: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(InputError, match=said), ray_session():
        pass


def test_a_token_is_shown_by_a_process_that_has_used_ray_before(tmp_path: Path) -> None:
    """Ray reads its mode once; a cluster that is started later would ask this process for what it does not show."""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("0123456789abcdef" * 4)
    script = (
        "from ray._raylet import get_authentication_mode as mode; from ray_synth.runtime import use_token; "
        "before = mode(); use_token(); print(before, mode())"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_A")}
    done = subprocess.run(
        [sys.executable, "-c", script], env={**environment, "HOME": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.stdout.split() == ["0", "1"], done.stderr  # disabled, token


def test_submit_lists_what_it_would_send(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("digits.yaml", "prod.env", "hf_token"):
        (tmp_path / name).write_text(DIGITS.read_text() if name == "digits.yaml" else name)
    monkeypatch.chdir(tmp_path)
    words = ["submit", "digits.yaml", "--out", "s3://bucket/digits", "--address", "http://127.0.0.1:1", "--dry-run"]
    done = ray_synth(*words, "--allow", "hf_token")
    assert (done.returncode, done.stdout) == (0, "digits.yaml\nhf_token\n"), done.stderr
    assert "not sent, for what their names say: prod.env; --allow FILE sends one all the same" in done.stderr
    refused(ray_synth(*words, "--allow", "hf-token"), "--allow hf-token", "did you mean hf_token?")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8", "shift_jis"])
def test_what_an_encoding_does_not_have_is_replaced(tmp_path: Path, encoding: str) -> None:
    """Also what no encoding has: a file's name that is no text."""
    script = (
        "import sys; from ray_synth import cli; from ray_synth.progress import Reporter; from ray_synth.runs import "
        "RunFolder\n"
        "def app(**_):\n"
        "    print('0.93', 'caf\\xe9', '\\u30d5', '\\udce9')\n"
        "    reporter = Reporter(); reporter.log_to(RunFolder(sys.argv[1])); reporter.say('caf\\xe9 \\u30d5 \\udce9')\n"
        "cli.app = app; cli.main()"
    )
    words = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding}, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"0.93 caf")
    assert b"?" in done.stdout
    assert (tmp_path / "log.txt").read_text(encoding="utf-8").endswith("caf\xe9 \u30d5 ?\n")
