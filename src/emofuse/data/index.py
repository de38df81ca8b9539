"""The index stage: every clip of a corpus, its labels, what its file contains, and why it is unusable if it is."""

from __future__ import annotations

import hashlib
import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from emofuse import datasets, paths
from emofuse.data import exclusion_counts
from emofuse.datasets import shards
from emofuse.datasets.base import Dataset, Entry
from emofuse.features import media
from emofuse.provenance.job import job
from emofuse.utils.errors import UserError
from emofuse.utils.files import write_csv
from emofuse.utils.progress import Progress
from emofuse.utils.stand_ins import stand_in

if TYPE_CHECKING:
    from emofuse.config import Corpus, Params

log = logging.getLogger(__name__)

LABELS = ("actor", "gender", "emotion", "intensity", "statement", "repetition")
COLUMNS = ("clip", "shard", "file", "sound", *LABELS, "video", "audio", "duration", "sha256", "status")
# Seconds. A spoken sentence takes 1.2 to 5.3 s in these corpora, a sung one slightly more; anything far outside is not
# one sentence.
SHORTEST, LONGEST = 0.25, 20.0
# Seconds by which a clip's video and a separate file with its sound may differ in duration.
UNEQUAL = 0.5


def stage(params: Params, corpus: str, root: Path = Path()) -> None:
    """`emofuse index`: list a corpus's clips with labels, streams and hashes in data/<corpus>/index.csv."""
    section, target = params.corpus(corpus), paths.index(corpus)
    inputs = [*(paths.raw(corpus, shard) for shard in section.shards), *section.tables]
    with job("index", params, {"corpus": corpus}, paths.record(target), inputs, [target], root):
        write_csv(root / target, build(corpus, section, root))


def build(name: str, corpus: Corpus, root: Path) -> pd.DataFrame:
    """The index of a corpus: one row per clip, sorted by shard and clip, with the columns COLUMNS.

    `file` and `sound` are members of the shard's zip; `duration` is in seconds; `sha256` is that of the bytes of `file`
    and, if it is another file, `sound`. `status` is "ok" or the reason why the clip cannot be used, "kind" or
    "kind: detail". The clip of a wrong name is the member's name, without labels. Clips with the same content are used
    if they agree in actor and emotion. Raises `UserError` for a shard that is missing or broken, and for a corpus without
    any clip.
    """
    parts = [
        _shard(root / paths.raw(name, shard), corpus, datasets.of(corpus, root), shard)
        for shard in Progress(corpus.shards, f"index of {name}, shards")
    ]
    index = pd.concat(parts, ignore_index=True)
    if not (index["actor"] != "").any():
        raise UserError(
            f"{root / 'data' / name / 'raw'}: there is no clip of {name} in its shards; see corpora.{name}.source"
        )
    _exclude_contradictions(index)
    for reason, number in exclusion_counts.by_kind(index.loc[index["status"] != "ok", "status"]).items():
        log.warning("%s: %d of %d clips are unusable: %s", name, number, len(index), reason)
    return index


def _shard(archive: Path, corpus: Corpus, dataset: Dataset, shard: int) -> pd.DataFrame:
    """The rows of one shard."""
    read = partial(shards.read_member, archive)
    entries = dataset.entries(shards.members(archive), read, corpus)
    rows = [{**_labels(entry), "shard": str(shard), **_content(entry, read, corpus)} for entry in entries]
    return pd.DataFrame(rows, columns=COLUMNS, dtype=str).sort_values("clip", kind="stable")


def _labels(entry: Entry) -> dict[str, str]:
    if entry.clip is None:
        return {"clip": entry.file, **dict.fromkeys(LABELS, "")}
    return {"clip": entry.clip.clip, **{label: str(getattr(entry.clip, label)) for label in LABELS}}


def _exclude_contradictions(index: pd.DataFrame) -> None:
    """Exclude clips with the same content under two actors or emotions: one of the names is wrong, but not known which."""
    usable = index[index["status"] == "ok"]
    copies = usable[usable.duplicated("sha256", keep=False)]
    for _, group in copies.groupby("sha256", sort=False):
        for row in group.itertuples():
            others = group[(group["actor"] != row.actor) | (group["emotion"] != row.emotion)]
            if len(others):
                other = others["clip"].iloc[0]
                index.loc[row.Index, "status"] = (
                    f"duplicate content: {other} is identical, but of another actor or emotion"
                )


def _content(entry: Entry, read: partial[bytes], corpus: Corpus) -> dict[str, str]:
    """What the clip's file contains, and its status."""
    data = read(entry.file)
    sound = data if entry.sound == entry.file else read(entry.sound)
    digest = hashlib.sha256(data)
    if sound is not data:
        digest.update(sound)
    row = {"file": entry.file, "sound": entry.sound, "sha256": digest.hexdigest()}
    try:
        if instead := stand_in(data, "the clip") or stand_in(sound, "the clip"):
            raise media.BrokenClip(instead)
        streams = media.probe(data)
        sound_streams = streams if sound is data else media.probe(sound)
    except media.BrokenClip as error:
        return {**row, "video": "false", "audio": "false", "duration": "", "status": entry.reason or str(error)}
    duration = max(streams.duration, sound_streams.duration)
    faults = []
    # A clip of which nothing can be decoded has no duration.
    if duration < SHORTEST and (streams.video or sound_streams.audio):
        faults.append(f"too short: {duration:.1f} seconds")
    if duration > LONGEST:
        faults.append(f"too long: {duration:.1f} seconds")
    if "video" in corpus.modalities and not streams.video:
        faults.append(streams.missing["video"])
    if "audio" in corpus.modalities and not sound_streams.audio:
        faults.append(sound_streams.missing["audio"])
    if sound is not data and abs(sound_streams.duration - streams.duration) > UNEQUAL:
        faults.append(f"of two files: {streams.duration:.1f} seconds and, with the sound, {sound_streams.duration:.1f}")
    return {
        **row,
        "video": str(streams.video).lower(),
        "audio": str(sound_streams.audio).lower(),
        "duration": f"{duration:.3f}",
        "status": entry.reason or ", ".join(faults) or "ok",
    }
