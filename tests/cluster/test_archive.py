"""Results through a job's log: what comes back is what was there, and nothing else is written."""

from __future__ import annotations

import base64
import io
import tarfile
from pathlib import Path

import pytest

from ray_synth.cluster.archive import BEGIN, END, packed, unpack
from ray_synth.errors import WorkError
from ray_synth.runs import RunFolder


def test_results_come_back_as_they_were(tmp_path: Path) -> None:
    there = RunFolder(tmp_path / "there")
    contents = {
        "report.html": b"<p>\xff",
        "summary.json": b"{}",
        "sweep/trials.csv": b"trial_id\n",
        "synthetic/a": b"x",
    }
    for name, data in contents.items():
        there.write(name, data)
    names = unpack(f"a line before\n{packed(there)}\nand after", tmp_path / "here")
    assert sorted(names) == ["report.html", "summary.json", "sweep/trials.csv"]
    assert all((tmp_path / "here" / name).read_bytes() == contents[name] for name in names)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../evil.html", tarfile.REGTYPE),
        ("/tmp/evil.html", tarfile.REGTYPE),  # noqa: S108
        ("sweep/../../evil", tarfile.REGTYPE),
        ("report.html", tarfile.SYMTYPE),
        ("summary.json", tarfile.LNKTYPE),
        ("other.py", tarfile.REGTYPE),
    ],
)
def test_an_archive_that_leads_elsewhere_is_refused_whole(tmp_path: Path, name: str, kind: bytes) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        good, bad = tarfile.TarInfo("metrics.json"), tarfile.TarInfo(name)
        bad.type, bad.linkname = kind, "/etc/passwd"
        archive.addfile(good)
        archive.addfile(bad)
    text = f"{BEGIN}\n{base64.b64encode(buffer.getvalue()).decode()}\n{END}"
    with pytest.raises(WorkError, match="refused"):
        unpack(text, tmp_path / "here")
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no archive", "holds no results"),
        (f"{BEGIN}\n!!\n{END}", "cannot be read"),
        (f"{BEGIN}\nAAAA\n{END}", "cannot"),
    ],
)
def test_a_log_without_results_is_said(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(WorkError, match=said):
        unpack(text, tmp_path)
