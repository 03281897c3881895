"""A ledger in, proposals out: what to try next, as a function of the trials that went before and of nothing else.

Trial k is proposed from the results of the trials up to k - `window`, in their order, whoever finished first. A sweep
that was killed and resumed therefore tries what an undisturbed one would have; the same seed gives the same sweep.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from ray_synth.classifier.setting import GENERATOR, RATIO, Setting, default_setting
from ray_synth.config import Experiment
from ray_synth.seeding import derive_seed
from ray_synth.sweep.ledger import Ledger, Start, Trial
from ray_synth.sweep.prior import GeneratorPrior, Prior, RatioPrior, drawn_generator, first_ratios
from ray_synth.sweep.space import Space

RANDOM_FIRST = 8  # trials before TPE has enough to go by
STOPPED = 1 / 3  # of the complete trials that are worse than one that was stopped early, when generators are compared


class Search:
    """What to try next. `propose` writes a trial into the ledger as started and gives it; `None`: wait for a result."""

    def __init__(
        self,
        ledger: Ledger,
        experiment: Experiment,
        space: Space,
        *,
        prior: Prior | None,
        window: int,
    ):
        """window: trials between a proposal and the last result it may know, at least as many as run at once."""
        self.ledger, self.experiment, self.space, self.window = ledger, experiment, space, window
        self.settings = settings = experiment.sweep
        self.steps = settings.repeats * experiment.classifier.evaluations
        self.order = sorted(ledger.starts)
        self.again = [trial_id for trial_id in self.order if trial_id not in ledger.ended]
        self.total = num_trials(ledger, experiment, space, prior)
        tried = self._tried()
        self.first = [s for s in first_settings(experiment, space, prior) if s.digest not in tried]
        self.grid = grid_in_turn(experiment, space)
        self.best_ranked = None if prior is None else prior.generator
        self.generators: dict[str, GeneratorPrior] = {}
        self.priors: dict[str | None, RatioPrior] = {}  # generator -> where its ratios are drawn from; None: the one
        if prior is not None and settings.sampler != "grid":
            self.generators = {each.name: each for each in prior.generators}
            several: dict[str | None, Prior] = {name: each.prior for name, each in self.generators.items()}
            self.priors = {
                name: RatioPrior(
                    each.curve, each.confidence, space.ratio_range, choices=space.dimensions[RATIO].choices
                )
                for name, each in (several or {None: prior}).items()
                if each.curve is not None
            }
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
        self.running: dict[int, optuna.Trial] = {}
        self.known = 0  # trials whose results the study has

    @property
    def left(self) -> int:
        """Trials still to be run, those that were cut off among them."""
        return len(self.again) + max(0, self.total - len(self.order))

    def propose(self) -> Start | None:
        if self.again:
            return self.ledger.starts[self.again.pop(0)]
        k = len(self.order)
        if self.first:
            setting, origin = self.first.pop(0), "first"
            # One without synthetic images is told to the sampler as the best-ranked generator's.
            params, cuts = self.space.params(replace(setting, generator=setting.generator or self.best_ranked)), {}
        else:
            visible = max(0, k - self.window + 1)
            if not all(i in self.ledger.ended for i in self.order[:visible]):
                return None
            self._learn(visible)
            params, origin = self._params(k)
            setting = self.space.setting(params)
            cuts = self._cuts(self.order[:visible])
        start = Start(trial_id=f"t{k:05d}", setting=setting, origin=origin, params=params, cuts=cuts)
        self.ledger.start(start)
        self.order.append(start.trial_id)
        return start

    def _params(self, k: int) -> tuple[dict[str, Any], str]:
        """Optuna's parameters of trial k, and who proposed them."""
        if self.settings.sampler == "grid":
            return self.space.params(self._untried()[0]), "grid"
        seed = derive_seed("sweep", self.experiment.seed, k) % 2**32
        sampler: Any = (
            optuna.samplers.TPESampler(seed=seed, n_startup_trials=RANDOM_FIRST, constant_liar=True)
            if self.settings.sampler == "tpe"
            else optuna.samplers.RandomSampler(seed=seed)
        )
        origin: str = self.settings.sampler
        if self.priors:
            generator = self._generator(seed)
            setting = replace(self.space.default, synthetic_ratio=self._ratio(generator, seed), generator=generator)
            names = [RATIO] if generator is None else [RATIO, GENERATOR]
            with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
                sampler = optuna.samplers.PartialFixedSampler(
                    {name: self.space.params(setting)[name] for name in names}, sampler
                )
            origin = "prior"
        self.study.sampler = sampler
        trial = self.study.ask(self.space.distributions)
        if self.grid is not None and self.space.setting(trial.params).digest in self._tried():
            self.study.tell(trial, state=TrialState.FAIL)  # all is choices, and this one is known: a near one
            untried, known = self._untried(), self.space.setting(trial.params)
            near = [setting for setting in untried if setting.synthetic_ratio == known.synthetic_ratio]
            same = [setting for setting in near if setting.generator == known.generator]
            return self.space.params((same or near or untried)[0]), origin
        self.running[k] = trial
        return dict(trial.params), origin

    def _generator(self, seed: int) -> str | None:
        """Whose images are tried next, of several: by the ranking at first, then by what the trials add to it."""
        if not self.generators:
            return None
        known = [self.ledger.ended[trial_id] for trial_id in self.order[: self.known]]
        complete = [getattr(t, self.settings.metric) for t in known if t.status == "complete"]
        # One that is stopped is not among the best third: it counts as the middle of the rest.
        stopped = float(np.quantile(complete, STOPPED)) if complete else None
        seen = {name: self._seen(name, stopped=stopped) for name in self.generators}
        if len(known) < RANDOM_FIRST or not all(values for _, values in seen.values()):
            return drawn_generator(list(self.generators.values()), seed)
        heights = {
            name: self.priors[name].height(*trials, seed=derive_seed("generator", seed, name))
            for name, trials in seen.items()
        }
        return max(heights, key=lambda name: heights[name])

    def _ratio(self, generator: str | None, seed: int) -> float:
        """The ratio that is tried next (with the images of a generator, of several)."""
        starts = [start for start in self.ledger.starts.values() if start.setting.says_of(generator)]
        own = self.generators[generator].prior if generator is not None else None
        if own is not None and own.ratio and not any(start.setting.generator for start in starts):
            return self.space.allowed(own.ratio)  # as for the best-ranked one: first what is predicted
        return self.priors[generator].propose(
            *self._seen(generator),
            tried=[start.setting.synthetic_ratio for start in starts],
            turn=sum(start.origin != "first" for start in starts),
            seed=seed,
        )

    def _learn(self, visible: int) -> None:
        """Bring the study to the state in which trial `visible + window - 1` is proposed: results up to `visible`."""
        for k, trial_id in enumerate(self.order):
            if k < self.known:
                continue
            if k < visible:
                trial = self.ledger.ended[trial_id]
                if k in self.running:
                    self._tell(self.running.pop(k), trial)
                else:
                    self.study.add_trial(self._frozen(self.ledger.starts[trial_id], trial))
                self.known = k + 1
            elif k not in self.running:
                self.study.enqueue_trial(dict(self.ledger.starts[trial_id].params))
                self.running[k] = self.study.ask(self.space.distributions)

    def _tell(self, asked: optuna.Trial, trial: Trial) -> None:
        if trial.status == "pruned":
            asked.report(trial.accuracy, trial.evaluations)
        value = getattr(trial, self.settings.metric) if trial.status == "complete" else None
        self.study.tell(asked, value, state=_STATES[trial.status])

    def _frozen(self, start: Start, trial: Trial) -> optuna.trial.FrozenTrial:
        common: dict[str, Any] = {"params": dict(start.params), "distributions": self.space.distributions}
        if trial.status == "complete":
            return optuna.create_trial(value=getattr(trial, self.settings.metric), **common)
        values = {trial.evaluations: trial.accuracy} if trial.status == "pruned" else {}
        return optuna.create_trial(state=_STATES[trial.status], intermediate_values=values, **common)

    def _seen(self, generator: str | None = None, *, stopped: float | None = None) -> tuple[list[float], list[float]]:
        """Ratios and values of the complete trials that the study knows (of several generators those of one, and those
        without synthetic images); ratio 0 says nothing of a range above it. stopped: what one counts that was stopped
        early, where it counts."""
        trials = [self.ledger.ended[i] for i in self.order[: self.known]]
        low = self.space.ratio_range[0]
        counted = [
            t
            for t in trials
            if (t.status == "complete" or (t.status == "pruned" and stopped is not None))
            and t.setting.synthetic_ratio >= low
            and t.setting.says_of(generator)
        ]
        values = [getattr(t, self.settings.metric) if t.status == "complete" else stopped for t in counted]
        return [t.setting.synthetic_ratio for t in counted], [float(value) for value in values if value is not None]

    def _cuts(self, visible: Sequence[str]) -> dict[int, float]:
        """Asynchronous successive halving (Li et al., 2020): at the rungs grace x factor^i a trial goes on if it is
        among the best 1 / factor of those that came there. Ray's own scheduler takes whoever came first."""
        if self.settings.pruner == "none":
            return {}
        cuts, rung = {}, float(self.settings.grace)
        while round(rung) < self.steps:
            step = round(rung)
            histories = [self.ledger.ended[i].history for i in visible if len(self.ledger.ended[i].history) >= step]
            if histories:
                share = 100 * (1 - 1 / self.settings.reduction_factor)
                cuts[step] = float(np.percentile([history[step - 1] for history in histories], share))
            rung *= self.settings.reduction_factor
        return cuts

    def _tried(self) -> set[str]:
        return {start.setting.digest for start in self.ledger.starts.values()}

    def _untried(self) -> list[Setting]:
        tried = self._tried()
        return [setting for setting in self.grid or () if setting.digest not in tried]


