"""The command line. Exit codes: 0 when the work is complete, 2 for wrong input, 1 for failed work, 130 after Ctrl-C,
143 and 129 after SIGTERM and SIGHUP.

Nothing heavy is imported before a verb runs, so that `--help` answers at once.
"""

from __future__ import annotations

import gc
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from ray_synth import stopping

if TYPE_CHECKING:
    from ray_synth.folders import FolderEstimate
    from ray_synth.progress import Reporter
    from ray_synth.stages.stage import Stage

ExperimentFile = Annotated[
    str,
    typer.Argument(metavar="EXPERIMENT.yaml|RUNFOLDER", help="the experiment file; or a run folder, whose run goes on"),
]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY.PATH=VALUE", help="override a setting; repeatable")
]
Out = Annotated[
    str | None, typer.Option("--out", metavar="DIR", help="run folder, a path or an fsspec URL; default runs/NAME")
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="replaces the file's seed")]
AllowPickle = Annotated[
    bool,
    typer.Option("--allow-pickle", help="also load model weights that are not safetensors; they can run any code"),
]


Smoke = Annotated[
    bool,
    typer.Option(
        "--smoke",
        help="run the file in small on a CPU, in a minute or two: tiny models and digits in place of its own, in "
        "runs/NAME-smoke; the figures mean nothing",
    ),
]


