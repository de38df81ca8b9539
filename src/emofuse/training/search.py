"""Compare configurations on a development corpus: one whose actors may be looked at to choose a recipe."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from emofuse import paths
from emofuse.config import LONGEST_NAME, Params, Run, check_fits, overridden
from emofuse.data.dataset import read_parts
from emofuse.data.protocols import RANDOM
from emofuse.datasets.shards import FOLDERS
from emofuse.evaluation import metrics
from emofuse.paths import RunKey
from emofuse.provenance import code
from emofuse.provenance.freshness import Chain
from emofuse.training.checkpoint import Checkpoint
from emofuse.training.train import CPU, job_inputs, scores_of, train
from emofuse.utils.console import printable
from emofuse.utils.errors import UserError
from emofuse.utils.files import read_csv, read_yaml, sha256, write_csv
from emofuse.utils.locks import locked
from emofuse.utils.text import ranges

log = logging.getLogger(__name__)

# `inputs` is the SHA-256 of what the row was computed from: all parameters, the features and the splits.
COLUMNS = ("config", "overrides", "protocol", "seed", "fold", "epochs", "war", "uar", "seconds", "inputs")
ROW = ("config", "protocol", "seed", "fold")  # the columns that identify a row


def run(
    params: Params,
    corpus: str,
    protocol: str,
    candidates: Path,
    folds: str | None,
    seed: int | None,
    root: Path,
    device: torch.device = CPU,
) -> None:
    """Train each candidate to the last epoch on the training actors of each fold, and score it on the fold's test actors.

    `candidates` is a YAML file: name → {base: variant, network: …, spectrogram: …, loss: …, training: …}, overrides of the
    variant. `folds` are numbers separated by commas, None for those of params.yaml; `seed` is None for the corpus's first.

    Each candidate has one row per fold in results/<corpus>/search.csv, written once it has been scored. A row whose
    overrides, features and splits have not changed is not computed again. Other processes may compare other candidates at the
    same time. Raises `UserError` for a corpus on which nothing may be selected, mistakes in the arguments, and stale files.
    """
    chosen, emotions = _folds(params, corpus, protocol, folds), params.corpus(corpus).emotions
    resolved = {
        name: _resolved(params, corpus, base, changes, f"{candidates}: {name}")
        for name, (base, changes) in _candidates(candidates).items()
    }
    table, lock = root / paths.search(corpus), root / "checkpoints" / "search" / f"{corpus}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    for name, (described, setup) in resolved.items():
        inputs = _inputs(params, corpus, protocol, setup, root)
        for fold in chosen:
            key = RunKey(corpus, protocol, name, params.corpus(corpus).seeds[0] if seed is None else seed, fold)
            parameters = json.dumps([described, setup.model_dump(mode="json"), inputs, key.asdict()], sort_keys=True)
            identity = hashlib.sha256(parameters.encode()).hexdigest()
            if any(row["inputs"] == identity for row in _rows(table)):
                continue
            log.info("%s, fold %d: %s", name, fold, described)
            checkpoint = Checkpoint(root / "checkpoints" / "search" / f"{key}.pt", identity)
            progress, details = train(key, setup, emotions, root, checkpoint, device=device)
            scores = _scores(key, setup, emotions, progress.kept, root, device)
            log.info("%s, fold %d: WAR %.1f %%, UAR %.1f %%", name, fold, 100 * scores["war"], 100 * scores["uar"])
            row = {
                "config": name,
                "overrides": described,
                "protocol": protocol,
                "seed": str(key.seed),
                "fold": str(fold),
                "epochs": str(details["epochs"]),
                **{score: f"{scores[score]:.4f}" for score in ("war", "uar")},
                "seconds": f"{details['seconds']:.0f}",
                "inputs": identity,
            }
            with locked(lock):
                _write(table, row)
            checkpoint.path.unlink(missing_ok=True)


def _folds(params: Params, corpus: str, protocol: str, folds: str | None) -> list[int]:
    """The folds to compare candidates on. Raises `UserError` if there are none on which a recipe may be selected."""
    section = params.corpus(corpus)
    params.settings("splits", corpus, protocol=protocol)  # raises for an unknown protocol
    if not section.development:
        raise UserError(
            f"corpora.{corpus} is not a development corpus: a recipe that is selected on its actors would be tested on the same"
            " actors; search on a corpus with development: true, or set training.selection: nested"
        )
    if protocol.startswith(RANDOM):
        raise UserError(f"{protocol}: its test actors are also trained on; search under a protocol by actor")
    planned = section.protocols[protocol]
    if folds is None:
        return planned
    if not re.fullmatch(r"\d{1,4}(,\d{1,4})*", folds, re.ASCII):
        raise UserError(f"--folds {printable(repr(folds))}: expected numbers separated by commas, such as 0,1")
    for fold in map(int, folds.split(",")):
        if fold not in planned:
            raise UserError(
                f"--folds: corpora.{corpus}.protocols.{protocol} has no fold {fold}; it has {ranges(planned)}"
            )
    return list(dict.fromkeys(map(int, folds.split(","))))


def _resolved(params: Params, corpus: str, variant: str, changes: Mapping[str, Any], where: str) -> tuple[str, Run]:
    """A candidate: its description for the table, as JSON, and what it is trained with."""
    setup = overridden(params.run(corpus, variant), changes, where)
    check_fits(setup, corpus, params.corpus(corpus), where)
    if setup.training.selection != "last":
        raise UserError(f"{where}.training.selection: candidates are trained to the last epoch; set it to last")
    sections = {stage: getattr(params.corpus(corpus), stage) for stage in FOLDERS.values()}
    features = {stage: section.model_dump(exclude_defaults=True) for stage, section in sections.items() if section}
    return json.dumps({"base": variant, "features": features, **changes}), setup


def _inputs(params: Params, corpus: str, protocol: str, setup: Run, root: Path) -> dict[str, str]:
    """The SHA-256 of the features, splits and weights that a candidate is trained with, and of its network's package."""
    files = job_inputs(params, corpus, protocol, setup.network)
    Chain(params, root).refuse(files)
    hashes = {file: sha256(root / file) for file in files if (root / file).is_file()}
    if setup.network.package:
        hashes[setup.network.package] = code.of_package(setup.network.package, root)
    return hashes


