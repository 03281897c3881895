"""stand-in until the merge"""

from __future__ import annotations

import numpy as np


def random(features: np.ndarray, num: int, seed: int) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).permutation(len(features))[:num])


def herding(features: np.ndarray, num: int, seed: int) -> np.ndarray:
    mu, total = features.mean(0), np.zeros(features.shape[1])
    rows: list[int] = []
    for k in range(num):
        score = ((total + features) / (k + 1) - mu) ** 2
        cost = score.sum(1)
        cost[rows] = np.inf
        rows.append(int(cost.argmin()))
        total = total + features[rows[-1]]
    return np.array(rows)


def k_center(features: np.ndarray, num: int, seed: int) -> np.ndarray:
    rows = [int(((features - features.mean(0)) ** 2).sum(1).argmin())]
    near = ((features - features[rows[0]]) ** 2).sum(1)
    while len(rows) < num:
        rows.append(int(near.argmax()))
        near = np.minimum(near, ((features - features[rows[-1]]) ** 2).sum(1))
    return np.array(rows)
