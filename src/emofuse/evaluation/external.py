"""Score external predictions exactly as ours are scored, with the clips, labels and folds in data/<corpus>."""

from __future__ import annotations

import codecs
import csv
import io
import math
import re
import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emofuse import paths
from emofuse.data.protocols import RANDOM
from emofuse.datasets.emotions import standard
from emofuse.evaluation import metrics, statistics
from emofuse.evaluation.metrics import NAMES
from emofuse.evaluation.text import ACTORS_UNKNOWN, SCORES_NOTE, spread
from emofuse.utils.errors import UserError
from emofuse.utils.files import parse_json, read_csv, sha256
from emofuse.utils.stand_ins import stand_in
from emofuse.utils.text import percent, ranges

SUFFIX = re.compile(r"\.(mp4|wav|flac|flv|avi|mp3)$", re.IGNORECASE)

DELIMITERS = (",", ";", "\t")
EMOBOX = '{"key": clip, "pred": emotion}'
WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # .xlsx and .ods, and .xls

Row = dict[str, str]


@dataclass(frozen=True)
class Scores:
    """The scores of predictions under a protocol, over the folds that they cover."""

    corpus: str
    protocol: str
    emotions: tuple[str, ...]
    folds: tuple[int, ...]
    actors: tuple[NDArray[Any], ...]  # of each fold
    confusions: tuple[NDArray[np.int64], ...]  # of each fold, by actor: (A, classes, classes)
    missing: tuple[int, ...]  # folds of the protocol without predictions
    sha256: dict[str, str]  # of the predictions, clips.csv and folds.csv
    actors_known: bool = True

    @cached_property
    def estimates(self) -> dict[str, statistics.Estimate]:
        """Each score: mean and standard deviation over folds, and the 95 % interval over actors."""
        return statistics.estimates(self.actors, [confusions[:, None] for confusions in self.confusions])

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """The confusion matrix (classes, classes), pooled over the folds."""
        return np.concatenate(self.confusions).sum(0)

    def record(self) -> dict[str, Any]:
        """As JSON. Scores are fractions; the recall of an emotion without clips is None."""
        return {
            "corpus": self.corpus,
            "protocol": self.protocol,
            "emotions": list(self.emotions),
            "folds_not_given": list(self.missing),
            "mean_over_folds": {
                metric: {"mean": found.mean, "sd": found.sd_folds, "low": found.low, "high": found.high}
                for metric, found in self.estimates.items()
            },
            "pooled": self._counts(self.confusion),
            "folds": [
                {"fold": fold, "actors": actors.tolist()} | _scores(confusions.sum(0)) | self._counts(confusions.sum(0))
                for fold, actors, confusions in zip(self.folds, self.actors, self.confusions, strict=True)
            ],
            "sha256": self.sha256,
        }

    def _counts(self, confusion: NDArray[np.int64]) -> dict[str, Any]:
        recalls = [None if math.isnan(value) else value for value in metrics.recall(confusion).tolist()]
        return {
            "clips": int(confusion.sum()),
            "recall": dict(zip(self.emotions, recalls, strict=True)),
            "confusion": confusion.tolist(),
        }

    def text(self) -> str:
        """For the terminal: the scores, those of each fold, and the recall of each emotion."""
        actors = np.unique(np.concatenate(self.actors))
        clips = int(self.confusion.sum())
        notes = [SCORES_NOTE]
        if self.missing:
            notes.append(f"Not given: fold {ranges(self.missing)}. The scores cover only the other folds.")
        if not self.actors_known:
            notes.insert(0, ACTORS_UNKNOWN)
        if self.protocol.startswith(RANDOM):
            notes.append(
                "Under this protocol, training and test clips share actors: the scores do not apply to new speakers."
            )
        folds = [["Fold", "Test actors", "Clips", *(f"{name} %" for name in NAMES.values())]]
        for fold, present, confusions in zip(self.folds, self.actors, self.confusions, strict=True):
            scores = _scores(confusions.sum(0))
            cells = [str(fold), ranges(present.tolist()), f"{confusions.sum():,}"]
            folds.append([*cells, *(percent(scores[metric]) for metric in NAMES)])
        recalls = [["Emotion", "Clips", "Recall %"]]
        for emotion, count, recall in zip(
            self.emotions, self.confusion.sum(1), metrics.recall(self.confusion).tolist(), strict=True
        ):
            recalls.append([emotion, f"{count:,}", percent(recall)])
        recalls.append(["mean (pooled UAR)", f"{clips:,}", percent(_scores(self.confusion)["uar"])])
        parts = [
            f"{self.corpus}, {self.protocol}: {clips:,} test clips of {len(actors)} actors in"
            f" {len(self.folds)} of {len(self.folds) + len(self.missing)} folds",
            _columns([[f"{name} %", *spread(self.estimates[metric]).split("\n")] for metric, name in NAMES.items()]),
            *map(_wrapped, notes),
            _columns(folds),
            _columns(recalls),
            _wrapped(
                "Recalls are from the confusion matrix pooled over these folds. Their mean may therefore differ from the"
                " mean UAR over folds above."
            ),
        ]
        return "\n\n".join(parts)


