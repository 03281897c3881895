"""A generator in; seconds of an image, sampled with all actors busy, and of reading one back, out."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_synth.config import Generate
from ray_synth.hardware.machine import usable_cpus
from ray_synth.hardware.measure import NOTHING, spread
from ray_synth.nodes import cluster_nodes
from ray_synth.runs import RunFolder
from ray_synth.stages.bench import HERE, Bench, some

if TYPE_CHECKING:
    from ray_synth.generator.base import Generator, Parents
    from ray_synth.sampling.chunks import Plan
    from ray_synth.sampling.generate import Job

CHUNK_SECONDS = 4.0  # that a piece is meant to take
ROUNDS, MOST_ROUNDS = 3, 20  # chunks of each actor
STAND_INS = 32  # images of a chunk that is read where none was sampled


def measure_sampling(bench: Bench, job: Job, parents: Parents | None, settings: Generate, most: int) -> None:
    """Whole chunks through the pool of actors as the run has it; of a generator that is slow on CPUs a few steps.

    job: in the bench's folder. most: images of a chunk.
    """
    begin = time.monotonic()
    from ray_synth.sampling.pool import num_slots

    imports, nodes = time.monotonic() - begin, cluster_nodes()
    slots, _ = num_slots(nodes, settings.gpus_per_actor)
    bench.found["chunk"] = NOTHING  # an image's seconds hold it
    if job.generator.slow_on_cpu and not nodes.on_gpus:
        _few_steps(bench, job, parents, slots)
    else:
        _chunks(
            bench, job, parents, settings, _items(bench, job, min(settings.chunk_size, most), slots), slots, imports
        )


def _few_steps(bench: Bench, job: Job, parents: Parents | None, slots: int) -> None:
    """What the run itself says beforehand, on all CPUs at once."""
    import ray

    from ray_synth.sampling.generate import seconds_per_image

    begin = time.monotonic()
    task, shared = ray.remote(num_cpus=1)(seconds_per_image), ray.put(parents)
    seconds = ray.get([task.remote(job, shared) for _ in range(slots)])
    taken = time.monotonic() - begin
    bench.note("image", float(np.mean(seconds)), max(0.1, spread(seconds)), "measured here on few steps of one image")
    sampled = 12 / max(1, job.generator.denoising_steps) * float(np.mean(seconds))  # two calls of 2 steps, two of 4
    loading = max(2.0, taken - sampled)
    bench.note("pool_start", taken + loading, 0.3)  # the run measures this too, and then its actors start
    bench.note("jitter", 0.05)


def _chunks(
    bench: Bench,
    job: Job,
    parents: Parents | None,
    settings: Generate,
    items: list[dict[str, int]],
    slots: int,
    imports: float,
) -> None:
    """Filtered, encoded and written."""
    from ray_synth.sampling.chunks import CHUNK_BYTES, FOLDER
    from ray_synth.sampling.generate import IN_FLIGHT, SampleChunks
    from ray_synth.sampling.pool import over_pool

    size = items[0]["stop"] - items[0]["start"]
    begin, ends = time.monotonic(), []
    actors = min(slots, len(items), settings.pool[1] if settings.pool else slots)
    for _ in over_pool(
        items,
        SampleChunks,
        (job,),
        parents,
        pool=(actors, actors),
        gpus_per_actor=settings.gpus_per_actor,
        concurrent=IN_FLIGHT,
    ):
        ends.append(time.monotonic() - begin)
    over = time.monotonic() - begin
    chunk, sigma, jitter = chunk_seconds(ends, actors)
    bench.note("image", chunk / size, sigma)
    bench.note("pool_start", imports + max(0.0, ends[0] - chunk) + over - ends[-1], 0.2)
    bench.note("jitter", min(0.5, max(0.02, jitter)))
    names = bench.folder.list(FOLDER)
    total = sum(bench.folder.size(f"{FOLDER}/{name}") for name in names)
    bench.image_bytes = max(1.0, (total - CHUNK_BYTES * len(names)) / (len(names) * size))


def chunk_seconds(ends: Sequence[float], actors: int) -> tuple[float, float, float]:
    """Seconds of a chunk on one of several busy actors, their mean's sigma, and how far one chunk's logarithm is from
    another's. ends: when each chunk was there.

    The first round also holds what the actors took to start. Rounds of actors that begin together are as far from each
    other as single chunks are (simulated: .85 to 1 times as far, for up to eight actors).
    """
    rounds = [ends[min(i + actors, len(ends)) - 1] for i in range(0, len(ends), actors)]
    steady = np.diff(rounds)
    if not len(steady):
        return float(ends[-1]), 0.3, 0.0
    sigma = spread(steady.tolist())
    return float(steady.mean()), max(0.03, sigma), sigma * math.sqrt(len(steady))


def _items(bench: Bench, job: Job, size: int, slots: int) -> list[dict[str, int]]:
    """Chunks for every actor: smaller ones where a whole one would take too long, more where it is over at once."""
    plan = job.plan
    if plan.available is not None:
        there = [label for label, number in enumerate(plan.available) if number]
        size = min(size, *(plan.available[label] for label in there))
        return [{"label": there[k % len(there)], "start": 0, "stop": size} for k in range(ROUNDS * slots)]
    rounds = ROUNDS
    if not job.generator.slow_on_cpu:
        image = _image_guess(bench, job)
        size = max(1, min(size, int(CHUNK_SECONDS / image)))
        rounds = max(ROUNDS, min(MOST_ROUNDS, int(CHUNK_SECONDS / (image * size))))
    return [{"label": 0, "start": k * size, "stop": (k + 1) * size} for k in range(rounds * slots)]


def _image_guess(bench: Bench, job: Job) -> float:
    """Seconds of one image in a small batch of two steps, in this process."""
    from ray_synth.sampling.chunks import Chunk
    from ray_synth.sampling.conditions import conditions

    few = job.generator.with_steps(2)
    sampler = few.sampler(bench.folder, None, "cpu")
    batch = conditions(job.plan, Chunk(job.plan.chunk_digest[:12], 0, 0, 8), few, None)
    sampler(batch)
    begin = time.monotonic()
    sampler(batch)
    return max(1e-6, (time.monotonic() - begin) / 2 / 8 * max(1, job.generator.denoising_steps))


def measure_reading(bench: Bench, made: RunFolder, images: Plan, generator: Generator[Any]) -> None:
    """A chunk's images, decoded by as many threads as the driver has for whatever stage looks at them first.

    made: the run's own folder, and the images that it may hold.
    """
    from ray_synth.data.decoding import unified
    from ray_synth.sampling.chunks import READERS, picture, read_chunk

    folder, name, origin = _some_chunk(bench, made, images, generator)

    def read(_: int) -> int:
        images = read_chunk(folder, name, ["key", "rejected", "image"])["image"]
        for image in images:
            if image:
                unified(picture(image), bench.inputs.shape, crop=bench.inputs.experiment.data.crop)
        return len(images)

    begin = time.monotonic()
    with ThreadPoolExecutor(READERS) as pool:
        count = sum(pool.map(read, range(min(READERS, usable_cpus()))))
    bench.note("read_image", (time.monotonic() - begin) / max(count, 1), 0.2, origin)


def _some_chunk(bench: Bench, made: RunFolder, images: Plan, generator: Generator[Any]) -> tuple[RunFolder, str, str]:
    """Where it lies, its name, and what it is: one that was sampled now or by the run, or real images as large as
    generated ones where sampling even one chunk would take too long."""
    from ray_synth.sampling.chunks import FOLDER, SCHEMA, SCORES, Chunk, encoded, finished_chunks, write_chunk

    sampled = bench.folder.list(FOLDER)
    if sampled:
        return bench.folder, sampled[0], HERE
    there = finished_chunks(made, images)
    if there:
        return made, there[0].name, HERE
    from ray_synth.data.decoding import unified

    side, settings = generator.image_side, generator.generate
    shape, real = (side, side, bench.inputs.shape[2]), some(bench.inputs.splits.train, STAND_INS)
    pixels = real.images()[..., 0] if shape[2] == 1 else real.images()
    files = [encoded(unified(image, shape), settings.format, settings.quality) for image in pixels]
    numbers = {"label": 0, "seed": 0, "cluster": None}
    rows = {**dict.fromkeys(SCHEMA.names, ""), **dict.fromkeys(SCORES), **numbers, "image": files}
    chunk = write_chunk(bench.folder, Chunk("0" * 12, 0, 0, len(files)), rows)
    return bench.folder, chunk.name, f"{HERE} on real images of {side} pixels a side"
