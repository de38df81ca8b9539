"""WAR, UAR and macro-F1, fractions in [0, 1], from confusion matrices (..., classes, classes).

Rows of a confusion matrix are true emotions, columns predicted ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NAMES = {"war": "WAR", "uar": "UAR", "macro_f1": "Macro-F1"}


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """The confusion matrix (classes, classes) of true and predicted class indices (clips,)."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def scores(confusion: NDArray[np.number]) -> dict[str, NDArray[np.float64]]:
    """The scores in `NAMES` of confusion matrices (..., classes, classes), each (...).

    WAR is the accuracy. UAR is the mean recall of the emotions that occur. Macro-F1 is the mean F1 of those that occur or
    are predicted. They equal scikit-learn's `accuracy_score`, `balanced_accuracy_score` and `f1_score(average="macro")`.
    """
    confusion = np.asarray(confusion, dtype=np.float64)
    correct = np.diagonal(confusion, axis1=-2, axis2=-1)
    true, predicted = confusion.sum(-1), confusion.sum(-2)
    f1 = 2 * correct / np.maximum(true + predicted, 1)
    return {
        "war": correct.sum(-1) / np.maximum(true.sum(-1), 1),
        "uar": recall(confusion, absent=0.0).sum(-1) / np.maximum((true > 0).sum(-1), 1),
        "macro_f1": f1.sum(-1) / np.maximum((true + predicted > 0).sum(-1), 1),
    }


def recall(confusion: NDArray[np.number], absent: float = np.nan) -> NDArray[np.float64]:
    """The recall of each emotion (..., classes) from confusion matrices; `absent` for emotions without clips."""
    confusion = np.asarray(confusion, dtype=np.float64)
    true = confusion.sum(-1)
    correct = np.diagonal(confusion, axis1=-2, axis2=-1)
    return np.where(true > 0, correct / np.maximum(true, 1), absent)
