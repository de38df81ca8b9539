"""The field's scores, from a confusion matrix."""

from __future__ import annotations

import numpy as np


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts (classes, classes): rows are what it was, columns what was predicted."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def scores(confusion_CC: np.ndarray) -> dict[str, float]:
    """WAR (accuracy), UAR (mean recall) and macro-F1, each in [0, 1], over the classes that occur.

    A class with neither clips nor predictions counts for nothing; one that is predicted but does not
    occur counts as F1 0, as in scikit-learn.
    """
    hits = np.diag(confusion_CC)
    occurs, predicted = confusion_CC.sum(1), confusion_CC.sum(0)
    recall = hits[occurs > 0] / occurs[occurs > 0]
    either = occurs + predicted > 0
    f1 = 2 * hits[either] / (occurs + predicted)[either]
    return {
        "war": float(hits.sum() / confusion_CC.sum()),
        "uar": float(recall.mean()),
        "macro_f1": float(f1.mean()),
    }
