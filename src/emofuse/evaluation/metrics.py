"""The field's scores, fractions in [0, 1], from confusion matrices (..., classes, classes).

Rows are the true emotion, columns the predicted one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts (classes, classes) of two arrays of class indices (clips,)."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def scores(confusion: NDArray[np.number]) -> dict[str, NDArray[np.float64]]:
    """WAR, UAR and macro-F1 of confusion matrices (..., classes, classes), each (...).

    WAR is the accuracy. UAR is the mean recall of the emotions that occur, macro-F1 the mean F1 of
    those that occur or are predicted: what scikit-learn's `accuracy_score`,
    `balanced_accuracy_score` and `f1_score(average="macro")` give.
    """
    confusion = np.asarray(confusion, dtype=np.float64)
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    true, predicted = confusion.sum(-1), confusion.sum(-2)
    f1 = 2 * right / np.maximum(true + predicted, 1)
    return {
        "war": right.sum(-1) / np.maximum(true.sum(-1), 1),
        "uar": recall(confusion, absent=0.0).sum(-1) / np.maximum((true > 0).sum(-1), 1),
        "macro_f1": f1.sum(-1) / np.maximum((true + predicted > 0).sum(-1), 1),
    }


def recall(confusion: NDArray[np.number], absent: float = np.nan) -> NDArray[np.float64]:
    """The recall of each emotion (..., classes) of confusion matrices; `absent` where no clip has it."""
    confusion = np.asarray(confusion, dtype=np.float64)
    true = confusion.sum(-1)
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    return np.where(true > 0, right / np.maximum(true, 1), absent)
