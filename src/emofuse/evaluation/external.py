"""Predictions that others made, scored as ours are: their choices, and the clips, labels and folds of data/."""

from __future__ import annotations

import csv
import math
import re
import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emofuse.data.protocols import RANDOM
from emofuse.evaluation import metrics, statistics
from emofuse.report.load import FoldCounts
from emofuse.report.table import percent
from emofuse.report.tables.scores import NAMES, SCORES_NOTE, spread
from emofuse.utils.errors import UserError
from emofuse.utils.files import read_table, sha256
from emofuse.utils.text import ranges

ENDING = re.compile(r"\.(mp4|wav|flac|flv|avi|mp3)$", re.IGNORECASE)

Row = dict[str, str]


@dataclass(frozen=True)
class Scored:
    """What a file of predictions is worth under a protocol, over the folds that it has."""

    corpus: str
    protocol: str
    emotions: tuple[str, ...]
    folds: tuple[FoldCounts, ...]
    missing: tuple[int, ...]  # folds of the protocol without a prediction
    sha256: dict[str, str]  # SHA-256 of the predictions, clips.csv and folds.csv

    @cached_property
    def estimates(self) -> dict[str, statistics.Estimate]:
        """Each score: mean and sd over folds, 95 % interval over actors."""
        return statistics.estimates([fold.actors for fold in self.folds], [fold.confusions for fold in self.folds])

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """(classes, classes), pooled over the folds."""
        return np.asarray(sum(fold.confusion for fold in self.folds))

    def record(self) -> dict[str, Any]:
        """As JSON: scores are fractions, a recall of an emotion that does not occur is None."""
        return {
            "corpus": self.corpus,
            "protocol": self.protocol,
            "emotions": list(self.emotions),
            "folds_not_given": list(self.missing),
            "mean_over_folds": {metric: asdict(estimate) for metric, estimate in self.estimates.items()},
            "pooled": self._counted(self.confusion),
            "folds": [
                {"fold": fold.fold, "actors": fold.actors.tolist()} | fold.scores | self._counted(fold.confusion)
                for fold in self.folds
            ],
            "sha256": self.sha256,
        }

    def _counted(self, confusion: NDArray[np.int64]) -> dict[str, Any]:
        recalls = [None if math.isnan(value) else value for value in metrics.recall(confusion).tolist()]
        return {
            "clips": int(confusion.sum()),
            "recall": dict(zip(self.emotions, recalls, strict=True)),
            "confusion": confusion.tolist(),
        }

    def text(self) -> str:
        """For a person: the scores, those of each fold, and the recall of each emotion, with what they are."""
        actors = {int(actor) for fold in self.folds for actor in fold.actors}
        clips = int(self.confusion.sum())
        given = f"{len(self.folds)} of {len(self.folds) + len(self.missing)} folds"
        notes = [SCORES_NOTE]
        if self.missing:
            notes.append(f"Not given: fold {ranges(self.missing)}. The numbers are over the other folds alone.")
        if self.protocol.startswith(RANDOM):
            notes.append("This protocol has the same actors in training and test: the numbers are not of new speakers.")
        pooled = (percent(value) for value in metrics.recall(self.confusion).tolist())
        parts = [
            f"{self.corpus}, {self.protocol}: {clips:,} test clips of {len(actors)} actors in {given}",
            _columns([[f"{NAMES[metric]} %", *spread(self.estimates[metric]).split("\n")] for metric in NAMES]),
            *map(_wrapped, notes),
            _columns(
                [["Fold", "Test actors", "Clips", *(f"{name} %" for name in NAMES.values())]]
                + [
                    [str(fold.fold), ranges(fold.actors.tolist()), f"{fold.clips:,}"]
                    + [percent(fold.scores[metric]) for metric in NAMES]
                    for fold in self.folds
                ]
            ),
            _columns(
                [["Emotion", "Clips", "Recall %"]]
                + [
                    [emotion, f"{count:,}", share]
                    for emotion, count, share in zip(self.emotions, self.confusion.sum(1), pooled, strict=True)
                ]
                + [["mean (pooled UAR)", f"{clips:,}", percent(float(metrics.scores(self.confusion)["uar"]))]]
            ),
            _wrapped("Recall: pooled, all tested clips of these folds in one matrix, so that the last line may differ"
                     " from the mean over folds above."),
        ]  # fmt: skip
        return "\n\n".join(parts)


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _wrapped(note: str) -> str:
    return textwrap.fill(note, 100)