def _scores(confusion: NDArray[np.int64]) -> dict[str, float]:
    return {metric: float(value) for metric, value in metrics.scores(confusion).items()}


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _wrapped(note: str) -> str:
    return textwrap.fill(note, 100)


def score(
    file: Path, corpus: str, protocol: str, emotions: Sequence[str], root: Path, actors_known: bool = True
) -> Scores:
    """Score a CSV file of predictions for the test clips of a protocol.

    JSON in EmoBox's format, {"key": clip, "pred": emotion}, is read, too. Cells are separated by commas, or by semicolons or tabs; only then may numbers have decimal commas. Columns of the
    file: `clip` is the name in clips.csv; a directory and a media suffix are ignored. `predicted` or `label` is the
    emotion; without it, the emotion with the highest probability is used, from one column per emotion,
    `p_<emotion>` or `<emotion>`. `fold` is the fold that tests the clip, and is optional if only one does. `emotion`,
    if present, must be the true emotion. Other columns are ignored.

    Raises `UserError` for a file that is missing or malformed; for a prediction that is invalid, duplicate, or not of a
    test clip; and for a fold whose test clips are only partly predicted.
    """
    clips_file, folds_file = (root / path for path in paths.splits(corpus, protocol))
    stage = f"`snakemake {folds_file} --cores 1`"
    clips = read_csv(clips_file, ("clip", "actor", "emotion", "usable"), stage).set_index("clip", drop=False)
    folds = read_csv(folds_file, ("fold", "part", "clip"), stage)
    tests = {int(str(fold)): names.tolist() for fold, names in folds[folds["part"] == "test"].groupby("fold")["clip"]}
    rows: dict[str, Row] = clips.to_dict("index")  # type: ignore[assignment]
    predicted = _read(file, clips_file, rows, tests, emotions)
    for fold, predictions in predicted.items():
        missing = [clip for clip in tests[fold] if clip not in predictions]
        if missing:
            raise UserError(
                f"{file}: fold {fold} has {len(tests[fold])} test clips, of which {len(missing)} have no prediction"
                f" ({', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}): predict all of them, or none of the fold"
            )
    index = {emotion: number for number, emotion in enumerate(emotions)}
    by_actor = [
        statistics.actor_confusions(
            statistics.actor_array(clips.loc[tests[fold], "actor"]),
            clips.loc[tests[fold], "emotion"].map(index).to_numpy(),
            np.array([index[predictions[clip]] for clip in tests[fold]]),
            len(emotions),
        )
        for fold, predictions in predicted.items()
    ]
    return Scores(
        corpus=corpus,
        protocol=protocol,
        emotions=tuple(emotions),
        folds=tuple(predicted),
        actors=tuple(actors for actors, _ in by_actor),
        confusions=tuple(confusions for _, confusions in by_actor),
        missing=tuple(sorted(set(tests) - set(predicted))),
        sha256={"predictions": sha256(file), "clips": sha256(clips_file), "folds": sha256(folds_file)},
        actors_known=actors_known,
    )


