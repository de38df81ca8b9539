"""The tables of a report, from the results of a corpus: one module per table, or per kind of table."""

from __future__ import annotations

from collections.abc import Callable

from emofuse.report.load import CorpusResults
from emofuse.report.table import Table
from emofuse.report.tables.across import across
from emofuse.report.tables.assumptions import assumptions
from emofuse.report.tables.audit import audit
from emofuse.report.tables.calibration import calibration
from emofuse.report.tables.compactness import compactness
from emofuse.report.tables.comparison import attention, fusion, loss, modality
from emofuse.report.tables.folds import folds
from emofuse.report.tables.literature import literature
from emofuse.report.tables.main import main
from emofuse.report.tables.main import paper as paper
from emofuse.report.tables.recall import recall
from emofuse.report.tables.search import search

TABLES = (
    main, modality, attention, fusion, loss, compactness, literature, audit, across, recall, calibration, folds, search,
    assumptions,
)  # fmt: skip
ALL: dict[str, Callable[[CorpusResults], Table]] = {
    table.__name__: table for table in TABLES
}  # named as in paths.TABLES
