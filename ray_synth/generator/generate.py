"""Missing chunks in, chunk files in the run folder out: Ray Data fans them out over a pool of sampling actors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ray_synth.config import Generate, Generator
from ray_synth.generator.chunks import Chunk, write_chunk
from ray_synth.runs import RunFolder
from ray_synth.seeding import image_seed


class SampleChunks:
    """A Ray Data actor: loads the generator once, then turns chunk descriptions into chunk files."""

    def __init__(
        self,
        url: str,
        generator: Generator,
        generate: Generate,
        generator_digest: str,
        class_names: Sequence[str],
        device: str,
    ):
        from ray_synth.generator.artifacts import WEIGHTS
        from ray_synth.generator.diffusion import DiffusionSampler, load_unet

        self.folder = RunFolder(url)
        self.sampler = DiffusionSampler(load_unet(self.folder), generator, generate, device)
        self.generator_digest = generator_digest
        self.class_names = class_names
        self.revision = hashlib.sha256(self.folder.read(WEIGHTS)).hexdigest()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        labels, starts, stops = (batch[name].tolist() for name in ("label", "start", "stop"))
        for label, start, stop in zip(labels, starts, stops, strict=True):
            chunk = Chunk(self.generator_digest[:12], label, start, stop)
            seeds = [image_seed(self.generator_digest, label, index) for index in range(start, stop)]
            write_chunk(
                self.folder,
                chunk,
                self.sampler([label] * len(seeds), seeds),
                class_name=self.class_names[label],
                seeds=seeds,
                model_id=f"ray_synth/diffusion/{self.generator_digest[:12]}",
                model_revision=self.revision,
            )
        return {"written": batch["stop"] - batch["start"]}


def generate_chunks(
    folder: RunFolder,
    chunks: Sequence[Chunk],
    generator: Generator,
    generate: Generate,
    *,
    generator_digest: str,
    class_names: Sequence[str],
    progress: Callable[[int], None] = lambda images: None,
) -> None:
    """Make every chunk. Ray must be up. Workers write the files: images never pass through the object store."""
    import ray

    gpus = int(ray.cluster_resources().get("GPU", 0))
    slots = gpus or max(1, int(ray.cluster_resources().get("CPU", 1)))
    num_actors = min(generate.num_actors or slots, len(chunks))
    dataset = ray.data.from_items(
        [{"label": c.label, "start": c.start, "stop": c.stop} for c in chunks], override_num_blocks=len(chunks)
    ).map_batches(
        SampleChunks,
        fn_constructor_args=(
            folder.absolute_url,
            generator,
            generate,
            generator_digest,
            tuple(class_names),
            "cuda" if gpus else "cpu",
        ),
        batch_size=1,
        num_cpus=0 if gpus else 1,
        num_gpus=1 if gpus else 0,
        compute=ray.data.ActorPoolStrategy(size=num_actors),
    )
    for row in dataset.iter_rows():
        progress(int(row["written"]))