def score(file: Path, folder: Path, protocol: str, emotions: Sequence[str]) -> Scored:
    """Score a CSV file of predictions against data/<corpus>/splits/<protocol>/; `folder` is data/<corpus>.

    Its column `clip` has the name of clips.csv, of which a path before it and a file's ending after it are ignored.
    `predicted` (or `label`) has the emotion; without it the largest of one column an emotion, `p_<emotion>` or
    `<emotion>`, is taken. `fold` is the fold that tests the clip, and may be absent where only one does. All other
    columns are ignored; an `emotion` that is not that of clips.csv is an error.

    Raises `UserError` for a file that is missing or broken, a prediction that cannot be read, is not of a test clip,
    or is there twice, and for a fold of which only some test clips are predicted.
    """
    clips_file, folds_file = folder / "splits" / protocol / "clips.csv", folder / "splits" / protocol / "folds.csv"
    stage = f"`snakemake {folds_file} --cores 1`"
    clips = {row["clip"]: row for row in read_table(clips_file, ("clip", "actor", "emotion", "usable"), stage)}
    tests: dict[int, list[str]] = defaultdict(list)
    for row in read_table(folds_file, ("fold", "part", "clip"), stage):
        if row["part"] == "test":
            tests[int(row["fold"])].append(row["clip"])
    predicted = _read(file, clips_file, clips, tests, emotions)
    for fold, choices in sorted(predicted.items()):
        lacking = [clip for clip in tests[fold] if clip not in choices]
        if lacking:
            raise UserError(
                f"{file}: fold {fold} has {len(tests[fold])} test clips and {len(lacking)} of them no prediction"
                f" ({', '.join(lacking[:3])}{' …' if len(lacking) > 3 else ''}); a score over chosen clips is none:"
                " predict all of them, or leave the fold out"
            )
    index = {emotion: place for place, emotion in enumerate(emotions)}
    return Scored(
        corpus=folder.name,
        protocol=protocol,
        emotions=tuple(emotions),
        folds=tuple(
            FoldCounts(
                fold,
                tuple(emotions),
                *statistics.actor_confusions(
                    np.array([int(clips[clip]["actor"]) for clip in tests[fold]]),
                    np.array([index[clips[clip]["emotion"]] for clip in tests[fold]]),
                    np.array([index[choices[clip]] for clip in tests[fold]]),
                    len(emotions),
                ),
            )
            for fold, choices in sorted(predicted.items())
        ),
        missing=tuple(sorted(set(tests) - set(predicted))),
        sha256={"predictions": sha256(file), "clips": sha256(clips_file), "folds": sha256(folds_file)},
    )


def _read(
    file: Path,
    clips_file: Path,
    clips: Mapping[str, Row],
    tests: Mapping[int, Sequence[str]],
    emotions: Sequence[str],
) -> dict[int, dict[str, str]]:
    """The predicted emotion by fold and clip."""
    header, rows = _table(file)
    named, chances = _choices(file, header, emotions)
    tested: dict[str, list[int]] = defaultdict(list)
    for fold, names in tests.items():
        for name in names:
            tested[name].append(fold)
    predicted: dict[int, dict[str, str]] = defaultdict(dict)
    for line, row in rows:
        where = f"{file}, line {line}"
        clip = _clip(row["clip"], clips)
        if clip is None:
            raise UserError(f"{where}: there is no clip {row['clip']!r}; name it as in {clips_file}")
        where = f"{where}, {clip}"
        fold = _fold(where, row.get("fold"), tested[clip], clips[clip], tests)
        if row.get("emotion", clips[clip]["emotion"]) != clips[clip]["emotion"]:
            raise UserError(
                f"{where}: its emotion is {row['emotion']!r} here and {clips[clip]['emotion']!r} in {clips_file};"
                " the column is for the true emotion: correct it, or leave it out"
            )
        if clip in predicted[fold]:
            raise UserError(f"{where}: fold {fold} has a prediction of it before; keep one")
        predicted[fold][clip] = _choice(where, row, named, chances, emotions)
    return predicted


