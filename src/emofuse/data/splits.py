"""Which clips are usable, and which of them train, validate and test each fold."""

from __future__ import annotations

import logging
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from emofuse import paths
from emofuse.data import exclusions as reasons
from emofuse.data.protocols import RANDOM, protocol_path, read_protocol
from emofuse.datasets import shards
from emofuse.provenance.job import job
from emofuse.utils.errors import UserError
from emofuse.utils.files import read_table, write_table

if TYPE_CHECKING:
    from emofuse.config import Corpus, Params

log = logging.getLogger(__name__)

CLIP_COLUMNS = ("clip", "shard", "faces_row", "audio_row", "actor", "gender", "emotion", "group", "usable", "reason")
PARTS = ("train", "val", "test")

Row = dict[str, str]
Parts = dict[str, list[str]]  # part → clips


def join(index: Sequence[Row], features: Mapping[str, Mapping[str, Row]]) -> list[Row]:
    """The rows of clips.csv: every clip of the index, with the first reason for which it is not usable.

    `features` maps "faces" and "audio", where the corpus has them, to clip → the row of its stage's table.
    A clip's `group` is the hash of its content: clips of one group are one recording.
    """
    clips = []
    for row in index:
        clip = {c: row.get(c, "") for c in CLIP_COLUMNS}
        clip["group"] = row["sha256"]
        reason = "" if row["status"] == "ok" else row["status"]
        for stage, table in features.items():
            made = table.get(row["clip"])
            if made is not None:
                clip[f"{stage}_row"] = made["row"]
            if not reason:
                reason = f"not in the {stage} table" if made is None else made["status"].removeprefix("ok")
        clip["usable"], clip["reason"] = ("false", reason) if reason else ("true", "")
        clips.append(clip)
    return clips


def kfold(actors: Mapping[int, str], folds: int, seed: int) -> dict[int, list[int]]:
    """Deal the actors into folds: shuffled by `seed`, each gender spread as evenly as it goes.

    `actors` maps an actor to a gender. Returns fold → test actors; each actor is in exactly one.
    """
    shuffled = random.Random(f"kfold {folds} {seed}")
    dealt: dict[int, list[int]] = {fold: [] for fold in range(folds)}
    place = 0
    for gender in sorted(set(actors.values())):
        group = sorted(actor for actor in actors if actors[actor] == gender)
        shuffled.shuffle(group)
        for actor in group:
            dealt[place % folds].append(actor)
            place += 1
    return {fold: sorted(group) for fold, group in dealt.items()}


def validation_actors(training: Mapping[int, str], number: int, seed: str) -> list[int]:
    """Choose `number` of the training actors for validation, the genders in turn, by `seed`."""
    if number >= len(training):
        raise UserError(
            f"validation_actors: {number} leave none of {len(training)} training actors to train on; lower it"
        )
    shuffled = random.Random(seed)
    groups = []
    for gender in sorted(set(training.values())):
        group = sorted(actor for actor in training if training[actor] == gender)
        shuffled.shuffle(group)
        groups.append(group)
    chosen: list[int] = []
    while len(chosen) < number:
        largest = max(groups, key=len)
        chosen.append(largest.pop())
    return sorted(chosen)


def actor_folds(
    clips: Sequence[Row], published: Mapping[int, Mapping[str, Sequence[int]]], validation: int, seed: str
) -> dict[int, Parts]:
    """Split usable clips by actor.

    `published` maps a fold to its "test" actors and, where the protocol says so, its "val" actors; else
    `validation` of the training actors are chosen. A recording that two actors share stays on the
    test side: its copies leave the other parts.
    """
    return {fold: _one_side(side, clips) for fold, side in _sides(clips, published, validation, seed).items()}


def random_folds(
    clips: Sequence[Row], published: Mapping[int, Mapping[str, Sequence[int]]], validation: int, seed: str
) -> dict[int, Parts]:
    """Split usable clips as `actor_folds` does, then put another clip of the same emotion in each one's place.

    What leaks, for comparison: the actors are on all sides, but each part of each fold has as many clips of each
    emotion as that of `actor_folds`, less the copies of recordings, and each clip is tested as often.
    """
    shuffled = random.Random(f"random {seed}")
    places: dict[str, list[str]] = defaultdict(list)
    for row in clips:
        places[row["emotion"]].append(row["clip"])
    taken: dict[str, str] = {}
    for names in places.values():
        taken |= dict(zip(names, shuffled.sample(names, len(names)), strict=True))
    return {
        fold: _one_side({clip: side[place] for clip, place in taken.items()}, clips)
        for fold, side in _sides(clips, published, validation, seed).items()
    }


