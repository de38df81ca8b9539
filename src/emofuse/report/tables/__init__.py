"""The tables of a report, from the results of a corpus: one module per table, or per kind of table."""

from __future__ import annotations

from collections.abc import Callable

from emofuse.evaluation.metrics import NAMES
from emofuse.report.load import CorpusResults
from emofuse.report.table import Table
from emofuse.report.tables.assumptions import assumptions
from emofuse.report.tables.audit import audit
from emofuse.report.tables.calibration import calibration
from emofuse.report.tables.compactness import compactness
from emofuse.report.tables.comparison import attention, fusion, loss, modality
from emofuse.report.tables.folds import folds
from emofuse.report.tables.literature import literature
from emofuse.report.tables.main import main, paper
from emofuse.report.tables.recall import recall
from emofuse.report.tables.search import search

ALL: dict[str, Callable[[CorpusResults], Table]] = {
    "main": main,
    "modality": modality,
    "attention": attention,
    "fusion": fusion,
    "loss": loss,
    "compactness": compactness,
    "literature": literature,
    "audit": audit,
    "recall": recall,
    "calibration": calibration,
    "folds": folds,
    "search": search,
    "assumptions": assumptions,
}  # by the names of their files, paths.TABLES

__all__ = [
    "ALL", "NAMES", "assumptions", "attention", "audit", "calibration", "compactness", "folds", "fusion", "literature",
    "loss", "main", "modality", "paper", "recall", "search",
]  # fmt: skip
