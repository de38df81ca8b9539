"""Compare configurations on the validation actors of one fold. Test clips are never read."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from emofuse import paths
from emofuse.config import LONGEST_NAME, Params, Run, check_fits, overridden
from emofuse.datasets.shards import FOLDERS
from emofuse.paths import RunKey
from emofuse.provenance import code
from emofuse.training import train as training
from emofuse.training.checkpoint import Checkpoint
from emofuse.utils.errors import UserError
from emofuse.utils.files import read_csv, read_yaml, sha256, write_csv

log = logging.getLogger(__name__)

SCORES = ("val_war", "val_uar", "val_loss")
COLUMNS = ("config", "overrides", "fold", "epochs", *SCORES, "seconds", "finished", "best")


def run(
    params: Params,
    corpus: str,
    protocol: str,
    fold: int,
    candidates: Path,
    emotions: Sequence[str],
    root: Path,
    device: torch.device,
) -> None:
    """Train each candidate on the training part of `fold` and score it on the validation part.

    `candidates` is a YAML file: name → {base: variant, network: …, spectrogram: …, loss: …, training: …}, overrides of the variant.
    Each candidate is one row of results/<corpus>/search.csv, updated after each epoch. A finished candidate with the
    same overrides is not trained again. `best` marks the highest validation UAR; params.yaml is not changed.
    """
    named = _candidates(candidates)
    sections = {stage: getattr(params.corpus(corpus), stage) for stage in FOLDERS.values()}
    features = {stage: section.model_dump(exclude_defaults=True) for stage, section in sections.items() if section}
    complete = {stage: section.model_dump(mode="json") for stage, section in sections.items() if section}
    clips = [sha256(root / file) for file in paths.splits(corpus, protocol) if (root / file).is_file()]
    seed = params.corpus(corpus).seeds[0]
    runs: dict[str, tuple[str, Run]] = {}
    for name, (variant, changes) in named.items():
        resolved = overridden(params.run(corpus, variant), changes, f"{candidates}: {name}")
        check_fits(resolved, corpus, params.corpus(corpus), f"{candidates}: {name}")
        described = {"base": variant, "features": features, **changes}
        if resolved.network.package:
            described["package"] = code.of_package(resolved.network.package, root)
        runs[name] = json.dumps(described), resolved
    table = root / paths.search(corpus)
    done: list[dict[Any, Any]] = read_csv(table, COLUMNS).to_dict("records") if table.is_file() else []
    for name, (overrides, resolved) in runs.items():
        known = [row for row in done if (row["config"], row["fold"]) == (name, str(fold))]
        if known and known[0]["overrides"] == overrides and known[0]["finished"] == "true":
            continue
        log.info("%s: %s", name, overrides)
        row = {"config": name, "overrides": overrides, "fold": str(fold), "finished": "false"}
        done = [other for other in done if other not in known] + [row]
        key = RunKey(corpus, protocol, name, seed, fold)
        identity = json.dumps([overrides, resolved.model_dump(mode="json"), complete, clips, seed, fold])
        checkpoint = Checkpoint(root / "checkpoints" / "search" / f"{key}.pt", identity)
        progress, details = training.train(
            key, resolved, emotions, root, checkpoint, _Row(row, table, done), device
        )  # fmt: skip
        best = progress.history[training.best_epoch(progress.history) - 1]
        row.update({score: f"{best[score]:.4f}" for score in SCORES})
        row["seconds"] = f"{details['seconds']:.0f}"
        row["finished"] = "true"
        _write(table, done)
        checkpoint.path.unlink(missing_ok=True)


def _candidates(path: Path) -> dict[str, tuple[str, dict[str, Any]]]:
    """The configurations in a file: the variant that each starts from, and its overrides."""
    named = read_yaml(path, missing="name a YAML file of configurations to try")
    if not isinstance(named, dict) or not named:
        raise UserError(f"{path}: expected configurations, <name>: {{base: <variant>, …}}")
    found = {}
    for name, changes in named.items():
        if not re.fullmatch(r"[a-z0-9_]+", str(name)) or len(str(name)) > LONGEST_NAME:
            raise UserError(
                f"{path}: {str(name)[:LONGEST_NAME]!r} is not a valid name; use up to {LONGEST_NAME} lower-case letters,"
                " digits and _"
            )
        if not isinstance(changes, dict) or not isinstance(changes.get("base"), str):
            raise UserError(f"{path}: {name}: base is missing; name the variant that it starts from")
        found[str(name)] = (changes["base"], {key: value for key, value in changes.items() if key != "base"})
    return found


class _Row:
    """Updates a candidate's row after each epoch, so that an interrupted one is in the table, too."""

    def __init__(self, row: dict[Any, Any], table: Path, rows: Sequence[dict[Any, Any]]) -> None:
        self._row, self._table, self._rows = row, table, rows
        self._started = time.monotonic()

    def resumed(self, history: Sequence[Mapping[str, float]]) -> None:
        for row in history:
            self.epoch(row)

    def epoch(self, row: Mapping[str, float]) -> None:
        if float(self._row.get("val_uar", -1)) < row["val_uar"]:
            self._row.update({key: f"{row[key]:.4f}" for key in SCORES})
        self._row["epochs"] = str(row["epoch"])
        self._row["seconds"] = f"{time.monotonic() - self._started:.0f}"
        _write(self._table, self._rows)


def _write(table: Path, rows: Sequence[dict[Any, Any]]) -> None:
    tried = [row for row in rows if "val_uar" in row]
    best = max(tried, key=lambda row: float(row["val_uar"]))
    marked = [{**row, "best": str(row is best).lower()} for row in tried]
    write_csv(table, pd.DataFrame(marked, columns=list(COLUMNS)))