def _sides(
    clips: Sequence[Row], published: Mapping[int, Mapping[str, Sequence[int]]], validation: int, seed: str
) -> dict[int, dict[str, str]]:
    """The part of each clip in each fold that has test actors here."""
    genders = {int(row["actor"]): row["gender"] for row in clips}
    folds = {}
    for fold, parts in published.items():
        test = set(parts["test"]) & set(genders)
        if len(test) < len(parts["test"]):
            log.warning("fold %d: %d of its %d test actors are here", fold, len(test), len(parts["test"]))
        if not test:
            continue
        training = {actor: gender for actor, gender in genders.items() if actor not in test}
        val = set(parts.get("val", ())) & set(training)
        if not val:
            val = set(validation_actors(training, validation, f"{seed} {fold}"))
        side = {actor: "test" if actor in test else "val" if actor in val else "train" for actor in genders}
        folds[fold] = {row["clip"]: side[int(row["actor"])] for row in clips}
    return folds


def _one_side(side: Mapping[str, str], clips: Sequence[Row]) -> Parts:
    last = {part: place for place, part in enumerate(PARTS)}
    strongest: dict[str, str] = {}
    for row in clips:
        part = side[row["clip"]]
        held = strongest.get(row["group"], part)
        strongest[row["group"]] = max(part, held, key=last.__getitem__)
    parts: Parts = {part: [] for part in PARTS}
    for row in clips:
        if side[row["clip"]] == strongest[row["group"]]:
            parts[side[row["clip"]]].append(row["clip"])
    return parts


def stage(params: Params, corpus: str, protocol: str, root: Path = Path()) -> None:
    """`emofuse splits`: join the status of every stage and split the usable clips, to data/<corpus>/splits/<protocol>/."""
    key = {"corpus": corpus, "protocol": protocol}
    params.settings("splits", **key)  # raises for an unknown protocol
    section = params.corpus(corpus)
    published = protocol_path(section.kind, protocol)
    tables = [table for _, table in shards.features(corpus, section)]
    inputs = [*tables, paths.index(corpus), *([str(published)] if published else [])]
    outputs = paths.splits(corpus, protocol)
    with job("splits", params, key, paths.splits_record(corpus, protocol), inputs, outputs, root):
        build(corpus, section, protocol, read_protocol(root / published) if published else None, root)


def build(
    name: str,
    corpus: Corpus,
    protocol: str,
    published: Mapping[int, Mapping[str, Sequence[int]]] | None,
    root: Path,
) -> None:
    """Write data/<corpus>/splits/<protocol>/clips.csv and folds.csv.

    `published` is the file of a published protocol, None for kfold_<k>. Raises `UserError`
    where more than `max_unusable` of the clips are unusable, or a fold that params.yaml runs is empty.
    """
    folder = root / "data" / name
    stages = [stage for stage, section in (("faces", corpus.faces), ("audio", corpus.audio)) if section]
    features = {
        stage: {
            row["clip"]: row
            for shard in corpus.shards
            for row in read_table(folder / "features" / stage / f"shard-{shard}.csv")
        }
        for stage in stages
    }
    clips = join(read_table(folder / "index.csv"), features)
    usable = [row for row in clips if row["usable"] == "true"]
    why = reasons.by_kind(row["reason"] for row in clips if row["usable"] == "false")
    for reason, number in why.items():
        log.warning("%s: %d of %d clips not usable: %s", name, number, len(clips), reason)
    if not usable or len(clips) - len(usable) > corpus.max_unusable * len(clips):
        raise UserError(
            f"{name}: {len(clips) - len(usable)} of {len(clips)} clips are not usable, more than"
            f" corpora.{name}.max_unusable {corpus.max_unusable:g} allows"
            f" (most often: {next(iter(why), 'there are none')}); see the statuses in {folder}: index.csv"
            f"{''.join(f', {stage}/*.csv' for stage in stages)}"
        )
    followed = protocol.removeprefix(RANDOM)
    if published is None:
        genders = {int(row["actor"]): row["gender"] for row in usable}
        dealt = kfold(genders, int(followed.rpartition("_")[2]), corpus.split_seed)
        published = {fold: {"test": actors} for fold, actors in dealt.items()}
    split = actor_folds if followed == protocol else random_folds
    folds = split(usable, published, corpus.validation_actors, f"{followed} {corpus.split_seed}")
    for fold in corpus.protocols[protocol]:
        for part in PARTS:
            if not folds.get(fold, {}).get(part):
                raise UserError(
                    f"corpora.{name}.protocols.{protocol}: fold {fold} has no {part} clips here; leave it out"
                )
    target = folder / "splits" / protocol
    write_table(target / "clips.csv", CLIP_COLUMNS, clips)
    write_table(
        target / "folds.csv",
        ("fold", "part", "clip"),
        ((fold, part, clip) for fold in sorted(folds) for part in PARTS for clip in folds[fold][part]),
    )
