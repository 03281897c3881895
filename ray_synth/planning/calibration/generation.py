"""A generator's settings in; seconds of its training steps and of an image, sampled with all actors busy, out."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from ray_synth.config import Diffusion, StableDiffusion
from ray_synth.nodes import cluster_nodes
from ray_synth.planning.calibration.pieces import HERE, Pieces, some, spread
from ray_synth.planning.work import CHUNK_BYTES, image_side
from ray_synth.runs import RunFolder

GENERATOR_SECONDS, CHUNK_SECONDS = 5.0, 4.0  # that a piece is meant to take
ROUNDS, MOST_ROUNDS = 3, 20  # chunks of each actor
STAND_INS = 32  # images of a chunk that is read where none was sampled


def generator_steps(pieces: Pieces) -> None:
    settings = pieces.experiment.generator
    if not isinstance(settings, Diffusion):
        return
    begin = time.monotonic()
    from ray_synth.generator.finetune import finetune, finetuning

    images, seconds = pieces.run.inputs.splits.generator, []
    finetune(pieces.folder, images, settings.model_copy(update={"steps": 2}), seed=0)  # its weights sample below
    first = time.monotonic() - begin
    last, stop = time.monotonic(), time.monotonic() + GENERATOR_SECONDS
    for step in finetuning(RunFolder(f"{pieces.folder.url}/more"), images, settings, 0):
        now = time.monotonic()
        if step > 2:
            seconds.append(now - last)
        last = now
        if now > stop and len(seconds) >= 4:
            break
    each = float(np.mean(seconds)) if seconds else first / 2
    blocks = [float(part.mean()) for part in np.array_split(np.asarray(seconds), 4) if len(part)]
    pieces.note("generator_step", each, spread(blocks))
    pieces.note("generator_start", first - 2 * each, 0.2)


def sampling(pieces: Pieces) -> None:
    begin = time.monotonic()
    from ray_synth.sampling.generate import Job
    from ray_synth.sampling.pool import num_slots

    imports = time.monotonic() - begin
    e, nodes = pieces.experiment, cluster_nodes()
    pieces.slots, _ = num_slots(nodes, e.generate.gpus_per_actor)
    if not pieces.work.chunks:
        return
    job = Job(
        url=pieces.folder.absolute_url,
        plan=replace(pieces.run.images.plan, images_per_class=10**6),
        generator=pieces.run.model.generator.on_workers(),
        origin=pieces.run.model.origin,
    )
    parents = _parents(pieces)
    if isinstance(e.generator, StableDiffusion) and not nodes.on_gpus:
        _few_steps(pieces, job, parents)
    else:
        _chunks(pieces, job, parents, imports)


def _parents(pieces: Pieces) -> Any:
    """A few real images of the first class, described as the run would."""
    from ray_synth.generator.base import Parents
    from ray_synth.sampling.describe import described_parents

    settings, real = pieces.experiment.generator, pieces.run.inputs.splits.generator
    conditioned = isinstance(settings, StableDiffusion) and settings.uses_real_images
    if not conditioned and not pieces.experiment.generate.filter.near_copies:
        return None
    parents = Parents.of(real.take(np.flatnonzero(real.labels == 0)[:8]))
    if isinstance(settings, StableDiffusion) and conditioned:
        parts, captions = pieces.run.model.origin.parts, pieces.run.images.captions
        parents = described_parents(pieces.folder, parents, pieces.run.model.generator.on_workers(), captions, parts)
    return parents


def _few_steps(pieces: Pieces, job: Any, parents: Any) -> None:
    """Stable Diffusion on CPUs: what the run itself says beforehand, on all of them at once."""
    import ray

    from ray_synth.sampling.generate import seconds_per_image

    begin = time.monotonic()
    task, shared = ray.remote(num_cpus=1)(seconds_per_image), ray.put(parents)
    seconds = ray.get([task.remote(job, shared) for _ in range(pieces.slots)])
    taken = time.monotonic() - begin
    pieces.note("image", float(np.mean(seconds)), max(0.1, spread(seconds)), "measured here on few steps of one image")
    sampled = 12 / max(1, pieces.work.steps_per_image) * float(np.mean(seconds))  # two calls of 2 steps, two of 4
    loading = max(2.0, taken - sampled)
    pieces.note("pool_start", taken + loading, 0.3)  # the run measures this too, and then its actors start
    pieces.note("jitter", 0.05)


def _chunks(pieces: Pieces, job: Any, parents: Any, imports: float) -> None:
    """Whole chunks through the pool of actors as the run has it: filtered, encoded and written."""
    from ray_synth.sampling.chunks import FOLDER
    from ray_synth.sampling.generate import IN_FLIGHT, SampleChunks
    from ray_synth.sampling.pool import over_pool

    items = _items(pieces, job)
    size = items[0]["stop"] - items[0]["start"]
    begin, ends = time.monotonic(), []
    actors = min(pieces.slots, len(items), pieces.work.max_actors or pieces.slots)
    for _ in over_pool(
        items,
        SampleChunks,
        (job,),
        parents,
        pool=(actors, actors),
        gpus_per_actor=job.generator.generate.gpus_per_actor,
        concurrent=IN_FLIGHT,
    ):
        ends.append(time.monotonic() - begin)
    over = time.monotonic() - begin
    chunk, sigma, jitter = chunk_seconds(ends, actors)
    pieces.note("image", chunk / size, sigma)
    pieces.note("pool_start", imports + max(0.0, ends[0] - chunk) + over - ends[-1], 0.2)
    pieces.note("jitter", min(0.5, max(0.02, jitter)))
    names = pieces.folder.list(FOLDER)
    total = sum(os.path.getsize(pieces.folder.path(f"{FOLDER}/{name}")) for name in names)
    pieces.image_bytes = max(1.0, (total - CHUNK_BYTES * len(names)) / (len(names) * size))


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


def _items(pieces: Pieces, job: Any) -> list[dict[str, int]]:
    """Chunks for every actor: smaller ones where a whole one would take too long, more where it is over at once."""
    e, plan = pieces.experiment, job.plan
    size = min(e.generate.chunk_size, max(1, pieces.work.chunk_size))
    if plan.available is not None:
        size = max(1, min(size, *plan.available))
        return [{"label": k % plan.num_classes, "start": 0, "stop": size} for k in range(ROUNDS * pieces.slots)]
    rounds = ROUNDS
    if isinstance(e.generator, Diffusion):
        image = _image_guess(pieces, job)
        size = max(1, min(size, int(CHUNK_SECONDS / image)))
        rounds = max(ROUNDS, min(MOST_ROUNDS, int(CHUNK_SECONDS / (image * size))))
    return [{"label": 0, "start": k * size, "stop": (k + 1) * size} for k in range(rounds * pieces.slots)]


def _image_guess(pieces: Pieces, job: Any) -> float:
    """Seconds of one image of the pixel model in a small batch, in this process."""
    from ray_synth.sampling.chunks import Chunk
    from ray_synth.sampling.conditions import conditions

    sampler = job.generator.with_steps(2).sampler(pieces.folder, None, "cpu")
    batch = conditions(job.plan, Chunk(job.plan.chunk_digest[:12], 0, 0, 8), job.generator, None)
    sampler(batch)
    begin = time.monotonic()
    sampler(batch)
    return max(1e-6, (time.monotonic() - begin) / 2 / 8 * job.generator.generate.num_inference_steps)


def reading(pieces: Pieces) -> None:
    """A chunk's images, decoded by as many threads as the driver has for whatever stage looks at them first."""
    if not pieces.work.readers:
        return
    import pyarrow.parquet as pq

    from ray_synth.data.decoding import unified
    from ray_synth.sampling.chunks import FOLDER, READERS, _decoded

    folder, name, origin = _some_chunk(pieces)

    def read(_: int) -> int:
        with folder.open(f"{FOLDER}/{name}") as file:
            rows = pq.read_table(file, columns=["key", "rejected", "image"]).to_pylist()
        for row in rows:
            if row["image"]:
                unified(_decoded(row["image"]), pieces.sizes.shape, crop=pieces.experiment.data.crop)
        return len(rows)

    begin = time.monotonic()
    with ThreadPoolExecutor(READERS) as pool:
        images = sum(pool.map(read, range(min(READERS, os.cpu_count() or 1))))
    pieces.note("read_image", (time.monotonic() - begin) / max(images, 1), 0.2, origin)


