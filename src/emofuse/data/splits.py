"""The splits stage: which clips are usable, and which of them train, validate and test each fold."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from emofuse import paths
from emofuse.data import exclusion_counts
from emofuse.data.protocols import RANDOM, protocol_path, read_protocol
from emofuse.datasets import shards
from emofuse.datasets.base import Actor, actor_named, sorted_actors
from emofuse.provenance.job import job
from emofuse.utils.errors import UserError
from emofuse.utils.files import read_csv, write_csv

if TYPE_CHECKING:
    from emofuse.config import Corpus, Params

log = logging.getLogger(__name__)

CLIP_COLUMNS = (
    *("clip", "shard", "faces_row", "audio_row", "audio_rows", "audio_span", "actor", "gender", "emotion", "group"),
    *("usable", "reason", "replaced"),
)
STAGE_COLUMNS = {
    "faces": ["clip", "row", "status", "replaced"],
    "audio": ["clip", "row", "rows", "span", "status"],
}
PARTS = ("train", "val", "test")
TRAIN, VAL, TEST = range(3)  # codes of PARTS

Protocol = Mapping[int, Mapping[str, Sequence[Actor]]]  # fold → "test" and possibly "val" → actors


def stage(params: Params, corpus: str, protocol: str, root: Path = Path()) -> None:
    """`emofuse splits`: join the status of every stage and split the usable clips, in data/<corpus>/splits/<protocol>/."""
    key = {"corpus": corpus, "protocol": protocol}
    params.settings("splits", **key)  # raises for an unknown protocol
    section = params.corpus(corpus)
    published = protocol_path(section.protocol_folder, protocol)
    tables = [table for _, table in shards.features(corpus, section)]
    inputs = [*tables, paths.index(corpus), *([str(published)] if published else [])]
    outputs = paths.splits(corpus, protocol)
    with job("splits", params, key, paths.splits_record(corpus, protocol), inputs, outputs, root):
        clips, folds = build(corpus, section, protocol, read_protocol(root / published) if published else None, root)
        for path, frame in zip(outputs, (clips, folds), strict=True):
            write_csv(root / path, frame)


def build(
    name: str, corpus: Corpus, protocol: str, published: Protocol | None, root: Path
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The clips of a corpus (with CLIP_COLUMNS), and the folds of a protocol (fold, part, clip).

    `published` is the content of a published protocol's file, None for kfold_<k>. Raises `UserError` if more than
    `max_unusable` of the clips are unusable, or if a fold that params.yaml asks for lacks a part.
    """
    folder = root / "data" / name
    stages = [stage for stage, section in (("faces", corpus.faces), ("audio", corpus.audio)) if section]
    features = {stage: feature_table(name, stage, corpus.shards, root) for stage in stages}
    clips = join(read_csv(root / paths.index(name)), features)
    where = f"{folder}: index.csv{''.join(f', {stage}/*.csv' for stage in stages)}"
    usable = usable_clips(name, clips, corpus.max_unusable, where)
    base = protocol.removeprefix(RANDOM)
    if published is None:
        assigned = kfold(_genders(usable), int(base.rpartition("_")[2]), corpus.split_seed)
        published = {fold: {"test": actors} for fold, actors in assigned.items()}
    split = actor_folds if base == protocol else random_folds
    folds = split(usable, published, corpus.validation_actors, f"{base} {corpus.split_seed}")
    present = folds.groupby(["fold", "part"], observed=True).size().index
    for fold in corpus.protocols[protocol]:
        for part in PARTS:
            if (fold, part) not in present:
                raise UserError(
                    f"corpora.{name}.protocols.{protocol}: fold {fold} has no {part} clips here; leave it out"
                )
    return clips, folds


def feature_table(name: str, stage: str, shards: Sequence[int], root: Path) -> pd.DataFrame:
    """The tables of a stage ("faces" or "audio") of all shards, with STAGE_COLUMNS."""
    return pd.concat(read_csv(root / paths.features(name, stage, shard)[1])[STAGE_COLUMNS[stage]] for shard in shards)


def usable_clips(name: str, clips: pd.DataFrame, max_unusable: float, where: str) -> pd.DataFrame:
    """The usable clips of those that `join` returns; logs why the others are not.

    Raises `UserError`, which says where the statuses are, if more than `max_unusable` of the clips are unusable.
    """
    usable = clips[clips["usable"] == "true"]
    reasons = exclusion_counts.by_kind(clips.loc[clips["usable"] == "false", "reason"])
    for reason, number in reasons.items():
        log.warning("%s: %d of %d clips are unusable: %s", name, number, len(clips), reason)
    if usable.empty or len(clips) - len(usable) > max_unusable * len(clips):
        raise UserError(
            f"{name}: {len(clips) - len(usable)} of {len(clips)} clips are unusable, more than"
            f" corpora.{name}.max_unusable {max_unusable:g} allows"
            f" (most often: {next(iter(reasons), 'there are none')}); see the statuses in {where}"
        )
    return usable


