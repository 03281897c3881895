"""An experiment file in, a Ray job on a cluster out: sent, followed, found again, stopped, its results fetched.

A job that is run again continues from its run folder, so nothing here has to be remembered: the name of a job is a
function of what it does, and the same words find it.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import shlex
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray_synth
from ray_synth.cluster import archive
from ray_synth.cluster.working_tree import WorkingTree, read_working_tree
from ray_synth.config import digest
from ray_synth.errors import InputError, WorkError
from ray_synth.progress import Reporter
from ray_synth.runs import RunFolder
from ray_synth.runtime import use_token
from ray_synth.stages import stages_until

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

ADDRESS = "http://127.0.0.1:8265"
SENT_FROM = "RAY_SYNTH_SENT_FROM"  # in a job's environment: the versions at the other end, as JSON
LOOK_EVERY = 2.0  # seconds between two looks at a job
PATIENCE = 300.0  # seconds that a cluster may be silent
PORT_WITHIN = 15.0  # seconds until a port is there that has just been asked for
FETCHED = ("report.html", "summary.json")


@dataclass(frozen=True, kw_only=True)
class Command:
    """What is run there: `ray-synth VERB FILE --out OUT ...`."""

    verb: str
    experiment: str  # path below the working tree
    name: str  # of the experiment
    out: str
    options: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        return (self.verb, self.experiment, "--out", self.out, *self.options)

    @property
    def job(self) -> str:
        """The job's name: the same for the same words."""
        return f"{self.name}-{digest('job', list(self.words))[:10]}"


def versions() -> dict[str, str]:
    """What must be the same at both ends; of Python, the minor version."""
    import ray

    major, minor, _ = platform.python_version_tuple()
    return {"ray": ray.__version__, "python": f"{major}.{minor}", "ray_synth": ray_synth.__version__}


def check_versions(sent_from: str) -> None:
    """On the cluster: raise InputError where Ray, Python or this package are others than those that sent the job."""
    there, here = json.loads(sent_from), versions()
    differ = [
        f"{name} {here[name]} here, {there[name]} where the job was sent from"
        for name in here
        if here[name] != there.get(name)
    ]
    if differ:
        raise InputError(
            f"the cluster has other versions: {'; '.join(differ)}; bring both to the same ones (setup_commands and "
            "the image in cluster.yaml), then ray up again"
        )


def check_out(out: str) -> None:
    """Raise InputError for a URL with a password in it, which a job's record would show, and for a relative path."""
    if "://" not in out and not os.path.isabs(out):
        raise InputError(
            f"--out must be a URL or an absolute path, got {out!r}: a job's own folder is another one each time; type "
            "--out s3://BUCKET/runs/NAME, or a folder of a disk that all nodes share"
        )
    parts = urllib.parse.urlsplit(out)
    if parts.password or "secret" in parts.query.lower():
        raise InputError(
            f"--out must not hold a password, got {parts.scheme}://...@{parts.hostname}; the cluster's nodes have "
            "credentials of their own (an instance profile, or a file of the cloud's client)"
        )