def num_trials(ledger: Ledger, experiment: Experiment, space: Space, prior: Prior | None) -> int:
    """Trials in the end: those asked for, those that a sweep was extended to, or all that there are to choose from."""
    asked = max(experiment.sweep.num_trials, ledger.target)
    grid = space.grid()
    if grid is None:
        return asked
    first = first_settings(experiment, space, prior)
    tried = [start.setting for start in ledger.starts.values()]
    return min(asked, len({setting.digest for setting in (*tried, *first, *grid)}))


def importances(ledger: Ledger, space: Space, metric: str) -> dict[str, float]:
    """Share of the spread of the complete trials that each searched setting explains (fANOVA; Hutter et al., 2014),
    the largest first; empty where they are too few."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize")
    for trial in ledger.trials:
        if trial.status == "complete":
            params = dict(ledger.starts[trial.trial_id].params)
            value = getattr(trial, metric)
            study.add_trial(optuna.create_trial(params=params, distributions=space.distributions, value=value))
    values = [trial.value for trial in study.trials]
    if len(set(values)) < 4:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


_STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


def first_settings(experiment: Experiment, space: Space, prior: Prior | None) -> list[Setting]:
    """What is tried before any sampler has its say, with the classifier's own settings: the prediction, no synthetic
    image at all, and both ends of the interval. Of several generators the best-ranked one's images are taken."""
    ratios, generator = [0.0], None
    if prior is not None:
        generator = prior.generator
        ratios = [ratio and space.allowed(ratio) for ratio in first_ratios(prior, *space.ratio_range)]
    settings = [default_setting(experiment, space.num_classes, ratio, generator) for ratio in ratios]
    return list({setting.digest: setting for setting in settings}.values())


def grid_in_turn(experiment: Experiment, space: Space) -> list[Setting] | None:
    """Every setting, in the order in which they are tried; None where something is a range."""
    settings = space.grid()
    if settings is None:
        return None
    order = np.random.default_rng(derive_seed("grid", experiment.seed)).permutation(len(settings))
    unique = {settings[i].digest: settings[i] for i in order}
    return list(unique.values())
