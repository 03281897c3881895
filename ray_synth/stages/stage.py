"""What a stage is: the one interface over which a run, its resume, the command line, a plan and the report iterate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from ray_synth.config import Experiment
from ray_synth.hardware.measure import Measure
from ray_synth.stages.inputs import Inputs
from ray_synth.tasks import Alternative, Tasks

if TYPE_CHECKING:
    from ray_synth.hardware.gpus import Gpu
    from ray_synth.stages.bench import Bench

Other = TypeVar("Other", bound="Stage")


class Stage(ABC):
    """One stage of one run. Asking it anything but `run` writes nothing.

    name: of the verb, the record and `seconds`. purpose: a sentence of the verb's help. needs: stages
    that are done before it. reads: those of them whose results its digest follows from; default all. named_by_content:
    the outputs' own names say of which settings they are. unit: what the bar counts; default tasks. keeps: small files
    that `submit` brings home. figures: files that are moved aside before a stage that they rest on is redone.
    concludes: with it summary.json is written.
    """

    name: ClassVar[str]
    purpose: ClassVar[str]
    needs: ClassVar[tuple[type[Stage], ...]] = ()
    reads: ClassVar[tuple[type[Stage], ...] | None] = None
    named_by_content: ClassVar[bool] = False
    unit: ClassVar[str | None] = None
    keeps: ClassVar[tuple[str, ...]] = ()
    figures: ClassVar[tuple[str, ...]] = ()
    concludes: ClassVar[bool] = False

    def __init__(self, inputs: Inputs, others: Mapping[type[Stage], Stage]):
        """others: the stages before it. Raises InputError for settings that it cannot work with."""
        self.inputs, self.experiment, self.folder = inputs, inputs.experiment, inputs.folder
        self.others = others

    def of(self, kind: type[Other]) -> Other:
        """A stage before this one."""
        stage = self.others[kind]
        assert isinstance(stage, kind)  # noqa: S101 - who made the mapping
        return stage

    # What it is.

    @classmethod
    def asked(cls, experiment: Experiment) -> bool:
        """Whether the file asks for it: all stages are, but for those that an experiment which distils has no use
        for."""
        return experiment.distill is None

    def _followed(self) -> list[Stage]:
        """The stages that its digest follows from, of those that the file asks for."""
        read = self.needs if self.reads is None else self.reads
        return [self.others[kind] for kind in read if kind in self.others]

    @property
    @abstractmethod
    def digest(self) -> str:
        """Of its settings and of the content that it reads; known once the stages in `reads` are complete."""

    @property
    @abstractmethod
    def outputs(self) -> tuple[str, ...]:
        """Files and folders of the run folder that it makes."""

    @property
    def sealed(self) -> Sequence[str]:
        """Files that the stage made and whose hashes are recorded once it is complete, beside files among the outputs.
        Not those that say themselves what they hold."""
        return ()

    def with_spoiled(self, files: Sequence[str]) -> Sequence[str]:
        """What is made anew with files of the stage that are not what they were; `run` makes what is missing."""
        record = self.folder.stage(self.name)
        return tuple(record.sha256) if record is not None else files

    @property
    def notes(self) -> Sequence[str]:
        """What a person should know before it starts."""
        return ()

    @property
    def overview(self) -> str | None:
        """A line for the head of a run and a dry run."""
        return None

    # What is left.

    @property
    def complete(self) -> bool:
        """Whether a run would leave it out."""
        if not all(stage.complete for stage in self._followed()):
            return False
        return self.folder.is_complete(self.name, self.digest) and self.ready

    @property
    def ready(self) -> bool:
        """False where the record may say complete, but more is asked for now."""
        return True

    @property
    def partly(self) -> bool:
        """Whether it is not complete, and yet has something to say in the summary and to the stages after it."""
        return False

    @property
    def begun(self) -> bool:
        """Whether what lies in the run folder is of these settings."""
        record = self.folder.stage(self.name)
        known = all(stage.complete for stage in self._followed())
        return record is not None and known and record.digest == self.digest

    @abstractmethod
    def tasks(self) -> Sequence[Tasks]:
        """What is left to do, from what lies in the run folder; where results of stages before it are not there yet,
        as it will probably be. A resume does these, a bar counts them, a plan prices them."""

    @property
    @abstractmethod
    def plan(self) -> str:
        """What it will do, with counts."""

    @property
    def done(self) -> int:
        """What of the bar is done already."""
        return 0

    @property
    def total(self) -> int:
        """What the bar counts to."""
        groups = self.tasks()
        if self.unit is not None:
            return self.done + round(sum(group.total(self.unit) for group in groups))
        return self.done + sum(len(group.tasks) for group in groups if not group.once)

    @property
    def gpu_bytes(self) -> int | None:
        """What one worker takes of the memory of `inputs.gpu`; None where that is not known."""
        return None

    @property
    def lacking(self) -> str:
        """Where that is more than there is: so, and what to type."""
        return ""

    @property
    def caveats(self) -> Sequence[str]:
        """What its tasks leave out or take for granted."""
        return ()

    # What it does.

    @abstractmethod
    def run(self, advance: Callable[[int], None]) -> None:
        """Do what is left. advance: takes how much of the bar is done."""

    def result(self) -> Any:
        """What its verb gives and shows, once it is complete."""
        return {"stage": self.name, "folder": self.folder.url}

    def show(self) -> None:  # noqa: B027 - most show nothing
        """Print what it found on standard output, once it is complete."""

    def summary(self) -> Mapping[str, Any]:
        """What it says in summary.json, once it is complete."""
        return {}

    # What it takes.

    def published(self, gpu: Gpu) -> Mapping[str, Measure]:
        """Seconds of its units on a GPU, from what is published."""
        return {}

    def calibrate(self, bench: Bench) -> None:  # noqa: B027 - a stage may take no time
        """Measure its units on this machine, from short pieces of its own code."""

    def measured_with(self) -> Mapping[str, str | int]:
        """What measured seconds hold for: digests, which must be the same, and numbers of images, nearly so."""
        return {}

    def alternative(self) -> Alternative | None:
        """What could be done in place of its tasks, for what is saved by that."""
        return None