def join(index: pd.DataFrame, features: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Every clip of the index with its features' rows and the first reason why it is unusable, if any.

    `features` maps "faces" and "audio", as far as the corpus has them, to the tables of these stages. `group` is the
    hash of a clip's content: clips of one group are the same recording. `replaced` is that of the faces' table.
    """
    clips = index.assign(group=index["sha256"]).reindex(columns=CLIP_COLUMNS, fill_value="")
    reason = index["status"].mask(index["status"] == "ok", "")
    for stage, table in features.items():
        rows = index[["clip"]].merge(table, on="clip", how="left", validate="many_to_one")
        for column in ("row", "rows", "span"):
            if column in rows:
                clips[f"{stage}_{column}"] = rows[column].fillna("")
        if "replaced" in rows:
            clips["replaced"] = rows["replaced"].fillna("")
        status = rows["status"].fillna(f"not in the {stage} table")
        reason = reason.mask(reason == "", status.mask(status == "ok", ""))
    return clips.assign(usable=np.where(reason == "", "true", "false"), reason=reason)


def kfold(actors: Mapping[Actor, str], folds: int, seed: int) -> dict[int, list[Actor]]:
    """Assign the actors to folds: shuffled by `seed`, with each gender spread as evenly as possible.

    `actors` maps actors to genders. Returns fold → test actors; each actor is in exactly one.
    """
    rng = random.Random(f"kfold {folds} {seed}")
    assigned: dict[int, list[Actor]] = {fold: [] for fold in range(folds)}
    place = 0
    for gender in sorted(set(actors.values())):
        group = list(sorted_actors(actor for actor in actors if actors[actor] == gender))
        rng.shuffle(group)
        for actor in group:
            assigned[place % folds].append(actor)
            place += 1
    return {fold: list(sorted_actors(group)) for fold, group in assigned.items()}


def drawn(training: Mapping[Actor, str], number: int, seed: str) -> list[Actor]:
    """`number` of the training actors, drawn at random, alternating between genders.

    `training` maps actors to genders.
    """
    rng = random.Random(seed)
    groups = []
    for gender in sorted(set(training.values())):
        group = list(sorted_actors(actor for actor in training if training[actor] == gender))
        rng.shuffle(group)
        groups.append(group)
    chosen: list[Actor] = []
    while len(chosen) < number:
        largest = max(groups, key=len)
        chosen.append(largest.pop())
    return list(sorted_actors(chosen))


def actor_folds(clips: pd.DataFrame, protocol: Protocol, validation: int, seed: str) -> pd.DataFrame:
    """Split usable clips by actor; returns the columns fold, part, clip.

    If the protocol names no validation actors, `validation` of the training actors are chosen. Copies of a recording
    that two actors share are kept only in the later of their parts (train, val, test).
    """
    return _frame(clips, _parts_by_actor(clips, protocol, validation, seed))


def random_folds(clips: pd.DataFrame, protocol: Protocol, validation: int, seed: str) -> pd.DataFrame:
    """Split usable clips as `actor_folds` does, then exchange clips of the same emotion at random.

    This measures leakage: actors are in all parts, but each part of each fold has as many clips of each emotion as in
    `actor_folds` (except for copies of recordings), and each clip is tested as often.
    """
    rng = random.Random(f"random {seed}")
    exchanged = np.arange(len(clips))
    for emotion in clips["emotion"].unique():
        places = np.flatnonzero(clips["emotion"] == emotion)
        exchanged[places] = rng.sample(places.tolist(), len(places))
    parts = _parts_by_actor(clips, protocol, validation, seed)
    return _frame(clips, ((fold, codes[exchanged]) for fold, codes in parts))


def _genders(clips: pd.DataFrame) -> dict[Actor, str]:
    """Actor → gender."""
    actors = clips.drop_duplicates("actor", keep="last")
    return dict(zip(map(actor_named, actors["actor"]), actors["gender"], strict=True))


def _parts_by_actor(
    clips: pd.DataFrame, protocol: Protocol, validation: int, seed: str
) -> Iterator[tuple[int, np.ndarray]]:
    """Each fold with test actors among the clips, and the part of each clip as a code of PARTS."""
    genders = _genders(clips)
    actors = clips["actor"].map(actor_named)
    for fold, published in protocol.items():
        test = set(published["test"]) & set(genders)
        if len(test) < len(published["test"]):
            log.warning("fold %d: %d of its %d test actors are present", fold, len(test), len(published["test"]))
        if not test:
            continue
        training = {actor: gender for actor, gender in genders.items() if actor not in test}
        val = set(published.get("val", ())) & set(training)
        if not val:
            if validation >= len(training):
                raise UserError(
                    f"validation_actors: {validation} leave none of {len(training)} training actors to train on; lower it"
                )
            val = set(drawn(training, validation, f"{seed} {fold}"))
        code = {actor: TEST if actor in test else VAL if actor in val else TRAIN for actor in genders}
        yield fold, actors.map(code).to_numpy(np.int8)


def _frame(clips: pd.DataFrame, parts: Iterator[tuple[int, np.ndarray]]) -> pd.DataFrame:
    """The folds as one frame, sorted by fold and part, without copies of a recording in an earlier part than another."""
    names = clips["clip"].astype("category")
    groups = clips["group"].astype("category").cat.codes.to_numpy()
    folds = [pd.DataFrame({"fold": np.int16(), "part": pd.Categorical([], PARTS), "clip": names[:0]})]
    for fold, codes in sorted(parts, key=lambda part: part[0]):
        last = pd.Series(codes).groupby(groups).transform("max").to_numpy()
        part = pd.Categorical.from_codes(codes.tolist(), dtype=pd.CategoricalDtype(list(PARTS)))
        kept = pd.DataFrame({"fold": np.int16(fold), "part": part, "clip": names.array})[codes == last]
        folds.append(kept.sort_values("part", kind="stable"))
    return pd.concat(folds, ignore_index=True)
