"""The run folder: bytes in by atomic writes, and which stages are complete, by digest and never by time stamp."""

from __future__ import annotations

import datetime
import errno
import hashlib
import json
import math
import os
import re
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import known_implementations
from pydantic import Field

from ray_synth.config import FORMAT, Experiment, digest
from ray_synth.config.yaml import as_yaml, read_yaml
from ray_synth.errors import InputError, Spoiled, WorkError
from ray_synth.records import record, unreadable

# What can be written to, and what must be installed for it. The rest of fsspec's are archives, caches and what is read.
SCHEMES: dict[str, str | None] = {
    "s3": "'ray_synth[s3]'", "s3a": "'ray_synth[s3]'", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs",
    "oss": "ossfs", "oci": "ocifs", "hdfs": None, "webhdfs": None, "sftp": "paramiko", "ssh": "paramiko",
    "smb": "smbprotocol", "file": None, "local": None, "memory": None,
}  # fmt: skip
Names = list[str]  # in RunFolder, `list` is its method
Seconds = Annotated[float, Field(ge=0, le=1e9)]
T = TypeVar("T")
TRIES = 3  # of a write, each of which may be swept away
GONE = (errno.ENOENT, errno.ESTALE)
_ASIDE = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """What `stages/NAME.json` holds. sha256: of the files that the stage made, by their names in the run folder."""

    digest: str
    complete: bool
    outputs: tuple[str, ...]
    seconds: Seconds = 0.0
    sha256: Mapping[str, str] = field(default_factory=dict)


