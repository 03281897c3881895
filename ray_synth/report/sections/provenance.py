"""Where the generated images come from, and what each of them says of itself."""

from __future__ import annotations

from ray_synth.report.results import RunResults
from ray_synth.report.sections.shown import Shown, table


def provenance(results: RunResults) -> Shown:
    made = results.generation
    aside = ", ".join(f"{count:,} {reason}" for reason, count in made.rejected.items())
    rows = [
        ("generator", made.model_id),
        ("revision", made.model_revision),
        ("its licence", made.model_license or "not said; ask who made it before images are passed on"),
        ("images", f"{made.kept:,} kept of {made.made:,} made"),
        ("filters", ", ".join(results.filters) or "none"),
        ("set aside", aside or "none"),
        ("each image", "follows from generator, class and index; its row has key, prompt, seed, model, revision"),
        (
            "what leaves the run",
            "generate --export folder, webdataset or huggingface: each file says that it was generated (IPTC digital "
            "source type trainedAlgorithmicMedia)",
        ),
    ]
    return table("Where the images come from", ("of the images", "what is known"), rows)
