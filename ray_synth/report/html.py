"""The results of a run in, `report.html` out: one file that opens without a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from jinja2 import Environment
from markupsafe import Markup

from ray_synth.data.images import ImageSet
from ray_synth.report.methods import method_rows
from ray_synth.report.plots import as_png, as_svg, ratio_curve, side_by_side
from ray_synth.runs import RunFolder
from ray_synth.sweep import Trial

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ summary.name }}: how many synthetic images?</title>
<style>
body{font:15px/1.5 system-ui,sans-serif;color:#22252b;max-width:860px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}svg,img{max-width:100%;height:auto}
table{border-collapse:collapse;font-size:.9rem}td,th{padding:.25rem .8rem .25rem 0;text-align:left;border-bottom:1px solid #e3e6ea}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}pre{background:#f5f6f8;padding:1rem;overflow:auto;font-size:.8rem}
.lead{font-size:1.05rem}.scroll{max-height:24rem;overflow:auto}small{color:#68707c}
</style></head><body>
<h1>{{ summary.name }}: how many synthetic images per real image?</h1>
<p class="lead">Predicted before training: <b>{{ "%.3g"|format(summary.predicted_ratio) }}</b>
(interval {{ "%.3g"|format(summary.interval[0]) }} to {{ "%.3g"|format(summary.interval[1]) }}, verdict: {{ summary.verdict }} –
{{ estimate.reason }}). Found by the sweep of {{ summary.num_trials }} trials: <b>{{ "%.3g"|format(summary.best_ratio) }}</b>.</p>
{{ curve }}
<p><small>Trials are errors on the validation set with all settings varied; the predicted curve is that of the probe, ridge
classifiers and small networks on frozen features, so its level may differ: what it predicts is where the curve is lowest.</small></p>
{% for warning in estimate.warnings %}<p>Warning: {{ warning }}</p>
{% endfor %}<h2>Accuracy on the test set</h2>
<table><tr><th>setting</th><th class="n">synthetic ratio</th><th class="n">accuracy</th><th class="n">± std of {{ summary.repeats }}</th></tr>
{% for label, name, ratio in rows %}<tr><td>{{ label }}</td><td class="n">{{ "%.3g"|format(ratio) }}</td>
<td class="n">{{ "%.4f"|format(summary.accuracy[name]) }}</td><td class="n">{{ "%.4f"|format(summary.accuracy_std[name]) }}</td></tr>
{% endfor %}</table>
<h2>Real and synthetic images</h2>
<p>{{ "{:,}".format(summary.num_generated) }} images were generated; {{ "%.1f"|format(100 * summary.label_fidelity) }} % carry the
right label according to a classifier of real images (itself {{ "%.1f"|format(100 * metrics["label_fidelity/judge_accuracy"]) }} %
right on the test set).</p>
<img alt="real and synthetic images side by side, a row per class" src="{{ pictures }}">
<h2>What each method says</h2>
<table><tr><th>method</th><th class="n">ratio</th><th>from</th></tr>
{% for name, ratio, terms in methods %}<tr><td>{{ name }}</td><td class="n">{{ "%.3g"|format(ratio) }}</td><td>{{ terms }}</td></tr>
{% endfor %}</table>
<h2>Trials</h2>
<div class="scroll"><table><tr><th>trial</th><th>status</th><th class="n">ratio</th><th class="n">λ₁</th><th class="n">λ₂</th>
<th class="n">clusters</th><th class="n">validation accuracy</th><th class="n">seconds</th></tr>
{% for t in trials %}<tr><td>{{ t.trial_id }}</td><td>{{ t.status }}</td><td class="n">{{ "%.3g"|format(t.setting.synthetic_ratio) }}</td>
<td class="n">{{ "%.3g"|format(t.setting.lambda_1) }}</td><td class="n">{{ "%.3g"|format(t.setting.lambda_2) }}</td>
<td class="n">{{ t.setting.num_clusters }}</td><td class="n">{{ "%.4f"|format(t.accuracy) }}</td>
<td class="n">{{ "%.1f"|format(t.seconds) }}</td></tr>{% endfor %}</table></div>
<h2>Seconds per stage</h2>
<table>{% for name, seconds in summary.seconds.items() %}<tr><td>{{ name }}</td><td class="n">{{ "%.1f"|format(seconds) }}</td></tr>
{% endfor %}</table>
<h2>Settings</h2><pre>{{ settings }}</pre>
</body></html>
"""


def write_report(
    folder: RunFolder,
    *,
    summary: Mapping[str, Any],
    estimate: Mapping[str, Any],
    metrics: Mapping[str, float],
    trials: Sequence[Trial],
    real: ImageSet,
    synthetic: ImageSet,
    settings: Mapping[str, Any],
) -> None:
    """Write report.html. Text from outside (class names, settings) is escaped."""
    page = (
        Environment(autoescape=True)
        .from_string(PAGE)
        .render(
            summary=summary,
            estimate=estimate,
            metrics=metrics,
            rows=[
                ("real images only", "real_only", 0.0),
                ("at the predicted ratio", "at_predicted", summary["predicted_ratio"]),
                ("best of the sweep", "best", summary["best_ratio"]),
            ],
            methods=method_rows(estimate),
            trials=sorted(trials, key=lambda trial: trial.trial_id),
            curve=Markup(as_svg(ratio_curve(estimate, trials, summary["best_ratio"], summary["predicted_ratio"]))),  # noqa: S704
            pictures=as_png(side_by_side(real, synthetic)),
            settings=yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True),
        )
    )
    folder.write("report.html", page.encode())