class Cluster:
    """The jobs of one cluster, through the port of its dashboard."""

    def __init__(self, address: str | None, reporter: Reporter):
        """Raises InputError where nobody answers, or the token is another one."""
        self.address = address or os.environ.get("RAY_API_SERVER_ADDRESS") or ADDRESS
        self.reporter = reporter
        self.client = _connected(self.address)

    def find(self, job: str) -> JobDetails | None:
        """The latest attempt at a job."""
        jobs = [one for one in self._asked(self.client.list_jobs) if _is_attempt(one.submission_id, job)]
        return max(jobs, key=lambda one: int(str(one.submission_id).rsplit("-", 1)[1]), default=None)

    def send(self, command: Command, tree: WorkingTree) -> str:
        """Start the job, or find it running; its submission id."""
        before = self.find(command.job)
        if before is not None and _runs(before):
            self.reporter.say(f"{before.submission_id}: runs already; following it")
            return str(before.submission_id)
        attempt = int(str(before.submission_id).rsplit("-", 1)[1]) + 1 if before else 1
        size = f"{len(tree.files):,} files, {tree.num_bytes / 2**20:.1f} MB"
        self.reporter.say(f"{command.job}-{attempt}: sending {size} to {self.address}")
        for sentence in tree.kept_back():
            self.reporter.say(f"  {sentence}")
        environment = {SENT_FROM: json.dumps(versions()), "GOMP_SPINCOUNT": "1000"}
        with tempfile.TemporaryDirectory(prefix="ray_synth-job-") as folder:
            tree.copy_to(Path(folder))
            return self._submitted(
                entrypoint=shlex.join(("python", "-m", "ray_synth.cli", *command.words)),
                submission_id=f"{command.job}-{attempt}",
                runtime_env={"working_dir": folder, "env_vars": environment},
                metadata={"experiment": command.name, "out": command.out, "ray_synth": ray_synth.__version__},
            )

    def _submitted(self, **job: Any) -> str:
        """Start a job; a head that has only just begun takes none yet."""
        begun = time.monotonic()
        while True:
            try:
                return str(self.client.submit_job(**job))
            except Exception as error:
                if "No available agent" not in str(error) or time.monotonic() - begun > PATIENCE:
                    raise _refused(self.address, error) from error
            time.sleep(LOOK_EVERY)

    def follow(self, job: str) -> int:
        """Show what the job says until it ends; its exit code."""
        shown = 0
        for details, log in self._looks(job):
            lines = log.splitlines(keepends=True)
            whole = len(lines) if not _runs(details) or log.endswith("\n") else len(lines) - 1
            for line in lines[shown:whole]:
                self.reporter.say(line.rstrip("\n"))
            shown = max(shown, whole)
            if not _runs(details):
                return self._ended(details)
        raise AssertionError("a job ends, or is lost")

    def _looks(self, job: str) -> Iterator[tuple[JobDetails, str]]:
        """The job and its log, every few seconds, however often the connection breaks."""
        heard = time.monotonic()
        while True:
            try:
                # The log after the state: what is said last is in it then.
                details = self.client.get_job_info(job)
                yield details, self.client.get_job_logs(job)
                heard = time.monotonic()
            except Exception as error:
                if "does not exist" in str(error):
                    raise WorkError(
                        f"the cluster knows nothing of {job} any more: its head was started again; what is finished "
                        "lies in the run folder, and the same command sends the job again to continue"
                    ) from None
                if time.monotonic() - heard > PATIENCE:
                    raise WorkError(f"the cluster at {self.address} has been silent for {PATIENCE:.0f} s") from None
            time.sleep(LOOK_EVERY)

    def _ended(self, details: JobDetails) -> int:
        status = str(details.status)
        if status == "SUCCEEDED":
            return 0
        if status == "STOPPED":
            self.reporter.say(f"{details.submission_id}: was stopped; the same command continues it")
            return 1
        code = details.driver_exit_code
        if code is None or code not in (1, 2):  # it never came to speak, or was killed
            self.reporter.say(f"{details.submission_id}: {details.message}")
        return 2 if code == 2 else 1

    def stop(self, job: str) -> None:
        """Stop the latest attempt and wait until it has stopped."""
        found = self.find(job)
        if found is None or not _runs(found):
            raise InputError(f"no job {job} runs at {self.address}; its words must be those that it was submitted with")
        name = str(found.submission_id)
        self._asked(lambda: self.client.stop_job(name))
        while _runs(self._asked(lambda: self.client.get_job_info(name))):
            time.sleep(LOOK_EVERY / 4)
        self.reporter.say(
            f"{name}: stopped; what is finished is kept, and the same command without --stop continues it"
        )

    def fetch(self, out: str, to: Path) -> None:
        """Bring the small results here: from a bucket or a shared disk directly, where this machine sees it, else
        through a job's log. The run is complete, whatever becomes of that."""
        try:
            folder = RunFolder(out)
            if folder.is_local and all(folder.exists(name) for name in FETCHED):
                self.reporter.say(f"report: {out}/report.html")
                return
            names = [name for name in archive.kept_files() if not folder.is_local and folder.exists(name)]
            for name in names:
                RunFolder(to).write(name, folder.read(name))
        except Exception:  # no credentials for the bucket, or no client for it: the cluster has them
            names = []
        try:
            names = names or archive.unpack(self._results(out), to)
        except Exception as error:
            self.reporter.say(f"the run is complete in {out}; its report could not be brought here: {error}")
            return
        self.reporter.say(f"fetched {len(names)} files from {out}; report: {to}/report.html")

    def _results(self, out: str) -> str:
        """The log of a job that packs the results of a run folder on the cluster."""
        name = f"results-{digest('results', out, time.time())[:10]}-1"
        entrypoint = shlex.join(("python", "-m", "ray_synth.cli", "results", out))
        environment = {SENT_FROM: json.dumps(versions())}
        self._submitted(entrypoint=entrypoint, submission_id=name, runtime_env={"env_vars": environment})
        for details, log in self._looks(name):
            if not _runs(details):
                return log
        raise AssertionError("a job ends, or is lost")

    def _asked(self, call: Callable[[], Any]) -> Any:
        """An answer of the cluster, or what is wrong with the question in one sentence."""
        try:
            return call()
        except Exception as error:
            raise _refused(self.address, error) from error