@contextmanager
def _exit_codes(reporter: Reporter) -> Iterator[None]:
    """Errors as one line each, without a traceback; the traceback of a failure is in log.txt."""
    from ray_synth.errors import InputError, WorkError

    try:
        yield
    except InputError as error:
        reporter.log(f"wrong input: {error}")
        for line in str(error).splitlines():
            typer.echo(f"ray-synth: {line}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        reporter.log("interrupted")
        stopping.say()
        raise typer.Exit(stopping.exit_code()) from None
    except Exception as error:
        if stopping.came():  # and took away what this needed
            reporter.log("interrupted")
            stopping.say()
            raise typer.Exit(stopping.exit_code()) from None
        reporter.log_traceback()
        cause = _root(error)
        if isinstance(cause, InputError):  # found by a worker
            typer.echo(f"ray-synth: {cause}", err=True)
            raise typer.Exit(2) from None
        reason = next((line for line in str(cause).splitlines() if line.strip()), "")
        if not isinstance(cause, WorkError):
            reason = f"{type(cause).__name__}: {reason}"
        where = f"; details in {reporter.folder.url}/log.txt" if reporter.folder else ""
        typer.echo(f"ray-synth: {reason}{where}; run the same command again to continue", err=True)
        raise typer.Exit(1) from None


def _root(error: BaseException) -> BaseException:
    """What a worker raised, inside what Ray wrapped around it."""
    from ray_synth.errors import InputError, WorkError

    while not isinstance(error, InputError | WorkError):
        inner = getattr(error, "cause", None) or error.__cause__
        if not isinstance(inner, BaseException):
            break
        error = inner
    return error


class _Verbs(TyperGroup):
    """The verbs that are written here, and one for each other stage, which is looked up when it is asked for."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # before a verb has begun; typer would say Aborted!
            stopping.say()
            raise typer.Exit(stopping.exit_code()) from None

    def list_commands(self, ctx: Any) -> list[str]:
        from ray_synth.stages import STAGES

        names = [stage.name for stage in STAGES]
        written = [name for name in super().list_commands(ctx) if name not in names]
        return [*written[:1], *names, *written[1:]]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        written = super().get_command(ctx, cmd_name)
        if written is not None:
            return written
        from ray_synth.stages import STAGES

        found = next((stage for stage in STAGES if stage.name == cmd_name), None)
        return None if found is None else _verb(found)


def _verb(stage: type[Stage]) -> Any:
    """The command of a stage: all take the same words."""

    def command(
        experiment: ExperimentFile,
        set_: Set = None,
        out: Out = None,
        seed: Seed = None,
        smoke: Smoke = False,
        allow_pickle: AllowPickle = False,
    ) -> None:
        _perform(_Words(experiment, set_, out, seed, smoke, allow_pickle), until=stage.name)

    command.__doc__ = (
        f"Example: ray-synth {stage.name} sweeps/digits.yaml --out runs/digits\n\n"
        f"    {stage.purpose}, after the stages that it needs."
    )
    verb = typer.Typer(rich_markup_mode=None)
    verb.command(stage.name, short_help=stage.purpose)(command)
    return typer.main.get_command(verb)


app = typer.Typer(
    cls=_Verbs,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="""How many synthetic images per real image should a classifier be trained on?

    Example: ray-synth run sweeps/digits.yaml --out runs/digits

    Every verb takes an experiment file, does what is needed up to its stage, and skips what is complete.""",
)


@dataclass(frozen=True)
class _Words:
    """What every verb takes."""

    experiment: str
    set_: list[str] | None
    out: str | None
    seed: int | None
    smoke: bool
    allow_pickle: bool = False

    @property
    def given(self) -> dict[str, Any]:
        """As arguments."""
        from ray_synth.config import parse_assignments

        overrides = parse_assignments(self.set_ or [])
        if self.allow_pickle:
            overrides["generator.allow_pickle"] = True
        return {"out": self.out, "overrides": overrides, "seed": self.seed, "smoke": self.smoke}


def _perform(words: _Words, **how: Any) -> None:
    """Run the pipeline, `how` as it takes it, and show what comes of it."""
    from ray_synth.progress import Reporter

    reporter = Reporter()
    with _exit_codes(reporter):
        from ray_synth.pipeline import run as run_pipeline

        run_pipeline(words.experiment, **words.given, **how, reporter=reporter, show=True)


@app.command(short_help="Every stage in order, each skipped when its output is complete")
def run(
    experiment: ExperimentFile,
    set_: Set = None,
    out: Out = None,
    seed: Seed = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="check everything, count what would be done, write nothing")
    ] = False,
    smoke: Smoke = False,
    allow_pickle: AllowPickle = False,
) -> None:
    """Example: ray-synth run sweeps/digits.yaml --out runs/digits

    \b
    Does a file run at all? A minute or two on a CPU, without its data and models:
    ray-synth run sweeps/few_shot/aircraft.yaml --smoke

    \b
    Go on with a run, with the settings that its folder holds:
    ray-synth run runs/digits

    The main job: every stage in order, from the generator to the report, each skipped when its output is complete.
    """
    _perform(_Words(experiment, set_, out, seed, smoke, allow_pickle), dry_run=dry_run)


Export = Annotated[
    str | None,
    typer.Option("--export", metavar="folder|webdataset|huggingface", help="also write the images to OUT/export"),
]


@app.command(short_help="Generate the synthetic images")
def generate(
    experiment: ExperimentFile,
    set_: Set = None,
    out: Out = None,
    seed: Seed = None,
    export: Export = None,
    smoke: Smoke = False,
    allow_pickle: AllowPickle = False,
) -> None:
    """Example: ray-synth generate sweeps/digits.yaml --out runs/digits --export folder

    Generate the synthetic images, after the stages that this needs. Run it again to continue after a kill, or with
    another generate.images_per_class to make the images that are missing.
    """
    from ray_synth.stages import Generate

    _perform(_Words(experiment, set_, out, seed, smoke, allow_pickle), until=Generate.name, export=export)


@app.command(short_help="Bring the real images down to a few a class, and train on these")
def distill(
    experiment: ExperimentFile,
    set_: Set = None,
    out: Out = None,
    seed: Seed = None,
    export: Export = None,
    smoke: Smoke = False,
    allow_pickle: AllowPickle = False,
) -> None:
    """Example: ray-synth distill sweeps/wmdd/cifar10.yaml --out runs/wmdd --export folder

    Bring the real images down to a few a class, and train classifiers on these: for an experiment with a distill
    section, which asks for no generator and no sweep. Run it again to continue after a kill.
    """
    from ray_synth.stages import Distill

    _perform(_Words(experiment, set_, out, seed, smoke, allow_pickle), until=Distill.name, export=export)


Reported = Annotated[
    list[str],
    typer.Argument(
        metavar="EXPERIMENT.yaml|RUNFOLDER",
        help="the experiment file or its run folder; or several finished run folders, to be compared",
    ),
]


@app.command(short_help="Write report.html; or compare several runs on one page")
def report(
    experiments: Reported,
    set_: Set = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            metavar="DIR|FILE.html",
            help="of one: its run folder; of several: where the page goes, default comparison.html beside the first",
        ),
    ] = None,
    seed: Seed = None,
    smoke: Smoke = False,
    allow_pickle: AllowPickle = False,
) -> None:
    """Example: ray-synth report sweeps/digits.yaml --out runs/digits

    \b
    Several finished runs side by side, on one page:
    ray-synth report runs/digits runs/digits-seed1 --out comparison.html

    Write report.html, after the stages that it needs; or compare the runs of several folders, which are only read.
    Accuracies on different test sets are shown apart.
    """
    from ray_synth.stages import Report

    if len(experiments) == 1:
        _perform(_Words(experiments[0], set_, out, seed, smoke, allow_pickle), until=Report.name)
        return
    from ray_synth.progress import Reporter

    reporter = Reporter()
    with _exit_codes(reporter):
        from ray_synth.errors import InputError

        if set_ or smoke or allow_pickle or seed is not None:
            raise InputError(
                "--set, --seed, --smoke and --allow-pickle belong to one run; several are compared as they are: type "
                f"ray-synth report {' '.join(experiments)}"
            )
        from ray_synth.report.compare import compare

        reporter.say(f"comparison: {compare(experiments, out)}")


MaybeExperimentFile = Annotated[str | None, typer.Argument(metavar="[EXPERIMENT.yaml]", help="the experiment file")]
Real = Annotated[
    Path | None, typer.Option("--real", metavar="DIR", help="real images, DIR/class_name/*.png|jpg|jpeg|webp")
]
Synthetic = Annotated[
    list[Path] | None,
    typer.Option(
        "--synthetic", metavar="DIR", help="synthetic images, laid out alike; repeat it to rank several generators"
    ),
]
Target = Annotated[
    Path | None,
    typer.Option(
        "--target",
        metavar="DIR",
        help="sample of the domain that the classifier is meant for, where it is another: laid out alike, or "
        "images directly in DIR if their classes are unknown",
    ),
]
NumReal = Annotated[
    int | None, typer.Option("--num-real", metavar="N", help="size of the real set of which --real is a sample")
]
MaxRatio = Annotated[
    float | None, typer.Option("--max-ratio", help="largest ratio considered, with --real; default 16")
]
RealWeight = Annotated[
    float | None,
    typer.Option("--real-weight", metavar="LAMBDA", help="fixed weight of the real loss; default: images count alike"),
]
Features = Annotated[
    str | None,
    typer.Option(
        "--features",
        metavar="SPEC",
        help="auto (default), open_clip:MODEL:FILE, timm:NAME:FILE or a packaged timm:NAME",
    ),
]
Fit = Annotated[
    str | None,
    typer.Option("--fit", metavar="stretch|crop", help="how other proportions take the real ones'; default stretch"),
]
MaxImages = Annotated[
    int | None,
    typer.Option(
        "--max-images", metavar="N", help="images read of each folder, drawn where it holds more; default 10000"
    ),
]
AllocationWord = Annotated[
    str | None,
    typer.Option(
        "--allocation",
        metavar="fill|equal|proportional",
        help="which class gets how many synthetic images: the answer is for this one; default: the best of them",
    ),
]
Metric = Annotated[
    str | None,
    typer.Option(
        "--metric",
        metavar="accuracy|balanced_accuracy",
        help="what is predicted; default accuracy, balanced where classes are uneven",
    ),
]
Confidence = Annotated[float | None, typer.Option("--confidence", help="of the interval, in (0.5, 1); default 0.9")]
CostPerImage = Annotated[
    float | None,
    typer.Option("--cost-per-image", metavar="X", help="of generating one; adds the cheapest good ratio"),
]
CostPerUpdate = Annotated[
    float | None, typer.Option("--cost-per-update", metavar="X", help="of an optimizer update; needs --updates")
]
Updates = Annotated[
    int | None, typer.Option("--updates", metavar="N", help="optimizer updates of a training (at ratio 0)")
]
Budget = Annotated[
    str | None,
    typer.Option("--budget", metavar="updates|epochs", help="what stays the same at every ratio; default updates"),
]
Tolerance = Annotated[
    float | None, typer.Option("--tolerance", metavar="T", help="error that being cheap may cost; default 0.005")
]
Plot = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE.png", help="draw the prediction (.png, .svg or .pdf)")
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON instead of a table")]


@app.command(short_help="Predict the best synthetic ratio before training")
def estimate(
    experiment: MaybeExperimentFile = None,
    real: Real = None,
    synthetic: Synthetic = None,
    target: Target = None,
    num_real: NumReal = None,
    max_ratio: MaxRatio = None,
    real_weight: RealWeight = None,
    features: Features = None,
    fit: Fit = None,
    max_images: MaxImages = None,
    allocation: AllocationWord = None,
    metric: Metric = None,
    confidence: Confidence = None,
    cost_per_image: CostPerImage = None,
    cost_per_update: CostPerUpdate = None,
    updates: Updates = None,
    budget: Budget = None,
    tolerance: Tolerance = None,
    plot: Plot = None,
    as_json: AsJson = False,
    set_: Set = None,
    out: Out = None,
    seed: Seed = None,
    smoke: Smoke = False,
) -> None:
    """Example: ray-synth estimate --real photos/train --synthetic generated --json

    \b
    With a picture, and for several generators:
    ray-synth estimate --real photos/train --synthetic generated --plot ratio.png
    ray-synth estimate --real photos/train --synthetic prompt-a --synthetic prompt-b

    Predict the best synthetic ratio before training: from two image folders, or from an experiment file
    (ray-synth estimate sweeps/digits.yaml --out runs/digits), after the stages that it needs.
    """
    from ray_synth.progress import Reporter

    reporter = Reporter()
    with _exit_codes(reporter):
        from ray_synth.errors import InputError

        if (real is None) != (not synthetic) or (experiment is None) == (real is None):
            raise InputError(
                "give either an experiment file or both folders; type ray-synth estimate --real DIR --synthetic DIR"
            )
        _check_picture(plot)
        settings: dict[str, Any] = {"target": target, "num_real": num_real, "max_ratio": max_ratio}
        settings |= {
            "real_weight": real_weight,
            "features": features,
            "fit": fit,
            "max_images": max_images,
            "allocation": allocation,
            "metric": metric,
            "confidence": confidence,
        }
        costs: dict[str, Any] = {"cost_per_image": cost_per_image, "cost_per_update": cost_per_update}
        costs |= {"updates": updates, "budget": budget, "tolerance": tolerance}
        if real is not None and synthetic:
            if set_ or out is not None or smoke:
                raise InputError(
                    "--set, --out and --smoke belong to an experiment file; leave them out with --real and --synthetic"
                )
            ranked = _estimate_folders(real, synthetic, {**settings, "seed": seed}, costs, reporter)
            result = _ranking(ranked)
        else:
            _refuse_folder_options({**settings, **costs})
            result, ranked = _estimate_run(_Words(str(experiment), set_, out, seed, smoke), reporter)
        _show(result, lambda _: _print_estimates(ranked), as_json)
        if plot is not None:
            from ray_synth.report.plots import estimate_picture, write_picture

            notes = write_picture(estimate_picture(ranked[0][0].estimate, ranked[0][0].class_names), plot)
            for note in notes:
                reporter.say(f"note: {note}")
            reporter.say(f"picture: {plot}")


def _check_picture(file: Path | None) -> None:
    """Raise InputError for one that could not be drawn: before the work, not after it."""
    if file is not None:
        from ray_synth.report.plots import check_picture

        check_picture(file)


def _estimate_folders(
    real: Path, synthetic: Sequence[Path], settings: dict[str, Any], costs: dict[str, Any], reporter: Reporter
) -> Sequence[tuple[FolderEstimate, float]]:
    """An estimate of each synthetic folder with its probability of being the best, the best first; what was not given
    (None) is left to the defaults."""
    from ray_synth.bound.estimator import Question
    from ray_synth.folders import cheapest, checked_costs, estimate_folders, rank_folders

    prices = checked_costs(costs)
    given = {name: value for name, value in settings.items() if value is not None}
    # What is wrong with the words themselves is found before any image is read; `num_real` needs their number.
    own = {field.name for field in fields(Question)} - {"num_real"}
    Question(num_given=1, num_real=1, **{name: value for name, value in given.items() if name in own})
    if len(synthetic) == 1:
        found: Sequence[tuple[FolderEstimate, float]] = (
            (estimate_folders(real, synthetic[0], reporter=reporter, **given), 1.0),
        )
    else:
        found = rank_folders(real, synthetic, reporter=reporter, **given)
    for note in found[0][0].notes:
        reporter.say(f"note: {note}")
    if prices is None:
        return found
    return [(replace(each, cheapest=cheapest(each.estimate, prices)), share) for each, share in found]


def _estimate_run(words: _Words, reporter: Reporter) -> tuple[dict[str, Any], Sequence[tuple[FolderEstimate, float]]]:
    """The estimate of an experiment, after the stages that it needs: as in the run folder, and as of folders."""
    from ray_synth.bound.result import RatioEstimate
    from ray_synth.folders import FolderEstimate
    from ray_synth.pipeline import run as run_pipeline
    from ray_synth.stages import Estimate

    result = run_pipeline(words.experiment, **words.given, until=Estimate.name, reporter=reporter)
    found = FolderEstimate(estimate=RatioEstimate.from_dict(result), class_names=(), notes=())
    return result, ((found, 1.0),)


def _print_estimates(ranked: Sequence[tuple[FolderEstimate, float]]) -> None:
    from ray_synth import tables

    if len(ranked) > 1:
        tables.print_generators([(each.generator, share, each.estimate) for each, share in ranked])
    best = ranked[0][0]
    tables.print_estimate(best.estimate, best.class_names, best.cheapest)


def _ranking(ranked: Sequence[tuple[FolderEstimate, float]]) -> dict[str, Any]:
    """The estimate of the best, JSON-ready; of several all stand beside it, as `generators`."""
    result = ranked[0][0].to_dict()
    if len(ranked) > 1:
        named = [{"name": each.generator, "probability": share, **each.to_dict()} for each, share in ranked]
        result["generators"] = named
    return result


def _show(result: dict[str, Any], table: Callable[[dict[str, Any]], None], as_json: bool) -> None:
    """JSON or a table. Before any picture: a full disk must not take the numbers with it."""
    if as_json:
        typer.echo(json.dumps(result, indent=2, allow_nan=False))
    else:
        table(result)


def _refuse_folder_options(given: dict[str, Any]) -> None:
    """An experiment file has its own settings for most of what --real and --synthetic take as words."""
    from ray_synth.errors import InputError

    instead = {
        "max_ratio": "type --set estimate.max_ratio={}",
        "confidence": "type --set estimate.confidence={}",
        "features": "type --set estimate.features={}",
        "fit": "type --set data.fit={}",
        "max_images": "type --set estimate.max_images={}",
        "allocation": "type --set data.allocation={}",
        "metric": "type --set estimate.metric={}",
        "real_weight": "type --set classifier.weighting=fixed --set classifier.real_weight={}",
    }
    for name, value in given.items():
        if value is not None:
            hint = instead.get(name, "leave it out with an experiment file")
            shown = f"{value:g}" if isinstance(value, float) else value
            raise InputError(f"--{name.replace('_', '-')} belongs to --real and --synthetic; {hint.format(shown)}")


@app.command(short_help="Search the ratio and the classifier's settings with Ray Tune and Optuna")
def sweep(
    experiment: ExperimentFile,
    set_: Set = None,
    out: Out = None,
    seed: Seed = None,
    extend: Annotated[
        int | None, typer.Option("--extend", metavar="N", min=1, help="add N trials to a finished sweep")
    ] = None,
    smoke: Smoke = False,
    allow_pickle: AllowPickle = False,
) -> None:
    """Example: ray-synth sweep sweeps/digits.yaml --out runs/digits --extend 20

    Search the ratio and the classifier's settings with Ray Tune and Optuna, after the stages that this needs. Run it
    again to continue after a kill: finished trials are kept, and those that were cut off are run again.
    """
    from ray_synth.stages import Sweep

    _perform(_Words(experiment, set_, out, seed, smoke, allow_pickle), until=Sweep.name, extend=extend)


@app.command(short_help="Run an experiment as a job on a Ray cluster")
def submit(
    experiment: Annotated[Path, typer.Argument(metavar="EXPERIMENT.yaml", help="the experiment file")],
    set_: Set = None,
    out: Annotated[
        str | None,
        typer.Option("--out", metavar="URL", help="run folder that all nodes see: s3://..., or a shared disk"),
    ] = None,
    seed: Seed = None,
    verb: Annotated[str, typer.Option("--verb", help="what to run there: run, generate, estimate, sweep, ...")] = "run",
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="URL",
            help="the dashboard's; default RAY_API_SERVER_ADDRESS, or http://127.0.0.1:8265, ray dashboard's end here",
        ),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="leave once it runs; the same command follows it")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="stop the job that these words started")] = False,
    fetch: Annotated[
        Path | None, typer.Option("--fetch", metavar="DIR", help="where the report goes; default runs/NAME-cluster")
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow", metavar="FILE", help="send it though it looks as if it opens something; repeatable"),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="list what would be sent and what would not; ask no cluster")
    ] = False,
) -> None:
    """Example: ray-synth submit sweeps/digits.yaml --out s3://BUCKET/runs/digits

    \b
    The port of a cluster that ray up started, brought here (in another terminal):
    ray dashboard cluster.yaml

    Sends this folder (what git would take; no runs, and nothing that by its name or content opens something: --dry-run
    lists it) and runs the experiment there as a Ray job. Shows what
    it says until it ends, and fetches the report. The same command follows a job that runs, and continues one that was
    stopped or killed. Exit code: the run's.
    """
    from ray_synth.progress import Reporter

    reporter = Reporter()
    with _exit_codes(reporter):
        from ray_synth.cluster.jobs import command_of
        from ray_synth.cluster.jobs import submit as submit_job
        from ray_synth.stages import stages_until

        if verb != "run":
            stages_until(verb, said="--verb")
        command = command_of(experiment, out, set_ or [], seed, verb, Path.cwd())
        code = submit_job(
            command,
            reporter,
            address=address,
            detach=detach,
            stop=stop,
            fetch=fetch,
            allow=allow or [],
            dry_run=dry_run,
        )
    if code:
        raise typer.Exit(code)


@app.command(hidden=True)
def results(out: Annotated[str, typer.Argument(metavar="DIR")]) -> None:
    """Print the small results of a run folder as text; `submit` reads them from the job's log."""
    from ray_synth.progress import Reporter

    with _exit_codes(Reporter()):
        from ray_synth.cluster.archive import packed
        from ray_synth.runs import RunFolder

        typer.echo(packed(RunFolder.on_worker(out)))


def _check_sender() -> None:
    """In a job of `submit`: the versions at both ends must be the same."""
    from ray_synth.progress import Reporter

    with _exit_codes(Reporter()):
        from ray_synth.cluster.jobs import SENT_FROM, check_versions

        check_versions(os.environ[SENT_FROM])


Gpu = Annotated[str | None, typer.Option("--gpu", metavar="NAME", help="published rates: T4, L4, A10G, A100 or H100")]
Calibrate = Annotated[bool, typer.Option("--calibrate", help="measure this machine, in about a minute; the default")]
Rates = Annotated[Path | None, typer.Option("--rates", metavar="FILE.json", help="rates that --save-rates kept")]
SaveRates = Annotated[Path | None, typer.Option("--save-rates", metavar="FILE.json", help="keep what was measured")]
Nodes = Annotated[str, typer.Option("--nodes", metavar="N[,N...]", help="several: a scaling curve, and where it bends")]
GpusPerNode = Annotated[
    int | None, typer.Option("--gpus-per-node", metavar="N", help="default: as the table's instance, or as here")
]
SpotInterruptions = Annotated[
    float | None, typer.Option("--spot-interruptions", metavar="PER_HOUR", help="of a node; default the table's")
]
Price = Annotated[
    float | None, typer.Option("--price", metavar="X", help="dollars of a node and hour; prices of the table age")
]
Until = Annotated[
    str | None, typer.Option("--until", metavar="STAGE", help="plan no further than this stage, such as generate")
]
WithoutData = Annotated[
    bool, typer.Option("--without-data", help="count a known data set by its published size, and read nothing")
]
CurvePlot = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE", help="draw the scaling curve (.png, .svg or .pdf)")
]


