"""Metadata of EmoBox (Ma et al., Interspeech 2024; github.com/emo-box/EmoBox): labels and folds of 32 speech corpora.

A folder of its data/, such as data/ravdess, has <name>.jsonl, with one JSON object per clip (key, wav, emo, …);
label_map.json, with the meaning of each emo; and fold_<k>/<name>_{train,test,valid}_fold_<k>.jsonl. Speakers are not named.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from emofuse.data.own_corpus import names
from emofuse.data.own_corpus.listing import COLUMNS, Listing, Maps, interpreted
from emofuse.datasets.base import actor_named, sorted_actors
from emofuse.datasets.emotions import standard
from emofuse.utils.errors import UserError
from emofuse.utils.files import parse_json, read_json

PARTS = {"train": "train", "test": "test", "valid": "val"}
_FOLD = re.compile(r".*_(train|test|valid)_?fold_?([0-9]+)\.jsonl")
FEWEST = 3  # groups of training clips, where speakers are unknown: some of them are for validation
GROUPS = 5  # into which clips are divided that no fold tests


def read(folder: Path, paths: Iterable[str], pattern: str | None, maps: Maps) -> Listing:
    """List the clips of a folder of EmoBox's metadata among some files, with its folds as a protocol.

    The fields of `pattern`, which is about the keys, give the actors. Without {actor}, the actors are groups of clips that
    are in the same parts of all folds, so that the folds are EmoBox's, but not known to be speaker-independent. Raises
    `UserError` for anything that is not such a folder, and for an actor in two parts of a fold.
    """
    known = pattern is not None and "actor" in names.fields(pattern)
    entries, labels = _entries(folder), _labels(folder)
    parts = _parts(folder)
    actors = {} if known else _groups(entries, parts)
    expression = names.compiled(pattern) if pattern is not None else None
    by_name: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        by_name[PurePosixPath(path).stem].append(path)
    listing, actor_of, used = Listing(actors_known=known), dict[str, str](), set[str]()
    for key, entry in entries.items():
        path = _nearest(by_name[PurePosixPath(entry["wav"]).stem], entry["wav"])
        row = _row(key, entry, path, labels, expression, maps)
        if isinstance(row, str):
            listing.ignored[row].append(path or entry["wav"])
            continue
        row["actor"] = row["actor"] if known else actors[key]
        actor_of[key] = row["actor"]
        used.add(row["file"])
        listing.rows.append(row)
    for path in sorted({path for found in by_name.values() for path in found} - used):
        listing.ignored["that are not in the metadata"].append(path)
    listing.folds = _folds(parts, actor_of)
    return listing


def _row(
    key: str,
    entry: Mapping[str, Any],
    path: str,
    labels: Mapping[str, str],
    expression: re.Pattern[str] | None,
    maps: Maps,
) -> dict[str, str] | str:
    """The columns of a clip; or why it is not listed."""
    if not path:
        return "of the metadata that are not in the folder"
    if "start_time" in entry:
        return "that are parts of longer recordings; cut them first"
    if entry["emo"] not in labels:
        return f"with the label {entry['emo']}, which label_map.json does not mention"
    row = {"file": path, "actor": "", "emotion": standard(labels[entry["emo"]]), "clip": key}
    if expression is not None:
        found = expression.fullmatch(key)
        if not found:
            return "whose keys do not fit --pattern"
        fields = interpreted({name: text for name, text in found.groupdict().items() if name != "emotion"}, maps)
        if isinstance(fields, str):
            return fields
        row |= {name: text for name, text in fields.items() if name in ("actor", "gender", *COLUMNS.values())}
    return row


def _entries(folder: Path) -> dict[str, dict[str, Any]]:
    """Key → entry of the metadata of all clips."""
    files = sorted(folder.glob("*.jsonl"))
    if len(files) != 1:
        raise UserError(
            f"--emobox {folder}: expected a folder of EmoBox's data/, with one .jsonl file; it has {len(files)}"
        )
    return {entry["key"]: entry for entry in _lines(files[0], ("key", "wav", "emo"))}


def _lines(file: Path, required: Sequence[str]) -> list[dict[str, Any]]:
    entries = []
    for number, line in enumerate(_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = parse_json(line)
            if not all(isinstance(entry[key], str) for key in required):
                raise ValueError
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{file}, line {number}: expected a JSON object with {', '.join(required)}") from None
        entries.append(entry)
    return entries


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: it is not UTF-8; get it again") from None


def _labels(folder: Path) -> dict[str, str]:
    """What each label means."""
    file = next((folder / name for name in ("label_map.json", "label_dict.json") if (folder / name).is_file()), None)
    if file is None:
        raise UserError(f"--emobox {folder}: label_map.json is missing; get the whole folder")
    found = read_json(file)
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise UserError(f"{file}: expected a JSON object, label: meaning; get it again")
    return found


def _parts(folder: Path) -> dict[int, dict[str, str]]:
    """Fold, counted from 0, → key → part. Keys in train may be absent from the file of all clips."""
    folds: dict[int, dict[str, str]] = defaultdict(dict)
    for file in sorted(folder.glob("fold*/*.jsonl")):
        if name := _FOLD.fullmatch(file.name):
            for entry in _lines(file, ("key",)):
                part = PARTS[name[1]]
                if folds[int(name[2]) - 1].setdefault(entry["key"], part) != part:
                    raise UserError(f"{file}: {entry['key']} is in two parts of this fold; get it again")
    if not folds or not all("test" in parts.values() for parts in folds.values()):
        raise UserError(f"--emobox {folder}: files of test clips are missing, such as fold_1/…_test_fold_1.jsonl")
    return dict(sorted(folds.items()))


def _groups(keys: Iterable[str], parts: Mapping[int, Mapping[str, str]]) -> dict[str, str]:
    """Key → a group of clips that are in the same part of every fold, in place of its speaker."""
    held_out = {
        key: "-".join(f"{each.get(key, '')[:1]}{fold}" for fold, each in parts.items() if each.get(key) != "train")
        for key in keys
    }
    tested = {group for group in held_out.values() if group}
    if len(tested) <= FEWEST:  # too few others to train and validate on
        for key, group in held_out.items():
            if not group:
                held_out[key] = f"train{int(hashlib.sha256(key.encode()).hexdigest(), 16) % GROUPS}"
    return {key: f"unknown-{group or 'train'}" for key, group in held_out.items()}


def _folds(parts: Mapping[int, Mapping[str, str]], actor_of: Mapping[str, str]) -> dict[int, dict[str, list[str]]]:
    """Fold → "test" or "val" → actors. Raises `UserError` for an actor in two parts of a fold."""
    folds: dict[int, dict[str, list[str]]] = {}
    for fold, of in parts.items():
        placed: dict[str, str] = {}
        for key, actor in actor_of.items():
            part = of.get(key)
            if part and placed.setdefault(actor, part) != part:
                raise UserError(
                    f"--emobox: in fold {fold + 1}, clips of actor {actor} are in {placed[actor]} and in {part}; leave"
                    " out {actor} of --pattern to use these folds as they are"
                )
        folds[fold] = {
            part: [*map(str, sorted_actors(actor_named(actor) for actor, own in placed.items() if own == part))]
            for part in ("test", "val")
            if part in placed.values()
        }
    return folds


def _nearest(candidates: Sequence[str], wanted: str) -> str:
    """The path that agrees with the wanted one in most folders, from the end; "" if there is none."""

    def agreement(path: str) -> int:
        pairs = zip(reversed(PurePosixPath(path).parts[:-1]), reversed(PurePosixPath(wanted).parts[:-1]), strict=False)
        count = 0
        for one, other in pairs:
            if one != other:
                break
            count += 1
        return count

    return max(sorted(candidates), key=agreement, default="")