def _table(file: Path) -> tuple[list[str], list[tuple[int, Row]]]:
    """The header, and each row with the number of its line."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:  # with the mark that spreadsheets put first
            reader = csv.reader(stream, strict=True)
            header = [name.strip() for name in next(reader, [])]
            found = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if cells]
    except FileNotFoundError:
        raise UserError(f"{file} is missing: name a CSV file of predictions") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): name a CSV file of predictions") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file} is not a CSV file in UTF-8 ({error}): write it anew") from None
    if strange := [name for name in header if not name.isprintable()]:
        raise UserError(f"{file}: a column is named {strange[0]!r}, which cannot be printed; rename it")
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{file}: two columns are named {twice!r}; keep one")
    if "clip" not in header:
        raise UserError(
            f"{file}: no column clip; its first line is {', '.join(header)[:80]!r}:"
            " it has to name the columns, with commas between"
        )
    for line, cells in found:
        if len(cells) != len(header):
            raise UserError(f"{file}, line {line}: {len(cells)} cells under {len(header)} columns; correct it")
    if not found:
        raise UserError(f"{file}: there is no prediction in it; add a row for each test clip")
    return header, [(line, dict(zip(header, cells, strict=True))) for line, cells in found]


def _choices(file: Path, header: Sequence[str], emotions: Sequence[str]) -> tuple[str | None, list[str]]:
    """The column of the predicted emotion, and those of the probabilities in the order of the emotions, where there."""
    named = [name for name in ("predicted", "label") if name in header]
    if len(named) > 1:
        raise UserError(
            f"{file}: which holds the prediction, predicted or label? Keep that one; the truth may stand in emotion"
        )
    sets = [[f"{prefix}{emotion}" for emotion in emotions] for prefix in ("p_", "")]
    chances = next((columns for columns in sets if set(columns) <= set(header)), [])
    if not named and not chances:
        absent = min(([name for name in columns if name not in header] for columns in sets), key=len)
        if len(absent) == len(emotions):
            raise UserError(
                f"{file}: no column predicted, with an emotion, nor one of probabilities for each emotion"
                f" ({', '.join(sets[0])}); add either"
            )
        raise UserError(f"{file}: no column {', '.join(absent)}; probabilities are needed of each emotion")
    others = [name for name in header if name.startswith("p_") and name not in chances]
    if chances == sets[0] and others:
        raise UserError(f"{file}: {others[0]} is of no emotion here; there are {', '.join(emotions)}: leave it out")
    return (named[0] if named else None), chances


def _clip(text: str, clips: Mapping[str, Row]) -> str | None:
    """The clip that a name, a file's name or a path means; None where it means none, or more than one."""
    if text in clips:
        return text
    name = re.split(r"[/\\]", text)[-1]
    meant = {name, ENDING.sub("", name)} & clips.keys()
    return meant.pop() if len(meant) == 1 else None


def _fold(where: str, given: str | None, tested: Sequence[int], clip: Row, tests: Mapping[int, Sequence[str]]) -> int:
    """The fold that a prediction is for, which is one that tests the clip."""
    if clip["usable"] != "true":
        raise UserError(f"{where}: not usable here ({clip.get('reason')}), so that no fold tests it; leave it out")
    if not tested:
        raise UserError(f"{where}: no fold tests it; leave it out")
    if given is None and len(tested) > 1:
        raise UserError(f"{where}: tested in folds {ranges(tested)}; add a column fold that says which one it is")
    if given is None:
        return tested[0]
    known = {str(fold): fold for fold in tests}
    if given not in known:
        raise UserError(f"{where}: there is no fold {given!r}; there are {ranges(tests)}")
    if known[given] not in tested:
        raise UserError(
            f"{where}: fold {given} does not test it, but fold {ranges(tested)} does; leave out what is no test clip"
        )
    return known[given]


def _choice(where: str, row: Row, named: str | None, chances: Sequence[str], emotions: Sequence[str]) -> str:
    """The predicted emotion of a row."""
    values = {emotion: _chance(where, column, row[column]) for emotion, column in zip(emotions, chances, strict=False)}
    highest = max(values.values(), default=None)
    likeliest = [emotion for emotion, value in values.items() if value == highest]
    if named is None:
        if len(likeliest) > 1:
            raise UserError(
                f"{where}: {' and '.join(likeliest)} are equally likely; add a column predicted that decides"
            )
        return likeliest[0]
    if row[named] not in emotions:
        raise UserError(f"{where}: {named} {row[named]!r} is no emotion here; there are {', '.join(emotions)}")
    if likeliest and row[named] not in likeliest:  # such as a column label that holds the truth
        raise UserError(
            f"{where}: {named} is {row[named]}, but the likeliest is {likeliest[0]}; leave out the wrong columns"
        )
    return row[named]


def _chance(where: str, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise UserError(f"{where}: {column} {text!r} is no probability; a finite number, 0 or more, is needed")
    return value
