"""cluster.yaml: valid for Ray, of one version with the package, and closed to whoever has no token."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ruamel.yaml import YAML

import ray_synth
from ray_synth.nodes import CLUSTER_FILE
from tests.conftest import ROOT

TEXT = (ROOT / "cluster.yaml").read_text()
LOCAL = "\n".join(line.removeprefix("# ") for line in TEXT[TEXT.index("# cluster_name:") :].splitlines())
FORMS = {name: YAML(typ="safe").load(text) for name, text in (("aws", TEXT), ("local", LOCAL))}


@pytest.mark.parametrize("form", FORMS)
def test_ray_takes_it(form: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(FORMS[form]))


def test_ray_would_not_take_another() -> None:
    from jsonschema.exceptions import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    with pytest.raises(ValidationError):
        validate_config(prepare_config({**FORMS["aws"], "idle_minutes": 5}))


@pytest.mark.parametrize("form", FORMS)
def test_every_port_asks_for_the_token_and_the_dashboard_stays_on_the_head(form: str) -> None:
    config: dict[str, Any] = FORMS[form]
    starts = [c for key in ("head", "worker") for c in config[f"{key}_start_ray_commands"] if "ray start" in c]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    file = re.search(r"--autoscaling-config=~/(\S+)", starts[0])
    assert file
    assert f"--labels={CLUSTER_FILE}={file[1]}" in starts[0]  # by which we find it
    assert [place for place in config["file_mounts"] if place.endswith("/.ray/auth_token")]
    assert {".git", "runs", ".aws", ".ssh"} <= set(config["rsync_exclude"])
    assert config["rsync_filter"] == [".gitignore"]
    assert {".env*", "*.pem", "*.key"} <= set((ROOT / ".gitignore").read_text().split())
    # Ray copies the head's key to the workers through the same rules.
    assert not [pattern for pattern in config["rsync_exclude"] if "pem" in pattern or "key" in pattern]


def test_there_is_one_version_of_ray_and_the_package_is_the_one_of_this_folder() -> None:
    versions = set(re.findall(r"(?:ray:|tune\]==)(\d+\.\d+\.\d+)", TEXT))
    assert len(versions) == 1
    low, high = re.search(r"ray\[data,train,tune\]>=([\d.]+),<([\d.]+)", (ROOT / "pyproject.toml").read_text()).groups()  # type: ignore[union-attr]
    numbers = [tuple(map(int, text.split("."))) for text in (low, *versions, high)]
    assert numbers[0] <= numbers[1] < numbers[2]
    mounted = [place for place, source in FORMS["aws"]["file_mounts"].items() if source == "."]
    assert f"{mounted[0]}[s3,cluster]" in FORMS["aws"]["setup_commands"][0]
    assert f'version = "{ray_synth.__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_what_must_be_changed_is_named_at_the_top() -> None:
    top, rest = TEXT.split("cluster_name:", 1)
    named, marked = set(re.findall(r"\((\d)\) ", top)), set(re.findall(r"# \((\d)\)", rest))
    assert named >= {"1", "2", "3"}
    assert marked == {"1", "2", "3"}