def _connected(address: str) -> JobSubmissionClient:
    use_token()
    begun = time.monotonic()
    while True:
        try:
            from ray.job_submission import JobSubmissionClient

            client = JobSubmissionClient(address)
            for name in ("ray", "ray.dashboard.modules.dashboard_sdk"):
                logging.getLogger(name).setLevel(logging.WARNING)  # what it uploads is told here
            return client
        except Exception as error:
            if not isinstance(error, ConnectionError) or time.monotonic() - begun > PORT_WITHIN:
                raise _refused(address, error) from None
        time.sleep(LOOK_EVERY / 4)


def _refused(address: str, error: Exception) -> InputError:
    """What is wrong with a question to the cluster, in one sentence."""
    text = " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError) or "ray[default]" in text:
        return InputError("submit needs ray[default]; type pip install 'ray_synth[cluster]'")
    if isinstance(error, OSError):  # a ConnectionError is one
        return InputError(
            f"no cluster answers at {address}; start one with ray up cluster.yaml, and bring its port here with "
            "ray dashboard cluster.yaml (in another terminal), or type --address http://HOST:8265"
        )
    if "uthenti" in text or "nauthorized" in text or "oken" in text:
        return InputError(
            f"the cluster at {address} wants another token; put the one that it was started with into "
            "~/.ray/auth_token (ray get-auth-token shows it), or its path into RAY_AUTH_TOKEN_PATH"
        )
    return InputError(f"the cluster at {address} did not take the request: {text[:300]}")


def _is_attempt(submission_id: str | None, job: str) -> bool:
    name, _, attempt = str(submission_id).rpartition("-")
    return name == job and attempt.isdigit()


def _runs(details: JobDetails) -> bool:
    return str(details.status) in ("PENDING", "RUNNING")


def command_of(
    experiment: Path, out: str | None, overrides: Sequence[str], seed: int | None, verb: str, tree: Path
) -> Command:
    """The words for the cluster, once the file has been read here: wrong settings need no cluster to be found."""
    from ray_synth.config import load_experiment, parse_assignments

    settings = load_experiment(experiment, parse_assignments(overrides), seed=seed)
    if out is None:
        raise InputError(
            "--out is missing: the nodes of a cluster need a run folder that all of them see; "
            f"type --out s3://BUCKET/runs/{settings.name}, or a folder of a disk that they share"
        )
    check_out(out)
    try:
        inside = experiment.resolve().relative_to(tree.resolve()).as_posix()
    except ValueError:
        raise InputError(
            f"{experiment} must lie in the folder that is sent, {tree}; change to the folder that holds it"
        ) from None
    options = [word for text in overrides for word in ("--set", text)]
    options += [] if seed is None else ["--seed", str(seed)]
    return Command(verb=verb, experiment=inside, name=settings.name, out=out, options=tuple(options))


def _check_sent(experiment: str, tree: WorkingTree) -> None:
    """Raise InputError where the experiment file itself stays at home."""
    if experiment in tree.files:
        return
    if experiment in tree.secrets or experiment in tree.found:
        why = tree.found.get(experiment, "its name says that it opens something")
        raise InputError(f"{experiment} is not sent: {why}; if it opens nothing, type --allow {experiment}")
    raise InputError(f"{experiment} is not among the files that are sent (is it in .gitignore?)")


def submit(
    command: Command,
    reporter: Reporter,
    *,
    address: str | None = None,
    detach: bool = False,
    stop: bool = False,
    fetch: Path | None = None,
    allow: Sequence[str] = (),
    dry_run: bool = False,
) -> int:
    """Do what `ray-synth submit` does, with the folder that this process is in; the exit code of the run.

    Raises:
        InputError: wrong words, no cluster, another version, another token.
        WorkError: the cluster fell silent, or lost the job.
    """
    to = fetch or Path("runs") / f"{command.name}-cluster"
    if (to / "experiment.yaml").exists():
        raise InputError(
            f"{to} is a run folder of this machine, whose files fetched ones would replace; type --fetch DIR"
        )
    tree = read_working_tree(Path.cwd(), allow)
    _check_sent(command.experiment, tree)
    if dry_run:
        print("\n".join(tree.files))
        for sentence in tree.kept_back(None):
            reporter.say(f"{sentence}; --allow FILE sends one all the same")
        reporter.say(f"{command.job}: would send {len(tree.files):,} files, {tree.num_bytes / 2**20:.1f} MB")
        return 0
    cluster = Cluster(address, reporter)
    if stop:
        cluster.stop(command.job)
        return 0
    job = cluster.send(command, tree)
    again = "the same command follows it again, --stop ends it"
    if detach:
        reporter.say(f"{job}: runs there; {again}")
        return 0
    try:
        code = cluster.follow(job)
    except KeyboardInterrupt:
        reporter.say(f"{job}: runs on; {again}")
        raise
    if code == 0 and any(stage.concludes for stage in stages_until(None if command.verb == "run" else command.verb)):
        cluster.fetch(command.out, to)
    return code