def _read(
    file: Path,
    clips_file: Path,
    clips: Mapping[str, Row],
    tests: Mapping[int, Sequence[str]],
    emotions: Sequence[str],
) -> dict[int, dict[str, str]]:
    """The predicted emotions: fold → clip → emotion, in the order of the folds."""
    header, rows, commas = _table(file)
    label, probabilities = _prediction_columns(file, header, emotions)
    folds_of: dict[str, list[int]] = defaultdict(list)
    for fold, names in tests.items():
        for name in names:
            folds_of[name].append(fold)
    predicted: dict[int, dict[str, str]] = defaultdict(dict)
    for line, row in rows:
        where = f"{file}, line {line}"
        clip = _clip(row["clip"], clips)
        if clip is None:
            raise UserError(f"{where}: there is no clip {row['clip']!r}; name it as in {clips_file}")
        where = f"{where}, {clip}"
        fold = _fold(where, row.get("fold"), folds_of[clip], clips[clip], tests)
        if row.get("emotion", clips[clip]["emotion"]) != clips[clip]["emotion"]:
            raise UserError(
                f"{where}: the emotion is {row['emotion']!r} here but {clips[clip]['emotion']!r} in {clips_file}:"
                " the column is for the true emotion; correct or remove it"
            )
        if clip in predicted[fold]:
            raise UserError(f"{where}: fold {fold} already has a prediction for it; keep only one")
        predicted[fold][clip] = _predicted(where, row, label, probabilities, emotions, commas)
    return dict(sorted(predicted.items()))


def _table(file: Path) -> tuple[list[str], list[tuple[int, Row]], bool]:
    """The header, each row with its line number, which pandas does not report, and whether decimal commas are possible."""
    text = _text(file)
    if text.lstrip()[:1] in ("{", "["):
        return _json_table(file, text)
    delimiter = _delimiter(text)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
        header = [name.strip() for name in next(reader, [])]
        if header[:1] == ["sep="]:
            header = [name.strip() for name in next(reader, [])]
        found = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except csv.Error as error:
        raise UserError(f"{file} is not a CSV file ({error}): export it again") from None
    found = [(line, cells) for line, cells in found if any(cells)]
    while header and not header[-1] and not any(any(cells[len(header) - 1 :]) for _, cells in found):
        header.pop()  # spreadsheets write columns and rows that have been emptied
        found = [(line, cells[: len(header)]) for line, cells in found]
    if unprintable := [name for name in header if not name.isprintable()]:
        raise UserError(f"{file}: the column name {unprintable[0]!r} is not printable; rename it")
    duplicate = next((name for name in header if header.count(name) > 1), None)
    if duplicate is not None:
        raise UserError(f"{file}: there are two columns {duplicate!r}; keep one")
    if "clip" not in header:
        raise UserError(
            f"{file}: there is no column clip; the first line is {delimiter.join(header)[:80]!r}:"
            " it must contain the column names, separated by commas, semicolons or tabs"
        )
    for line, cells in found:
        if len(cells) != len(header):
            raise UserError(f"{file}, line {line}: {len(cells)} cells for {len(header)} columns; correct it")
    if not found:
        raise UserError(f"{file}: there are no predictions; add a row for each test clip")
    return header, [(line, dict(zip(header, cells, strict=True))) for line, cells in found], delimiter != ","


def _json_table(file: Path, text: str) -> tuple[list[str], list[tuple[int, Row]], bool]:
    """The same of predictions in EmoBox's format: {"key": …, "pred": …}, one per line or in a list."""
    try:
        lines = [(n, line) for n, line in enumerate(text.splitlines(), start=1) if line.strip()]
        whole = text.lstrip().startswith("[")
        found = list(enumerate(parse_json(text), start=1)) if whole else [(n, parse_json(line)) for n, line in lines]
    except ValueError as error:
        raise UserError(f"{file} is not JSON ({error}): expected {EMOBOX}") from None
    rows = []
    for number, entry in found:
        try:
            rows.append((number, {"clip": str(entry["key"]), "predicted": str(entry["pred"])}))
        except (KeyError, TypeError):
            raise UserError(f"{file}, {'entry' if whole else 'line'} {number}: expected {EMOBOX}") from None
    if not rows:
        raise UserError(f"{file}: there are no predictions; add one for each test clip")
    return ["clip", "predicted"], rows, False


def _text(file: Path) -> str:
    """The text of a file, in UTF-8 or, with a byte order mark, UTF-16, as spreadsheets write it."""
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{file} is missing: name a CSV file of predictions") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): name a CSV file of predictions") from None
    if instead := stand_in(data, "the file"):
        raise UserError(f"{file}: {instead}")
    if data.startswith(WORKBOOKS):
        raise UserError(f"{file} is a workbook of a spreadsheet program: save it as CSV")
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = data.decode(encoding)
        if "\0" in text:
            raise ValueError("it contains zero bytes")  # UTF-16 without a byte order mark, or no text at all
        return text
    except ValueError as error:
        raise UserError(f"{file} is not a CSV file in UTF-8 ({error}): save it as CSV UTF-8") from None


