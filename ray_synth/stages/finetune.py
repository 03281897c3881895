"""The generator's settings in, a generator that images can be sampled from out: what it is, and its training."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_synth.config import digest
from ray_synth.errors import InputError
from ray_synth.generator.adapter_files import FOLDER, SAMPLES, adapter_of, guidance_beside, history_file
from ray_synth.generator.artifacts import CHECKPOINT, CONFIG
from ray_synth.generator.artifacts import DIGEST as RECORD
from ray_synth.hardware.gpus import FORWARD_AND_BACK, Gpu
from ray_synth.hardware.measure import Measure, spread
from ray_synth.runs import RunFolder
from ray_synth.seeding import derive_seed
from ray_synth.stages.inputs import Inputs
from ray_synth.stages.stage import Stage
from ray_synth.tasks import ByTeam, InSlots, Task, Tasks

if TYPE_CHECKING:
    from ray_synth.generator.base import FitMemory, Origin, Parents
    from ray_synth.stages.bench import Bench

MEASURED_SECONDS = 5.0
SD_SIDE = 512  # pixels a side of what gpus.yaml's rates are of
FULL = 0.9  # of a GPU's memory: what CUDA, its kernels and gaps between tensors take beside is not counted
SEGMENTS = 10  # of a training, between which a kill loses nothing


class Finetune(Stage):
    """The generator of an experiment, and its training where this run trains it."""

    name = "finetune"
    purpose = "Train the generator"
    unit = "generator_step"

    def __init__(self, inputs: Inputs, others: Mapping[type[Stage], Stage]):
        """Raises InputError for a generator that cannot be used."""
        from ray_synth.sampling.filtering import check_filters

        super().__init__(inputs, others)
        self.generator = inputs.generator
        self._notes: list[str] = []
        if not inputs.described:
            check_filters(self.experiment.generate.filter)
            self._notes = self.generator.check()
            self._check_counts()

    def _check_counts(self) -> None:
        """Raise InputError for a class that there is nothing to train on."""
        lacking = np.flatnonzero(self.inputs.splits.generator.counts == 0)
        if self._parts and len(lacking):
            raise InputError(
                f"class {self.inputs.class_names[lacking[0]]!r} has no image among those that the generator is trained "
                "on; add some, or type --set data.generator_split=shared"
            )

    @property
    def notes(self) -> Sequence[str]:
        return self._notes

    @functools.cached_property
    def origin(self) -> Origin:
        """What the generator is: for one that this run trains, the digest of its settings and training images."""
        from ray_synth.generator.base import Origin

        e = self.experiment
        if self.inputs.described:
            return Origin(model_id="", model_revision="", model_license="", parts={})
        trained = digest("finetune", self.generator.fit_settings(), e.seed, self.inputs.digests["generator"])
        return self.generator.origin(trained)

    @functools.cached_property
    def _parts(self) -> Mapping[str, int]:
        """Steps of what is trained apart, by name."""
        return self.generator.fit_parts(self.inputs.splits.generator.counts)

    @property
    def _steps(self) -> int:
        return sum(self._parts.values())

    @property
    def _left(self) -> dict[str, int]:
        """Steps that are left of each part that is not trained yet."""
        begun = self.begun
        missing = {part: n for part, n in self._parts.items() if not (begun and self._trained(part))}
        return {part: n - (self.generator.fit_done(self.folder, part) if begun else 0) for part, n in missing.items()}

    def _trained(self, part: str) -> bool:
        return self.folder.exists(self.generator.fit_file(part))

    @property
    def digest(self) -> str:
        return digest("finetune", self.origin.model_revision, self.origin.parts)

    @property
    def outputs(self) -> tuple[str, ...]:
        return ("generator",)

    @property
    def sealed(self) -> Sequence[str]:
        # What images depend on: not the card, which may be edited, nor captions, which say themselves what they hold.
        near = [file for file in self.folder.files("generator") if file.count("/") == 1 or file.startswith(FOLDER)]
        return [file for file in near if file.endswith(".safetensors") or file in (CONFIG, RECORD)]

    def with_spoiled(self, files: Sequence[str]) -> Sequence[str]:
        """An adapter of one class is trained anew alone, with the guidance that belongs to it."""
        if not all(file.startswith(FOLDER) for file in files):
            return super().with_spoiled(files)
        adapters = {adapter_of(file) for file in files}
        return sorted({*adapters, *map(guidance_beside, adapters), *files, RECORD})

    @property
    def overview(self) -> str:
        return f"generator   {f'{self._steps:,} training steps' if self._steps else self.origin.model_id}"

    @property
    def ready(self) -> bool:
        return all(map(self._trained, self._parts)) if self._parts else self.folder.exists(RECORD)

    @property
    def done(self) -> int:
        """Of a training that was cut off."""
        return self._steps - sum(self._left.values())

    def tasks(self) -> Sequence[Tasks]:
        from ray_synth.training.team import WORKER_DEATHS

        left = self._left
        if not left:
            return ()
        tasks = tuple(Task(name=f"adapter {part}", takes={"generator_step": n}) for part, n in left.items())
        starts = {"generator_start": 1.0}
        if self.generator.fit_workers > 1:
            together = ByTeam(
                workers=self.generator.fit_workers,
                segments=SEGMENTS,
                deaths=WORKER_DEATHS,
                name="an adapter",
                workers_key="generator.finetune.num_workers",
                cause="adapters",
            )
            return (Tasks(tasks=tasks, way=together, starts=starts),)
        if len(self._parts) == 1:
            return (Tasks(tasks=(Task(name="generator", takes=tasks[0].takes),), starts=starts),)
        apart = InSlots(
            workers=1,
            gpus=1.0,
            most=None,
            window=len(tasks),
            segments=SEGMENTS,
            name="an adapter",
            workers_key="generator.finetune.adapters",
        )
        return (Tasks(tasks=tasks, way=apart, starts=starts),)

    @property
    def plan(self) -> str:
        if not self._steps:
            return f"nothing to train: {self.origin.model_id} as it is"
        images = len(self.inputs.splits.generator)
        batch = min(self.generator.fit_batch, images)
        left = self._left
        of = f"{len(left):,} adapters of the generator" if len(self._parts) > 1 else "the generator"
        several = len(left) > 1 or self.generator.fit_workers > 1
        held = f", {_gib(self.gpu_bytes)} of GPU memory{' each' if several else ''}" if self.gpu_bytes else ""
        return f"training {of} on {images:,} images: {sum(left.values()):,} steps of {batch}{held}"

    @functools.cached_property
    def _memory(self) -> FitMemory | None:
        if not self._parts or (gpu := self.inputs.gpu) is None:
            return None
        return self.generator.fit_memory(self.inputs.splits.generator.counts, gpu)

    @property
    def gpu_bytes(self) -> int | None:
        return self._memory.bytes if self._memory is not None else None

    @property
    def lacking(self) -> str:
        above = self._above(1.0)
        return "" if above and self.folder.stage(self.name) is not None and self.complete else above

    @property
    def caveats(self) -> Sequence[str]:
        above = self._above(FULL) if not self.complete else ""
        return (above,) if above else ()

    def _above(self, share: float) -> str:
        """What to type where training takes more than that share of the GPU's memory."""
        memory = self._memory
        if memory is None or (gpu := self.inputs.gpu) is None or memory.bytes <= (room := round(share * gpu.memory)):
            return ""
        parts = ", ".join(f"{name} {held / 2**30:.1f}" for name, held in memory.parts.items())
        ways = [
            f"{' '.join(f'--set {key}={str(value).lower()}' for key, value in changes.items())} ({_gib(held)})"
            for changes, held in memory.smaller(room)
        ]
        cure = f"type {', or '.join(ways)}" if ways else "take a GPU with more"
        what = "an adapter" if len(self._parts) > 1 else "the generator"
        return (
            f"training {what} takes {_gib(memory.bytes)} of GPU memory at batch {memory.batch} ({parts}), beside what "
            f"CUDA itself takes, and the {gpu.name} has {gpu.memory / 2**30:.1f} GiB; {cure}"
        )

    @property
    def total(self) -> int:
        return self._steps or 1

    def run(self, advance: Callable[[int], None]) -> None:
        generator, folder, origin = self.generator, self.folder, self.origin
        record: dict[str, Any] = {"model_id": origin.model_id, "model_revision": origin.model_revision}
        if not self._steps or origin.parts:
            record |= {"model_license": origin.model_license, **origin.parts}
        if self._steps:
            self._fit(advance)
            files = [hashlib.sha256(folder.read(generator.fit_file(part))).hexdigest() for part in self._parts]
            record["weights_sha256"] = files[0] if len(files) == 1 else digest(files)
            for name, text in generator.cards(origin, self.inputs.digests["generator"]).items():
                folder.write(name, text.encode())
        folder.write_json(RECORD, record)

    def _fit(self, advance: Callable[[int], None]) -> None:
        """Train what is left: one part in this process or beside a GPU, several in a pool of actors, or each part by a
        team."""
        from ray_synth.nodes import on_gpu_node
        from ray_synth.sampling.fitting import fit_one, fit_several, fit_together
        from ray_synth.training.checkpoint import refuse_torn

        refuse_torn(self.folder, CHECKPOINT)
        seed, images = derive_seed("finetune", self.experiment.seed), self.inputs.splits.generator
        parents = self.parents(self.folder) if self.generator.fits_parents else None
        generator = self.generator.on_workers()
        if len(self._parts) == 1 and generator.fit_workers == 1:
            for step in on_gpu_node(fit_one, generator, self.folder, images, seed, parents):
                advance(step)
            return
        left = self._left
        done = self._steps - sum(left.values())
        advance(done)
        if not left:
            return  # killed between the last of them and the record
        self.inputs.start_ray()
        arguments = (self.folder.absolute_url, generator, seed)
        if generator.fit_workers > 1:
            fit_together(arguments, list(left), images, parents, progress=lambda parts: advance(self._done_of(parts)))
            return
        for part in fit_several(arguments, list(left), images, parents, pool=self.experiment.generate.pool):
            done += left[part]
            advance(done)

    def _done_of(self, left: Sequence[str]) -> int:
        """Steps, where these parts are left and the first is being trained."""
        begun = self.generator.fit_done(self.folder, left[0]) if left else 0
        return self._steps - sum(self._parts[part] for part in left) + begun

    def parents(self, folder: RunFolder, *, of_class: tuple[int, int] | None = None) -> Parents:
        """The real images that the generator looks at, with their captions and embeddings, which are kept in a run
        folder. of_class: of one class alone, and so many."""
        from ray_synth.generator.base import Parents
        from ray_synth.sampling.describe import described_parents

        real = self.inputs.splits.generator
        if of_class is not None:
            real = real.take(np.flatnonzero(real.labels == of_class[0])[: of_class[1]])
        parents = Parents.of(real)
        if not self.generator.uses_real_images:
            return parents
        if self.generator.descriptions():
            self.inputs.start_ray()
        return described_parents(folder, parents, self.generator.on_workers(), self.captions, self.origin.parts)

    def histories(self) -> dict[str, list[dict[str, float | None]]]:
        """Losses while adapters were trained, by part."""
        names = {part: history_file(part) for part in self._parts}
        return {
            part: self.folder.read_record(name, list[dict[str, float | None]])
            for part, name in names.items()
            if self.folder.exists(name)
        }

    def samples(self) -> Mapping[str, bytes]:
        """Pictures of what the first adapter made, by step: at its first checkpoint, and at its end."""
        first = next(iter(self._parts), "")
        found = [name for name in self.folder.list(SAMPLES) if name.startswith(f"{first or 'all'}-")]
        steps = {name: str(int(name.split("-")[1].removesuffix(".png"))) for name in (*found[:1], *found[-1:])}
        return {step: self.folder.read(f"{SAMPLES}/{name}") for name, step in steps.items()}

    def check_captions(self) -> None:
        """Raise InputError for a file of captions that does not fit the real images."""
        _ = self.captions

    @functools.cached_property
    def captions(self) -> Mapping[str, str] | None:
        """Of the real images, by key, where a file has them."""
        return self.generator.captions(self.inputs.splits.generator, self.experiment.data.path)

    def published(self, gpu: Gpu) -> Mapping[str, Measure]:
        if not self._steps:
            return {}
        batch = min(self.generator.fit_batch, len(self.inputs.splits.generator))
        flops, note = self.generator.evaluation_flops(), f"batches of {batch}, forward and back"
        if flops:
            step = gpu.small_network(flops).times(FORWARD_AND_BACK * batch, note=note)
        else:  # rates are of guided steps, two evaluations each
            pixels = (self.generator.image_side / SD_SIDE) ** 2
            step = gpu.rates["step"].times(FORWARD_AND_BACK * batch * pixels / 2, note=note)
        return {"generator_start": gpu.overheads["generator_start"], "generator_step": step}

    def calibrate(self, bench: Bench) -> None:
        """The generator of two steps also makes the images that are measured afterwards."""
        if not self._steps or not bench.wants("generator_step", "image"):
            return
        from ray_synth.training.team import Team

        begin = time.monotonic()
        images, seconds = self.inputs.splits.generator, []
        parents = self.parents(bench.folder) if self.generator.fits_parents else None
        fit = self.generator.with_fit_steps(2).fitter(bench.folder, images, 0, parents, Team())
        one, *others = self._parts
        for _ in fit(one):
            pass
        first = time.monotonic() - begin
        for part in others:
            for _ in fit(part):
                pass
        last, stop = time.monotonic(), time.monotonic() + MEASURED_SECONDS
        for step in self.generator.fitter(RunFolder(f"{bench.folder.url}/more"), images, 0, parents, Team())(one):
            now = time.monotonic()
            if step > 2:
                seconds.append(now - last)
            last = now
            if now > stop and len(seconds) >= 4:
                break
        each = float(np.mean(seconds)) if seconds else first / 2
        blocks = [float(part.mean()) for part in np.array_split(np.asarray(seconds), 4) if len(part)]
        bench.note("generator_step", each, spread(blocks))
        bench.note("generator_start", max(first - 2 * each, 0.0), 0.2)


def _gib(count: int) -> str:
    return f"about {count / 2**30:.1f} GiB"
