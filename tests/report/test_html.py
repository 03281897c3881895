"""report.html: what each section shows, what is left out, and a new section by one function and one registration."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_synth.bound.proxies import proxy_table
from ray_synth.bound.theorem import optimal_strength
from ray_synth.data.images import ImageSet
from ray_synth.partition import RegionReport
from ray_synth.report.html import SECTIONS, write_report
from ray_synth.report.plots import ratio_curve
from ray_synth.report.results import RunResults
from ray_synth.report.sections.shown import Shown, table
from ray_synth.runs import RunFolder
from ray_synth.sampling.generation import Generation, Rejected
from ray_synth.sweep.ledger import Trial
from ray_synth.sweep.space import Setting

from ..estimates import curve_of, estimate_of
from .test_summary import summary_of


@pytest.fixture
def results(digits: ImageSet) -> RunResults:
    estimate = estimate_of(
        curve_of([0, 1, 4, 16], [0.2, 0.15, 0.1, 0.12], [0.18] * 4, [0.22] * 4), ratio=4.0, warnings=("<few> images",)
    )
    setting = Setting(synthetic_ratio=5.5, num_clusters=20, classifier={"lambda_1": 0.1, "optimizer": "sgd"})
    return RunResults(
        summary=summary_of(),
        generation=Generation(
            model_id="model", model_revision="1", model_license="", images_per_class=(160,) * 10,
            asked=20, made=1602, kept=1600,
            rejected={"flat": 1, "killed_worker": 1}, rejected_keys=(Rejected(key="0/3", reason="killed_worker"),),
        ),
        estimate=estimate,
        metrics={"label_fidelity/judge_accuracy": 0.95, "brightness": 0.25},
        trials=[Trial(trial_id="t00000", status="complete", seconds=1.5, accuracy=0.91, setting=setting)],
        real=digits,
        synthetic=digits,
        settings={"name": "<script>"},
        histories={"best": [{"update": 1.0, "accuracy": 0.5}]},
        regions=RegionReport(
            num_regions=20, sizes=(1, 5, 9), empty=0, with_real=0.5, covered_synthetic=0.25, purity=0.75
        ),
    )  # fmt: skip


def page(folder: Path, results: RunResults, **changes: Any) -> str:
    write_report(RunFolder(folder), replace(results, **changes))
    return (folder / "report.html").read_text()


def headings(text: str) -> list[str]:
    return [part.split("</h2>")[0] for part in text.split("<h2>")[1:]]


def test_every_section_is_there_and_words_are_escaped(tmp_path: Path, results: RunResults) -> None:
    text = page(tmp_path, results)
    assert headings(text) == [
        'Use about 4 synthetic images per real image (2 to 8): <span class="gain">+10.0 points (±4.2)</span>',
        "Prediction and sweep", "Accuracy on the test set", "Real and synthetic images", "While training", "The search",
        "Trials", "What each method says", "Where the images come from", "Seconds per stage", "Settings",
    ]  # fmt: skip
    assert '<tr><td>best of the sweep</td><td class="n">5.5</td><td class="n">0.9100</td>' in text
    assert '<tr><td>finetune</td><td class="n">1.0</td></tr>' in text
    assert '<p class="warning">Warning: &lt;few&gt; images</p>' in text
    assert "name: &lt;script&gt;" in text
    assert "Set aside because they end their worker each time: 0/3." in text
    assert "75.0 % of those" in text
    assert "hold\n1 to 9 images (median 5)" in text
    assert text.count('<svg class="plot"') == 3
    assert "evaluators" not in text


def test_the_closed_form_stands_under_every_proxy_and_its_bound_beside_the_curve(
    tmp_path: Path, results: RunResults
) -> None:
    distances = {"RAPSD": 0.001, "FID": 0.5, "W2": 0.25, "MMD": 0.0}
    rows = proxy_table(distances, variance=0.08, decays=(0.4, 0.7), num_real=100, max_ratio=16.0)
    terms = {
        "ratio": 2.0, "discrepancy": 0.001, "noise_variance_raw": 5202.0, "ratio_raw_variance": 16.0,
        "decay_1d": 0.7, "ratio_decay_1d": 1.0, "proxies": [asdict(row) for row in rows],
    }  # fmt: skip
    text = page(tmp_path, results, estimate=replace(results.estimate, methods={"closed_form": terms}))
    low, high = min(row.ratio for row in rows), max(row.ratio for row in rows)
    assert f"The ratio of the closed form under every proxy: {low:.3g} to {high:.3g}" in headings(text)
    assert "<tr><td>FID = 0.5</td>" in text
    assert "D by FID, lowest at " in text
    assert "pixels [0, 255]: σ² = 5.2e+03; 1d: r = 0.7" in text
    assert f"the median under D by RAPSD, FID, W2, MMD, each σ² and decay: {low:.3g} to {high:.3g}" in text
    figure = ratio_curve(replace(results.estimate, methods={"closed_form": terms}), results.trials, 5.5, 4.0)
    bounds = figure.axes[1].get_lines()
    assert len(bounds) == 4
    for line, distance in zip(bounds, distances.values(), strict=True):
        x, y = (np.asarray(values, dtype=float) for values in line.get_data())
        assert y.min() == pytest.approx(1)
        best = optimal_strength(discrepancy=distance, noise_variance=0.08, num_real=100, decay=0.5)
        assert x[y.argmin()] == pytest.approx(np.log2(1 + min(best, 16)), abs=0.05)


def test_what_was_not_measured_is_left_out(tmp_path: Path, results: RunResults) -> None:
    failed = summary_of(failed=("final_accuracy", "label_fidelity"), accuracy={}, accuracy_std={}, label_fidelity=None)
    text = page(tmp_path, results, summary=failed, metrics={}, histories={})
    assert "final_accuracy, label_fidelity failed" in text
    assert not {"Accuracy on the test set", "While training"} & set(headings(text))
    assert "right label" not in text


def test_a_training_that_waited_for_images_says_so_and_what_to_set(tmp_path: Path, results: RunResults) -> None:
    assert "waited for images" not in page(tmp_path, results)
    rows = [{"update": 1.0, "accuracy": 0.5, "waiting": 0.9}, {"update": 2.0, "accuracy": 0.6, "waiting": 0.08}]
    text = page(tmp_path, results, histories={"best": rows, "real_only": [{**rows[0], "waiting": 0.25}]})
    assert "best: 8 % of the time was waited for images." in text
    assert "real only: 25 % of the time was waited for images; reading holds it back" in text
    assert text.count("classifier.num_workers") == 1


def brightness(results: RunResults) -> Shown:
    rows = [("real & synthetic", f"{results.metrics['brightness']:.2f}")]
    return table("Brightness", ("images", "mean"), rows, numbers=(1,))


def test_a_new_section_is_one_function_and_one_registration(
    tmp_path: Path, results: RunResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SECTIONS, "brightness", brightness)
    text = page(tmp_path, results)
    assert headings(text)[-1] == "Brightness"
    assert '<tr><th>images</th><th class="n">mean</th></tr>' in text
    assert '<tr><td>real &amp; synthetic</td><td class="n">0.25</td></tr>' in text


def test_a_fine_tuned_generator_is_shown_with_its_losses_and_pictures(tmp_path: Path, results: RunResults) -> None:
    losses = [{"step": 100, "loss": 0.5, "validation_loss": 0.6}, {"step": 200, "loss": 0.4, "validation_loss": None}]
    assert "Fine-tuning the generator" not in page(tmp_path, results)
    found = page(tmp_path, results, adapters={"": losses}, adapter_samples={"200": b"png"})
    assert "Fine-tuning the generator" in found
    assert 'alt="images sampled after 200 steps" src="data:image/png;base64,cG5n"' in found


def test_the_closest_pairs_stand_beside_each_other(tmp_path: Path, results: RunResults) -> None:
    assert "Copies of real images" not in page(tmp_path, results)
    pair = {
        "synthetic": "7", "real": "a<b>.png", "class": "cat", "real_class": "dog", "distance": 0.25, "cosine": 0.9,
        "copy": True, "pictures": ["AAAA", "BBBB"],
    }  # fmt: skip
    details = {"copies": {
        "compared_by": "SSCD", "digest": "f" * 64, "views": 4, "real_images": 1300, "instead_of": None,
        "rule": "the rule", "pairs": [pair],
    }}  # fmt: skip
    numbers = {"copies/share": 0.02, "copies/found": 20.0, "copies/looked_at": 1000.0, "copies/by_chance": 5.0}
    text = page(tmp_path, results, metrics=numbers, details=details)
    assert "20 of 1,000 synthetic images that were looked at\n(2.00 %) are copies of one of 1,300 real images" in text
    assert "up to 5.0. A copy: the rule." in text
    assert f"Compared by SSCD (digest {'f' * 16})" in text
    assert '<img alt="real image a&lt;b&gt;.png" src="data:image/png;base64,BBBB">' in text
    assert "cat: 0.250 <b>copy</b><br>of dog" in text
    details["copies"]["pairs"] = [pair | {"copy": False}]
    assert "<b>copy</b>" not in page(tmp_path, results, metrics=numbers, details=details)


def test_what_a_classifier_leaks_is_shown_with_what_few_images_cannot_tell(tmp_path: Path, results: RunResults) -> None:
    heading = "What a classifier leaks about its training images"
    assert heading not in headings(page(tmp_path, results))
    leaks = {"lira/shadows": 16.0, "lira/images_per_class": 10.0, "lira/non_members": 800.0}
    for on, auc in (("real", 0.83), ("synthetic", 0.56)):
        leaks |= {f"lira/{on}/accuracy": 0.785, f"lira/{on}/auc": auc, f"lira/{on}/auc/std": 0.04}
        rate = {"": 0.145, "/low": 0.121, "/high": 0.171}
        leaks |= {f"lira/{on}/tpr_at_1_percent{end}": value for end, value in rate.items()}
        leaks |= {f"lira/{on}/roc/{fpr:g}": min(1.0, 2 * fpr) for fpr in (0.00125, 0.01, 0.1, 1.0)}
    text = page(tmp_path, results, metrics=leaks)
    assert heading in headings(text)
    assert "Few shots leak most: there are 10 real images a class" in text
    assert '<td>real</td><td class="n">0.785</td><td class="n">0.830 ± 0.040</td>' in text
    assert '<td class="n">14.5 % (12.1 to 17.1)</td><td class="n">withheld: too few images to tell</td>' in text
    assert "the 800 decisions on non-members" in text
    assert "none is 0.12 %" in text
    assert text.count('<svg class="plot"') == 4
    assert "Few shots" not in page(tmp_path, results, metrics=leaks | {"lira/images_per_class": 17.0})


def test_the_page_says_where_images_come_from(results: RunResults, tmp_path: Path) -> None:
    text = page(tmp_path, results, filters=["blank", "near_copies"])
    assert "Where the images come from" in headings(text)
    for said in (
        "1,600 kept of 1,602 made",
        "blank, near_copies",
        "1 flat, 1 killed_worker",
        "not said; ask who made it",
    ):
        assert said in text
