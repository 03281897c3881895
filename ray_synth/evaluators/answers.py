"""Trained classifiers and image sets in, what each says of each image out, in one pass over a set for several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ray_synth.classifier.predict import logits_of
from ray_synth.data.source import ImageSource
from ray_synth.nodes import on_gpu_node

AT_ONCE = 4  # classifiers in memory, for which a batch is decoded once
ALL = ""  # every class may be the answer

Loader = Callable[[], tuple[nn.Module, float]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """What the R repeats of a classifier say of N images.

    predicted: int64 [R,N]; confidence: float32 [R,N], the largest softmax probability; in_five: bool [R,N], whether the
    label is among the five largest logits.
    """

    predicted: np.ndarray
    confidence: np.ndarray
    in_five: np.ndarray

    def take(self, rows: np.ndarray) -> Answers:
        """Of some of the images."""
        return Answers(
            predicted=self.predicted[:, rows], confidence=self.confidence[:, rows], in_five=self.in_five[:, rows]
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """Images, and among which classes the answers are looked for: name -> labels [k], or None for all."""

    images: ImageSource
    among: Mapping[str, np.ndarray | None]


Found = dict[str, dict[str, dict[str, Answers]]]


def answers(classifiers: Sequence[tuple[str, Loader]], questions: Mapping[str, Question]) -> Found:
    """Question -> among which classes -> classifier -> what its repeats say. Images are decoded batch by batch."""
    parts: dict[tuple[str, str, str], list[Answers]] = {}
    for question, among, name, said in on_gpu_node(_answered, list(classifiers), dict(questions)):
        parts.setdefault((question, among, name), []).append(said)
    found: Found = {}
    for (question, among, name), repeats in parts.items():
        found.setdefault(question, {}).setdefault(among, {})[name] = Answers(
            predicted=np.concatenate([each.predicted for each in repeats]),
            confidence=np.concatenate([each.confidence for each in repeats]),
            in_five=np.concatenate([each.in_five for each in repeats]),
        )
    return found


def _answered(
    classifiers: Sequence[tuple[str, Loader]], questions: Mapping[str, Question]
) -> Iterator[tuple[str, str, str, Answers]]:
    """Question, among which classes, classifier, and what one repeat of it says."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for start in range(0, len(classifiers), AT_ONCE):
        loaded = [(name, load()[0].to(device)) for name, load in classifiers[start : start + AT_ONCE]]
        for question, asked in questions.items():
            said: dict[tuple[int, str], list[Answers]] = {}
            seen = 0
            for batch in asked.images.batches():
                labels = torch.from_numpy(asked.images.labels[seen : seen + len(batch)])
                seen += len(batch)
                for place, (_, model) in enumerate(loaded):
                    logits = logits_of(model, batch)
                    for among, columns in asked.among.items():
                        said.setdefault((place, among), []).append(_answer(logits, labels, columns))
            for (place, among), batches in said.items():
                yield question, among, loaded[place][0], _joined(batches)


def _answer(logits: torch.Tensor, labels: torch.Tensor, columns: np.ndarray | None) -> Answers:
    """[B,K], [B]; columns: the only classes that may be answered."""
    if columns is not None:
        allowed = torch.zeros(logits.shape[1], dtype=torch.bool)
        allowed[torch.from_numpy(columns)] = True
        logits = logits.masked_fill(~allowed, -torch.inf)
    five = logits.topk(min(5, logits.shape[1]), dim=1).indices
    return Answers(
        predicted=logits.argmax(1).numpy()[None],
        confidence=logits.softmax(1).amax(1).numpy()[None],
        in_five=(five == labels[:, None]).any(1).numpy()[None],
    )


def _joined(batches: Sequence[Answers]) -> Answers:
    return Answers(
        predicted=np.concatenate([each.predicted for each in batches], axis=1),
        confidence=np.concatenate([each.confidence for each in batches], axis=1),
        in_five=np.concatenate([each.in_five for each in batches], axis=1),
    )
