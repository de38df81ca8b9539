"""Choose a configuration on validation actors: train candidates on one fold, never open its test clips."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import yaml

from emofuse import training
from emofuse.errors import UserError
from emofuse.files import atomic, read_json, write_json
from emofuse.params import Params, Run, overridden
from emofuse.splits import read_table

log = logging.getLogger(__name__)

COLUMNS = ("config", "overrides", "fold", "epochs", "val_war", "val_uar", "val_loss", "seconds", "chosen")


def run(
    params: Params, corpus: str, protocol: str, fold: int, candidates: Path, emotions: Sequence[str], root: Path
) -> None:
    """Train every candidate on the train part of `fold`, score it on its validation actors, log it.

    `candidates` is a YAML file: name → {base: variant, network: …, loss: …, training: …}, overrides of
    the variant. Adds a row each to results/<corpus>/search.csv as it goes; a candidate with the same
    overrides that is already there is not trained again. `chosen` marks the best validation UAR; whether
    params.yaml follows it is for a person to decide.
    """
    try:
        chosen_from = yaml.safe_load(candidates.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{candidates} is missing: it names the configurations to try") from None
    except yaml.YAMLError as error:
        raise UserError(f"{candidates}: not YAML: {' '.join(str(error).split())}") from None
    runs: dict[str, tuple[str, Run]] = {}
    for name, changes in chosen_from.items():
        changes = dict(changes)
        variant = changes.pop("base")
        runs[name] = (
            json.dumps({"base": variant, **changes}),
            overridden(params.run(corpus, variant), changes, f"{candidates}: {name}"),
        )
    table = root / "results" / corpus / "search.csv"
    done = read_table(table) if table.is_file() else []
    for name, (overrides, resolved) in runs.items():
        if any((row["config"], row["overrides"], row["fold"]) == (name, overrides, str(fold)) for row in done):
            continue
        log.info("%s: %s", name, overrides)
        scratch = root / "checkpoints" / "search" / corpus / protocol / f"{name}-fold-{fold}"
        stamp = scratch.with_suffix(".stamp.json")
        write_json(stamp, resolved.model_dump())
        model = scratch.with_suffix(".safetensors")
        training.train(
            root / "data" / corpus, protocol, fold, params.corpus(corpus).seeds[0], resolved, emotions, model,
            scratch.with_suffix(".pt"), stamp, {},
        )  # fmt: skip
        record = read_json(model.with_suffix(".json"))
        best = next(row for row in read_table(model.with_suffix(".csv")) if row["best"] == "true")
        done = [row for row in done if (row["config"], row["fold"]) != (name, str(fold))]
        done.append(
            {
                "config": name,
                "overrides": overrides,
                "fold": str(fold),
                "epochs": str(record["epochs"]),
                **{key: best[key] for key in ("val_war", "val_uar", "val_loss")},
                "seconds": str(record["seconds"]),
            }
        )
        _write(table, done)


def _write(table: Path, rows: Sequence[dict[str, str]]) -> None:
    best = max(rows, key=lambda row: float(row["val_uar"]))
    with atomic(table) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "chosen": str(row is best).lower()} for row in rows)
