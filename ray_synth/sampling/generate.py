"""A plan in, chunk files in the run folder out: an elastic pool of sampling actors, until every class has its quota."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from ray_synth.errors import WorkError
from ray_synth.generator.base import Batch, Generator, Origin, Parents, Sampler
from ray_synth.nodes import cluster_nodes
from ray_synth.runs import RunFolder
from ray_synth.sampling import attempts as notes
from ray_synth.sampling.attempts import Attempts
from ray_synth.sampling.batches import InBatches, joined, rows_of
from ray_synth.sampling.chunks import (
    FOLDER,
    SCORES,
    Chunk,
    Plan,
    Remaining,
    encoded,
    finished_chunks,
    rejected_counts,
    work_left,
    write_chunk,
)
from ray_synth.sampling.conditions import conditions
from ray_synth.sampling.filtering import build_filters
from ray_synth.sampling.pool import num_slots, over_pool
from ray_synth.torch_ops import keep_freed_memory

ROW = ("key", "label", "class_name", "prompt", "negative_prompt", "seed", "parent_key", "rejected")
NO_IMAGE = ("nan", "unreadable", "no_file", notes.REASON)
IN_FLIGHT = 2  # chunks of an actor: one that is sampled, one that is encoded and written, or waits
GPU_ENCODERS = 4  # threads
LISTING_SECONDS = 20.0  # between looks at what is there already
WARM_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that an actor must know."""

    url: str
    plan: Plan
    generator: Generator[Any]
    origin: Origin


class SampleChunks:
    """A Ray Data actor: loads the generator once, then turns chunk descriptions into chunk files.

    Two calls run at once: while one samples, the other filters, encodes and writes.
    """

    def __init__(self, job: Job, parents: Parents | None, device: str):
        self.job, self.parents = job, parents
        self.folder = RunFolder.on_worker(job.url)
        generator = job.generator
        sampler = generator.sampler(self.folder, parents, device)
        self.sampler = InBatches(sampler, generator.batch_size, pad=generator.pads_batches)
        self.filtered = build_filters(generator.generate.filter, generator.class_words, parents, device)
        self.sampling = threading.Lock()
        self.there: dict[tuple[int, int, int], Chunk] = {}
        self.listed = -math.inf
        # A GPU makes images faster than one thread encodes them; a CPU has its cores busy with sampling.
        self.encoders = ThreadPoolExecutor(GPU_ENCODERS if device == "cuda" else 1)

    def __call__(self, place: dict[str, int]) -> int:
        """label, start and stop of a chunk -> the number of images that it keeps."""
        chunk = self._make(Chunk(self.job.plan.chunk_digest[:12], place["label"], place["start"], place["stop"]))
        return len(chunk) - chunk.rejected

    def _made_already(self, chunk: Chunk) -> Chunk | None:
        """The chunk as another driver wrote it, or this task before a kill."""
        now = time.monotonic()
        if now - self.listed > LISTING_SECONDS:
            there = finished_chunks(self.folder, self.job.plan)
            self.there, self.listed = {(one.label, one.start, one.stop): one for one in there}, now
        return self.there.get((chunk.label, chunk.start, chunk.stop))

    def _make(self, chunk: Chunk) -> Chunk:
        made = self._made_already(chunk)
        if made is not None:
            return made
        job = self.job
        with self.sampling:
            sampled = sample_chunk(
                self.sampler,
                conditions(job.plan, chunk, job.generator, self.parents),
                Attempts(self.folder, chunk),
                chunk,
            )
        judged, generate = self.filtered(sampled), job.generator.generate

        def encode(image: np.ndarray, reason: str) -> bytes:
            return b"" if reason in NO_IMAGE else encoded(image, generate.format, generate.quality)

        origin = job.origin.each[job.plan.place(chunk.label)[0]] if job.origin.each else job.origin
        rows = {name: judged[name] for name in (*ROW, *SCORES) if name in judged} | {
            "image": list(self.encoders.map(encode, judged["image"], judged["rejected"])),
            "source": "synthetic",
            "model_id": origin.model_id,
            "model_revision": origin.model_revision,
            "model_license": origin.model_license,
            "cluster": None,
        }
        return write_chunk(self.folder, chunk, rows)


def sample_chunk(sampler: Sampler, batch: Batch, attempts: Attempts, chunk: Chunk) -> Batch:
    """Sample the rows of a chunk, without those that end their worker."""
    alone: dict[int, Batch] = {}
    if attempts.suspected:
        for index in attempts.to_try(chunk):
            row = index - chunk.start
            with attempts.in_hand(index):
                alone[index] = sampler(rows_of(batch, row, row + 1))
    deadly = attempts.deadly
    parts: list[Batch] = []
    alive = [row for row in range(len(chunk)) if chunk.start + row not in deadly]
    if attempts.only_alone and alone:
        parts += [alone[chunk.start + row] for row in alive]
        attempts.close()
    elif alive:
        with attempts.in_hand():
            parts.append(sampler({name: [column[row] for row in alive] for name, column in batch.items()}))
    if not deadly:
        return joined(parts)
    dead = [row for row in range(len(chunk)) if row not in alive]
    lost = {name: [column[row] for row in dead] for name, column in batch.items()}
    parts.append({**lost, "image": [None] * len(dead), "rejected": [notes.REASON] * len(dead)})
    everything = joined(parts)
    order = np.argsort(everything["index"])
    return {name: [column[i] for i in order] for name, column in everything.items()}