class RunFolder:
    """A folder at a local path or any fsspec URL. Files appear whole (rename, or one PUT) or not at all."""

    def __init__(self, url: str | os.PathLike[str]):
        self.url = os.fspath(url)
        _check_scheme(self.url)
        try:
            self.fs, root = fsspec.core.url_to_fs(self.url)
            self.root = root.rstrip("/")
        except Exception as error:  # whatever a file system makes of an address, a package or an account that is amiss
            scheme = self.url.partition("://")[0]
            package = SCHEMES.get(scheme)
            missing = isinstance(error, ImportError) and package is not None
            cure = f"type pip install {package}" if missing else "give a folder of this machine, or another address"
            raise InputError(f"output folder {self.url} cannot be used: {_one_line(error)}; {cure}") from None
        self.is_local = isinstance(self.fs, LocalFileSystem)
        # For workers, whose current folder is another one.
        self.absolute_url = self.root if self.is_local else self.url
        self._seen: dict[str, tuple[str, str | None]] = {}  # file -> its hash, and the version that it was taken of

    @classmethod
    def on_worker(cls, url: str) -> RunFolder:
        """The run folder as a worker finds it. Raises InputError on a machine that does not see it."""
        folder = cls(url)
        if folder.is_local and not os.path.isdir(folder.root):
            raise InputError(
                f"output folder {url} is not on {socket.gethostname()}, where a part of the work is done; "
                "type --out s3://BUCKET/runs/NAME, or a folder of a disk that all nodes share"
            )
        return folder

    def check_reachable(self) -> None:
        """Raise InputError where nobody answers, or not to us, or where workers would not find it."""
        if self.fs.protocol == "memory":
            raise InputError(
                f"output folder {self.url} is in the memory of one process, and several work on a run; give a folder"
            )
        self._check_name()
        if self.is_local:
            return
        try:
            self.fs.info(self.root)
        except FileNotFoundError:
            return
        except Exception as error:
            raise InputError(
                f"output folder {self.url} cannot be reached: {_one_line(error)}; see that the address is right and "
                "that this account may write there"
            ) from None

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def exists(self, name: str) -> bool:
        return bool(self.fs.exists(self.path(name)))

    def version(self, name: str) -> str | None:
        """Another word whenever a file was written again; None where there is none."""
        self.fs.invalidate_cache(self.path(name))
        return str(self.fs.checksum(self.path(name))) if self.exists(name) else None

    def size(self, name: str) -> int:
        """Bytes of a file."""
        return int(self.fs.size(self.path(name)))

    def read(self, name: str) -> bytes:
        return bytes(self.fs.cat_file(self.path(name)))

    def open(self, name: str) -> Any:
        """A file to read parts of: a parquet file's columns, without its images."""
        return self.fs.open(self.path(name), "rb")

    def read_json(self, name: str) -> Any:
        """Raises Spoiled for a file that is not JSON, or holds a number that is none."""
        try:
            return json.loads(self.read(name), parse_constant=_number, parse_float=_number)
        except (ValueError, RecursionError, IsADirectoryError) as error:
            raise Spoiled(unreadable(f"{self.url}/{name}", error), name) from None

    def read_record(self, name: str, kind: type[T]) -> T:
        """A file of JSON as a value, its types checked. Raises Spoiled for one that holds something else."""
        try:
            return record(kind, self.read_json(name), f"{self.url}/{name}")
        except InputError as error:
            raise Spoiled(str(error), name) from None

    def sha256(self, name: str) -> str | None:
        """Of a file's bytes; None where there is none. On an object store a file is read once, whoever else writes."""
        version = self.version(name) if self.is_local or name not in self._seen else self._seen[name][1]
        if version is None or not self.fs.isfile(self.path(name)):
            return None
        if self._seen.get(name, ("", None))[1] != version:
            with self.open(name) as file:
                self._seen[name] = hashlib.file_digest(file, "sha256").hexdigest(), version
        return self._seen[name][0]

    def files(self, folder: str) -> Names:
        """Names of all files in a subfolder and below, sorted; what is still being written is left out."""
        self.fs.invalidate_cache(self.path(folder))
        found = (str(path)[len(self.root) + 1 :] for path in self.fs.find(self.path(folder)))
        return sorted(name for name in found if not name.rsplit("/", 1)[-1].startswith("."))

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole: aside and renamed on a disk, one PUT on an object store."""
        self._forget(name)
        if not self.is_local:
            self.fs.pipe_file(self.path(name), data)
            return
        for left in reversed(range(TRIES)):
            try:
                self._put(name, data)
                return
            except OSError as error:  # swept away by a driver that thought it a killed one's
                if error.errno not in GONE or not left:
                    raise

    def _put(self, name: str, data: bytes) -> None:
        path = self.path(name)
        folder, base = os.path.split(path)
        os.makedirs(folder, exist_ok=True)
        aside = os.path.join(folder, f".{base}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            with open(aside, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise WorkError(f"no space left for {self.url}/{name}; make room on that disk") from None
            raise
        finally:
            with suppress(OSError):  # most often it has its name by now
                os.unlink(aside)

    def _sweep(self) -> None:
        """Take away what writers left that were killed; whoever still writes then writes again."""
        for folder, _, names in os.walk(self.root) if self.is_local else ():
            for name in names:
                if _ASIDE.fullmatch(name):
                    with suppress(OSError):
                        os.unlink(os.path.join(folder, name))

    def write_json(self, name: str, value: Any) -> None:
        self.write(name, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())

    def append(self, name: str, text: str) -> None:
        """Add a line to a file; an object store rewrites it."""
        self._forget(name)
        if self.is_local:
            os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
            with open(self.path(name), "a", encoding="utf-8") as file:
                file.write(text)
        else:
            before = self.read(name) if self.exists(name) else b""
            self.fs.pipe_file(self.path(name), before + text.encode())

    def remove(self, name: str) -> None:
        self._forget(name)
        with suppress(FileNotFoundError):
            self.fs.rm_file(self.path(name))

    def _forget(self, name: str) -> None:
        for seen in [seen for seen in self._seen if seen == name or seen.startswith(f"{name}/")]:
            del self._seen[seen]

    def list(self, folder: str) -> list[str]:
        """Names of the finished files in a subfolder, sorted; what is still being written is left out."""
        path = self.path(folder)
        self.fs.invalidate_cache(path)
        if not self.fs.isdir(path):
            return []
        names = (str(entry).rsplit("/", 1)[-1] for entry in self.fs.ls(path, detail=False))
        return sorted(name for name in names if name and not name.startswith("."))

    def _check_name(self) -> None:
        if os.path.normpath(self.root or "/") == "/":
            raise InputError(f"output folder {self.url} is the root of all; give a folder below it, such as runs/NAME")

    def check_free_for(self, experiment: Experiment) -> None:
        """Raise InputError when the folder cannot be made or written, or holds something else. Writes nothing."""
        self._check_name()
        if self.is_local:
            nearest = self.root
            while not os.path.lexists(nearest):
                nearest = os.path.dirname(nearest)
            if not os.path.isdir(nearest):
                raise InputError(f"output folder {self.url} cannot be made: {nearest} is a file; choose another")
            if not os.access(nearest, os.W_OK | os.X_OK):
                raise InputError(f"output folder {self.url} is not writable; choose another with --out DIR")
        present = [name for name in self.list("") if name != "log.txt"]
        if "experiment.yaml" in present:
            noted = _noted(self.read("experiment.yaml"))
            if noted is None and present != ["experiment.yaml"] and not {"splits.json", "stages"} & set(present):
                raise InputError(
                    f"output folder {self.url} holds no run (found {present[0]}), and its experiment.yaml cannot be "
                    "read; choose another folder with --out DIR"
                )
            owner = experiment.name if noted is None else noted.get("name")
            if owner != experiment.name:
                raise InputError(
                    f"output folder {self.url} belongs to experiment {owner!r}, not {experiment.name!r}; "
                    "choose another folder with --out DIR"
                )
        elif present:
            raise InputError(
                f"output folder {self.url} is not empty and holds no experiment.yaml (found {present[0]}); "
                "choose another folder with --out DIR"
            )

    def open_for(self, experiment: Experiment) -> Names:
        """Claim the folder for an experiment, and write its resolved settings; older ones are kept in `stale/`.

        Returns the files of which an older version was kept, but for one that could not be read: `leave_old_format`
        tells of it. Raises InputError as `check_free_for`.
        """
        self.check_free_for(experiment)
        settings = experiment.model_dump(mode="json")
        text = as_yaml({"format": FORMAT, "digest": digest(experiment), **settings}).encode()
        try:
            if not self.exists("experiment.yaml"):
                self.write("experiment.yaml", text)
                return []
            before = self.read("experiment.yaml")
            if before == text:
                return []
            # Copied, not moved: a kill must not leave the folder without its owner.
            self.keep_copy("experiment.yaml", "experiment")
            self.write("experiment.yaml", text)
        except OSError as error:
            raise InputError(f"output folder {self.url} is not writable: {error.strerror or error}") from None
        return [] if _noted(before) is None else ["experiment.yaml"]

    def leave_old_format(self) -> str | None:
        """Move what another format of run folders left to `stale/`; a sentence that says so, or that nothing says which
        format it is. Its owner stays noted until `open_for` notes the new one."""
        if not self.exists("experiment.yaml"):
            return None
        noted = _noted(self.read("experiment.yaml"))
        if noted is None:  # of which settings the stages are stands in their own records
            return f"{self.url}/experiment.yaml cannot be read: kept in {self.url}/stale/, and written anew"
        before = noted.get("format", 1)
        kept = ("experiment.yaml", "log.txt", "stale")
        moved = [] if before == FORMAT else self.set_aside([n for n in self.list("") if n not in kept], "format")
        if not moved:
            return None
        return (
            f"{self.url} is of run folder format {before}, and this version writes {FORMAT}: moved what it held to "
            f"{self.url}/stale/; it is made anew"
        )

    def keep_copy(self, name: str, label: str) -> None:
        """A file as it is to `stale/<label>-<time>/`, before it is written anew."""
        self.write(f"stale/{label}-{_stamp()}/{name}", self.read(name))

    def set_aside(self, names: Sequence[str], label: str) -> Names:
        """Move files or subfolders to `stale/<label>-<time>/`; nothing is ever deleted."""
        present = [name for name in names if self.exists(name)]
        if not present:
            return []
        stamp = _stamp()
        for name in present:
            self._forget(name)
            target = self.path(f"stale/{label}-{stamp}/{name}")
            if self.is_local:
                os.makedirs(os.path.dirname(target), exist_ok=True)
                os.replace(self.path(name), target)
            else:
                self.fs.mv(self.path(name), target, recursive=True)
        return present

    def stage(self, name: str) -> StageRecord | None:
        """The record of a stage; None where there is none that can be read."""
        try:
            return self.read_record(_record(name), StageRecord)
        except (FileNotFoundError, Spoiled):
            return None

    def torn_records(self) -> Names:
        """Files that should hold the records of stages, and do not."""
        names = [file.removesuffix(".json") for file in self.list("stages") if file.endswith(".json")]
        return [_record(name) for name in names if self.stage(name) is None]

    def is_complete(self, name: str, stage_digest: str) -> bool:
        """Whether a stage is done with these settings, and what it made is there and as it was."""
        record = self.stage(name)
        return (
            record is not None
            and record.complete
            and record.digest == stage_digest
            and all(self.exists(output) for output in record.outputs)
            and not self.spoiled(name)
        )

    def spoiled(self, name: str) -> Names:
        """Of the files that a complete stage made, those that are not what they were, or not there."""
        record = self.stage(name)
        if record is None or not record.complete:
            return []
        return [file for file, known in record.sha256.items() if self.sha256(file) != known]

    def reseal(self, name: str, files: Sequence[str]) -> None:
        """Note the hashes of files that were written after their stage was complete."""
        record = self.stage(name)
        if record is not None and record.complete:
            self.write_json(_record(name), asdict(replace(record, sha256={**record.sha256, **self._hashes(files)})))

    def _hashes(self, files: Sequence[str]) -> dict[str, str]:
        found = {file: self.sha256(file) for file in files}
        return {file: known for file, known in found.items() if known is not None}

    @contextmanager
    def working_on(
        self,
        name: str,
        stage_digest: str,
        outputs: Sequence[str],
        *,
        named_by_content: bool = False,
        sealed: Callable[[], Sequence[str]] = tuple,
    ) -> Iterator[Names]:
        """Around the work of a stage: outputs of other settings are moved aside first, completion is recorded last.

        Outputs without any record are of unknown settings too, unless their names say what they are.

        sealed: asked at the end for files whose hashes are recorded, beside those among the outputs.

        Yields what was moved aside. A kill in between leaves the record open, and the next start continues, and at the
        end takes away what a killed writer left of a file.
        """
        before = self.stage(name)
        ours = named_by_content if before is None else before.digest == stage_digest
        moved = [] if ours else self.set_aside(outputs, name)
        spent = before.seconds if before is not None and before.digest == stage_digest else 0.0
        record = StageRecord(digest=stage_digest, complete=False, outputs=tuple(outputs), seconds=spent)
        self.write_json(_record(name), asdict(record))
        start = time.monotonic()
        yield moved
        self._sweep()
        seconds, hashes = round(spent + time.monotonic() - start, 3), self._hashes([*outputs, *sealed()])
        self.write_json(_record(name), asdict(replace(record, complete=True, seconds=seconds, sha256=hashes)))


def _record(stage: str) -> str:
    return f"stages/{stage}.json"


def _number(text: str) -> float:
    """Of JSON. Raises ValueError for NaN and for what is infinite."""
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is no finite number")
    return value


def _check_scheme(url: str) -> None:
    """Raise InputError for an address that nothing can be written to, by what stands before its `://`."""
    remote = ", ".join(f"{scheme}://" for scheme in SCHEMES if scheme not in ("file", "local", "memory"))
    scheme, found, rest = url.partition(":/")
    known = scheme in known_implementations or scheme in SCHEMES
    if found and known and not rest.startswith("/"):
        raise InputError(f"output folder {url} lacks a slash; type --out {scheme}://{rest}, or ./{url} for a folder")
    if "::" in url or (found and rest.startswith("/") and known and scheme not in SCHEMES):
        raise InputError(f"output folder {url} cannot be written to; give a folder of this machine, or one of {remote}")
    if "\0" in url or not url:
        raise InputError(f"output folder {url!r} is no name of a folder; type --out runs/NAME")


def _one_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _stamp() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S%f")


def _noted(text: bytes) -> dict[str, Any] | None:
    """What an experiment.yaml says; None where it is torn."""
    try:
        found = read_yaml(text.decode())
    except (InputError, UnicodeDecodeError):
        return None
    whole = isinstance(found, dict) and isinstance(found.get("name"), str) and type(found.get("format", 1)) is int
    return found if whole else None