def _delimiter(text: str) -> str:
    """What separates the cells: the one that gives a column clip; a comma if none does."""
    if text.startswith("sep=") and text[4:5] in DELIMITERS:  # a line for Excel
        return text[4]
    first = re.split(r"[\r\n]", text, maxsplit=1)[0]
    return next((each for each in DELIMITERS if "clip" in [cell.strip(' "') for cell in first.split(each)]), ",")


def _prediction_columns(file: Path, header: Sequence[str], emotions: Sequence[str]) -> tuple[str | None, list[str]]:
    """The column of the predicted emotion, if any, and those of the probabilities in the order of `emotions`, if any."""
    labels = [name for name in ("predicted", "label") if name in header]
    if len(labels) > 1:
        raise UserError(
            f"{file}: there are two columns of predictions, predicted and label; keep one (the true emotion may be in"
            " emotion)"
        )
    candidates = [[f"{prefix}{emotion}" for emotion in emotions] for prefix in ("p_", "")]
    probabilities = next((columns for columns in candidates if set(columns) <= set(header)), [])
    if not labels and not probabilities:
        absent = min(([name for name in columns if name not in header] for columns in candidates), key=len)
        if len(absent) == len(emotions):
            raise UserError(
                f"{file}: there is neither a column predicted, with an emotion, nor one probability per emotion"
                f" ({', '.join(candidates[0])}); add either"
            )
        raise UserError(f"{file}: there is no column {', '.join(absent)}; add a probability for each emotion")
    others = [name for name in header if name.startswith("p_") and name not in probabilities]
    if probabilities == candidates[0] and others:
        raise UserError(
            f"{file}: {others[0]} is not an emotion of this corpus; remove it (there are {', '.join(emotions)})"
        )
    return (labels[0] if labels else None), probabilities


def _clip(text: str, clips: Mapping[str, Row]) -> str | None:
    """The clip with a name, file name or path; None if there is none or more than one."""
    if text in clips:
        return text
    name = re.split(r"[/\\]", text)[-1]
    without = SUFFIX.sub("", name)
    key = without.partition("-")[2]  # EmoBox's keys start with the name of the corpus
    matches = {name, without, key} & clips.keys()
    return matches.pop() if len(matches) == 1 else None


def _fold(where: str, given: str | None, folds: Sequence[int], clip: Row, tests: Mapping[int, Sequence[str]]) -> int:
    """The fold of a prediction, which must be one of the `folds` that test the clip."""
    if clip["usable"] != "true":
        raise UserError(f"{where}: it is not usable here ({clip.get('reason')}) and is not tested; remove it")
    if not folds:
        raise UserError(f"{where}: no fold tests it; remove it")
    if given is None and len(folds) > 1:
        raise UserError(f"{where}: it is tested in folds {ranges(folds)}; add a column fold")
    if given is None:
        return folds[0]
    known = {str(fold): fold for fold in tests}
    if given not in known:
        raise UserError(f"{where}: there is no fold {given!r}; there are {ranges(tests)}")
    if known[given] not in folds:
        raise UserError(
            f"{where}: fold {given} does not test it, fold {ranges(folds)} does; remove it, or correct the fold"
        )
    return known[given]


def _predicted(
    where: str, row: Row, label: str | None, columns: Sequence[str], emotions: Sequence[str], commas: bool
) -> str:
    """The predicted emotion of a row, from its label, or the highest of its probabilities."""
    values = {
        emotion: _probability(where, column, row[column], commas)
        for emotion, column in zip(emotions, columns, strict=False)
    }
    highest = max(values.values(), default=None)
    most_probable = [emotion for emotion, value in values.items() if value == highest]
    if label is None:
        if len(most_probable) > 1:
            raise UserError(f"{where}: {' and '.join(most_probable)} are equally probable; add a column predicted")
        return most_probable[0]
    if standard(row[label]) in emotions:
        row[label] = standard(row[label])
    if row[label] not in emotions:
        raise UserError(f"{where}: {label} {row[label]!r} is not an emotion of this corpus: use {', '.join(emotions)}")
    if most_probable and row[label] not in most_probable:  # for instance, if a column `label` has the true emotions
        raise UserError(
            f"{where}: {label} is {row[label]}, but the most probable emotion is {most_probable[0]}; remove the wrong"
            " columns"
        )
    return row[label]


def _probability(where: str, column: str, text: str, commas: bool) -> float:
    try:
        value = float(text.replace(",", ".") if commas else text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise UserError(f"{where}: {column} {text!r} is not a probability; use a finite number of at least 0")
    return value