def generate_chunks(
    folder: RunFolder,
    job: Job,
    parents: Parents | None,
    *,
    progress: Callable[[int], None] = lambda images: None,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Make every chunk of the plan. Ray must be up. Workers write the files: images never pass through Ray's memory.

    Raises:
        WorkError: a class that keeps fewer images than asked after `max_attempts`; what is finished stays.
    """
    work = work_left(finished_chunks(folder, job.plan), job.plan)
    if work.missing:
        _say_how_long(job, parents, work, say)
    while work.missing:
        items = [{"label": c.label, "start": c.start, "stop": c.stop} for c in _from_somewhere(work.missing)]
        for kept in over_pool(
            items,
            SampleChunks,
            (job,),
            parents,
            pool=job.generator.generate.pool,
            gpus_per_actor=job.generator.generate.gpus_per_actor,
            concurrent=IN_FLIGHT,
        ):
            progress(kept)
        before, work = work, work_left(finished_chunks(folder, job.plan), job.plan)
        if work.missing == before.missing:
            raise WorkError(f"{len(work.missing)} chunk(s) were made and are not in {folder.url}/{FOLDER}")
        if work.missing:
            say(f"generate: {work.num_images:,} more images in place of rejected ones")
    for name in folder.list(notes.FOLDER):  # of chunks that another driver finished
        folder.remove(f"{notes.FOLDER}/{name}")
    if work.short:
        raise WorkError(_shortfall(folder, job, work))


def _from_somewhere(chunks: list[Chunk]) -> list[Chunk]:
    """The same chunks, begun anywhere: two drivers on one folder then find each other's chunks made."""
    first = time.monotonic_ns() % len(chunks)
    return chunks[first:] + chunks[:first]


def _shortfall(folder: RunFolder, job: Job, work: Remaining) -> str:
    counts, _ = rejected_counts(folder, job.plan, listed=0)
    label = min(work.short, key=lambda one: work.short[one])
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in counts.items())
    others = f" (and {len(work.short) - 1} more classes)" if len(work.short) > 1 else ""
    if job.generator.source:
        cure = f"add images to {job.generator.source}"
        if work.short[label]:
            cure += f", or type --set generate.images_per_class={work.short[label]}"
    else:
        cure = f"type --set generate.max_attempts={2 * job.plan.max_attempts}"
    wanted, (which, number) = job.plan.images_per_class[label], job.plan.place(label)
    whose = f"{job.plan.generators[which]}: " if job.plan.generators else ""
    return (
        f"{whose}class {job.generator.class_names[number]!r} kept {work.short[label]:,} of {wanted:,} images{others}; "
        f"rejected: {reasons}; relax generate.filter, or {cure}"
    )


def _say_how_long(job: Job, parents: Parents | None, work: Remaining, say: Callable[[str], None]) -> None:
    """How long a large model takes on CPUs, from a few steps of one image."""
    if not job.generator.slow_on_cpu:
        return
    nodes = cluster_nodes()
    if nodes.on_gpus:
        return
    import ray

    task = ray.remote(num_cpus=1)(seconds_per_image)
    seconds = ray.get(task.remote(job, ray.put(parents)))
    slots, _ = num_slots(nodes)
    actors = min(job.generator.generate.pool[1] if job.generator.generate.pool else slots, slots, len(work.missing))
    total = seconds * work.num_images / actors
    shown = f"{total:.0f} s" if total < 120 else f"{total / 60:.0f} min" if total < 7200 else f"{total / 3600:.1f} h"
    say(
        f"generate: no GPU here; {seconds:.2g} s an image on one CPU, so about {shown} for {work.num_images:,} images "
        f"on {actors} actor(s)"
    )


def seconds_per_image(job: Job, parents: Parents | None) -> float:
    """Measured on one image with few steps, and drawn out to all of them."""
    few = math.ceil(2 / job.generator.share_of_steps)
    batch = conditions(job.plan, Chunk(job.plan.chunk_digest[:12], 0, 0, 1), job.generator, parents)
    keep_freed_memory()

    def seconds(steps: int) -> float:
        sampler = job.generator.with_steps(steps).sampler(RunFolder(job.url), parents, "cpu")
        taken = 0.0
        for _ in range(2):  # what a first call costs more matters where it is quick
            start = time.perf_counter()
            sampler(batch)
            taken = time.perf_counter() - start
            if taken > WARM_SECONDS:
                break
        return taken

    fewer, more = seconds(few), seconds(2 * few)
    per_step = max(0.0, more - fewer) / few
    return max(fewer + per_step * (job.generator.generate.num_inference_steps - few), 1e-3)