def _some_chunk(pieces: Pieces) -> tuple[RunFolder, str, str]:
    """Where it lies, its name, and what it is: one that was sampled now or by the run, or real images as large as
    generated ones where sampling even one chunk would take too long."""
    from ray_synth.sampling.chunks import FOLDER, SCHEMA, Chunk, encoded, finished_chunks, write_chunk

    made = pieces.folder.list(FOLDER)
    if made:
        return pieces.folder, made[0], HERE
    there = finished_chunks(pieces.run.folder, pieces.run.images.plan)
    if there:
        return pieces.run.folder, there[0].name, HERE
    from ray_synth.data.decoding import unified

    e, side = pieces.experiment, image_side(pieces.experiment, pieces.sizes)
    shape, real = (side, side, pieces.sizes.shape[2]), some(pieces.run.inputs.splits.train, STAND_INS)
    pixels = real.images[..., 0] if shape[2] == 1 else real.images
    images = [encoded(unified(image, shape), e.generate.format, e.generate.quality) for image in pixels]
    numbers = {"label": 0, "seed": 0, "cluster": None}
    rows = {**dict.fromkeys(SCHEMA.names, ""), **numbers, "image": images}
    chunk = write_chunk(pieces.folder, Chunk("0" * 12, 0, 0, len(images)), rows)
    return pieces.folder, chunk.name, f"{HERE} on real images of {side} pixels a side"
