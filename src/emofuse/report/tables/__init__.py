"""The tables of a report, from its results: a module a table, or a kind of table."""

from emofuse.report.tables.assumptions import assumptions
from emofuse.report.tables.audit import audit
from emofuse.report.tables.calibration import calibration
from emofuse.report.tables.compactness import compactness
from emofuse.report.tables.comparison import attention, fusion, loss, modality
from emofuse.report.tables.folds import folds
from emofuse.report.tables.literature import literature
from emofuse.report.tables.main import main, paper
from emofuse.report.tables.published import RULE_NOTE, judge, published
from emofuse.report.tables.recall import recall
from emofuse.report.tables.scores import NAMES, chance, spread
from emofuse.report.tables.search import search

__all__ = [
    "NAMES", "RULE_NOTE", "assumptions", "attention", "audit", "calibration", "chance", "compactness", "folds", "fusion", "judge",
    "literature", "loss", "main", "modality", "paper", "published", "recall", "search", "spread",
]  # fmt: skip
