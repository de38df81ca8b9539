"""Choose a configuration on validation actors: train candidates on one fold, never open its test clips."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from emofuse import paths
from emofuse.config import Params, Run, overridden
from emofuse.datasets.shards import FOLDERS
from emofuse.training import train as training
from emofuse.utils.errors import UserError
from emofuse.utils.files import read_table, read_yaml, sha256, write_table

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
    """Train every candidate on the train part of `fold`, score it on its validation actors, log it.

    `candidates` is a YAML file: name → {base: variant, network: …, loss: …, training: …}, overrides of
    the variant. Adds a row each to results/<corpus>/search.csv as it goes; a candidate with the same
    overrides that is already there is not trained again. `best` marks the highest validation UAR; whether
    params.yaml follows it is for a person to decide.
    """
    named = _candidates(candidates)
    settings = {stage: getattr(params.corpus(corpus), stage) for stage in FOLDERS.values()}
    features = {stage: made.model_dump(exclude_defaults=True) for stage, made in settings.items() if made}
    whole = {stage: made.model_dump(mode="json") for stage, made in settings.items() if made}
    clips = [sha256(root / file) for file in paths.splits(corpus, protocol) if (root / file).is_file()]
    seed = params.corpus(corpus).seeds[0]
    runs: dict[str, tuple[str, Run]] = {}
    for name, (variant, changes) in named.items():
        runs[name] = (
            json.dumps({"base": variant, "features": features, **changes}),
            overridden(params.run(corpus, variant), changes, f"{candidates}: {name}"),
        )
    table = root / "results" / corpus / "search.csv"
    done = read_table(table) if table.is_file() else []
    for name, (overrides, resolved) in runs.items():
        known = [row for row in done if (row["config"], row["fold"]) == (name, str(fold))]
        if known and known[0]["overrides"] == overrides and known[0]["finished"] == "true":
            continue
        log.info("%s: %s", name, overrides)
        scratch = root / "checkpoints" / "search" / corpus / protocol / f"{name}-fold-{fold}"
        row = {"config": name, "overrides": overrides, "fold": str(fold), "finished": "false"}
        done = [other for other in done if other not in known] + [row]
        weights = {name: root / file for name, file in resolved.network.starts_from.items()}
        identity = json.dumps([resolved.model_dump(mode="json"), whole, clips, seed, fold])
        made = training.train(
            root / "data" / corpus, protocol, fold, seed, resolved, emotions, scratch.with_suffix(".safetensors"),
            scratch.with_suffix(".pt"), identity, weights, _Row(row, table, done), device,
        )  # fmt: skip
        history = read_table(scratch.with_suffix(".csv"))
        best = next(epoch for epoch in history if epoch["best"] == "true")
        row.update({key: f"{float(best[key]):.4f}" for key in SCORES})
        row["seconds"] = f"{made['seconds']:.0f}"
        row["finished"] = "true"
        _write(table, done)
        scratch.with_suffix(".pt").unlink(missing_ok=True)


def _candidates(path: Path) -> dict[str, tuple[str, dict[str, Any]]]:
    """The configurations that a file names: the variant that each starts from, and what it changes."""
    named = read_yaml(path, missing="it names the configurations to try")
    if not isinstance(named, dict) or not named:
        raise UserError(f"{path}: expected configurations, <name>: {{base: <variant>, …}}")
    found = {}
    for name, changes in named.items():
        if not re.fullmatch(r"[a-z0-9_]+", str(name)):
            raise UserError(f"{path}: {name!r} is no name for a configuration: small letters, digits and _ alone")
        if not isinstance(changes, dict) or not isinstance(changes.get("base"), str):
            raise UserError(f"{path}: {name}: base, the variant that it starts from, is missing")
        found[str(name)] = (changes["base"], {key: value for key, value in changes.items() if key != "base"})
    return found


class _Row:
    """Brings a candidate's row up to date after every epoch, so that one that was stopped is logged too."""

    def __init__(self, row: dict[str, str], table: Path, rows: Sequence[dict[str, str]]) -> None:
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


def _write(table: Path, rows: Sequence[dict[str, str]]) -> None:
    tried = [row for row in rows if "val_uar" in row]
    best = max(tried, key=lambda row: float(row["val_uar"]))
    write_table(table, COLUMNS, ({**row, "best": str(row is best).lower()} for row in tried))