@app.command(short_help="What the run will cost before it starts: hours, wall time, storage, money")
def plan(
    experiment: ExperimentFile,
    set_: Set = None,
    out: Out = None,
    seed: Seed = None,
    gpu: Gpu = None,
    calibrate: Calibrate = False,
    rates: Rates = None,
    save_rates: SaveRates = None,
    nodes: Nodes = "1",
    gpus_per_node: GpusPerNode = None,
    spot_interruptions: SpotInterruptions = None,
    price: Price = None,
    until: Until = None,
    without_data: WithoutData = False,
    plot: CurvePlot = None,
    as_json: AsJson = False,
    smoke: Smoke = False,
    allow_pickle: AllowPickle = False,
) -> None:
    """Example: ray-synth plan sweeps/digits.yaml --out runs/digits

    \b
    On other hardware, with the curve over nodes:
    ray-synth plan sweeps/imagenet.yaml --gpu A100 --nodes 1,2,4,8,16

    What a run will cost before it starts: images, hours, wall time, storage and money, with their intervals, and what
    the predicted ratio saves against the full sweep. What is complete in --out is not counted again.
    """
    import time

    from ray_synth.progress import Reporter

    started, reporter = time.monotonic(), Reporter()
    with _exit_codes(reporter):
        from ray_synth.planning.request import Request, parse_nodes, plan_for

        _check_picture(plot)
        request = Request(
            experiment=experiment,
            **_Words(experiment, set_, out, seed, smoke, allow_pickle).given,
            until=until,
            without_data=without_data,
            gpu=gpu,
            rates=rates,
            calibrate=calibrate,
            save_rates=save_rates,
            nodes=parse_nodes(nodes),
            gpus_per_node=gpus_per_node,
            spot_interruptions=spot_interruptions,
            price=price,
        )
        found = plan_for(request, reporter, started=started).to_dict()
        from ray_synth import tables

        _show(found, tables.print_plan, as_json)
        if plot is not None:
            from ray_synth.report.costs import scaling_picture
            from ray_synth.report.plots import write_picture

            write_picture(scaling_picture(found), plot)
            reporter.say(f"picture: {plot}")


def _at_home(word: str) -> str:
    """`--real=~/photos` with `~` written out: shells do so at the start of a word alone."""
    option, found, path = word.partition("=~")
    return f"{option}={os.path.expanduser('~' + path)}" if found and option.startswith("--") else word


def main() -> None:
    """The `ray-synth` command."""
    for stream in (sys.stdout, sys.stderr):
        # Names may hold what a terminal's encoding does not; that must not take the numbers beside them away.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    # OpenMP threads spin while they wait: with anything else running on the machine, training took 14 times as long,
    # with a short spin 2.7 times, and no longer alone. Read when torch is imported, here and in Ray's workers.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if "RAY_SYNTH_SENT_FROM" in os.environ:
        try:
            _check_sender()
        except typer.Exit as exit_:
            sys.exit(exit_.exit_code)
    # Imports make a million objects that stay to the end. Looking for garbage among them took a second and a half while
    # they are made, and two at the exit.
    gc.set_threshold(50_000, 20, 20)
    try:
        with stopping.as_ctrl_c():
            app(args=[_at_home(word) for word in sys.argv[1:]], prog_name="ray-synth")
    finally:
        gc.freeze()


if __name__ == "__main__":
    main()