def _scores(
    key: RunKey,
    setup: Run,
    emotions: tuple[str, ...],
    weights: Mapping[str, torch.Tensor],
    root: Path,
    device: torch.device,
) -> dict[str, float]:
    """WAR and UAR on the test clips of a fold."""
    (part,) = read_parts(root, key, ["test"], setup, emotions)
    predicted = scores_of(weights, setup, emotions, part, root, device).argmax(1).numpy()
    return {
        name: float(value)
        for name, value in metrics.scores(metrics.confusion(part.labels, predicted, len(emotions))).items()
    }


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
        if unknown := [key for key in changes if key not in ("base", *Run.model_fields)]:
            known = ", ".join(["base", *Run.model_fields])
            raise UserError(f"{path}: {name}.{printable(str(unknown[0]))}: no such section; there are {known}")
        found[str(name)] = (changes["base"], {key: value for key, value in changes.items() if key != "base"})
    return found


def _rows(table: Path) -> list[dict[Any, Any]]:
    return read_csv(table, COLUMNS).to_dict("records") if table.is_file() else []


def _write(table: Path, row: Mapping[str, str]) -> None:
    """Add a row to the table, in the place of the one with the same name, protocol, seed and fold."""
    import pandas as pd

    rows = {tuple(each[name] for name in ROW): each for each in _rows(table)}
    rows[tuple(row[name] for name in ROW)] = dict(row)
    write_csv(table, pd.DataFrame(list(rows.values()), columns=list(COLUMNS)))
