"""The index: every clip of a corpus, what its name says, what its file holds, and why it is unusable where it is."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from emofuse import datasets as corpora
from emofuse import paths
from emofuse.data import exclusions as reasons
from emofuse.datasets import base
from emofuse.features import media
from emofuse.provenance.job import job
from emofuse.utils.errors import UserError
from emofuse.utils.files import write_table
from emofuse.utils.progress import Progress

if TYPE_CHECKING:
    from emofuse.config import Corpus, Params

log = logging.getLogger(__name__)

LABELS = ("actor", "gender", "emotion", "intensity", "statement", "repetition")
COLUMNS = ("clip", "shard", "file", "sound", *LABELS, "video", "audio", "duration", "sha256", "status")
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
# Seconds. One spoken sentence takes 1.2 to 5.3 in these corpora, a sung one a little more; what is far from that is
# no sentence, or more than one.
SHORTEST, LONGEST = 0.25, 20.0

Row = dict[str, str]


def stage(params: Params, corpus: str, root: Path = Path()) -> None:
    """`emofuse index`: list a corpus's clips, their labels, streams and hashes in data/<corpus>/index.csv."""
    section, target = params.corpus(corpus), paths.index(corpus)
    raw = [paths.raw(corpus, shard) for shard in section.shards]
    with job("index", params, {"corpus": corpus}, paths.record(target), raw, [target], root):
        build(corpus, section, root)


def build(name: str, corpus: Corpus, root: Path | str = ".") -> None:
    """Write data/<corpus>/index.csv: one row a clip, sorted by shard and clip (the columns are COLUMNS).

    `file` and `sound` are members of the shard's zip, `duration` is in seconds, `sha256` is that of the
    bytes of `file`, and of `sound` where that is another. `status` is "ok" or the reason why the clip cannot
    be used, "kind" or "kind: detail"; a clip whose name is none of the corpus's has its member's name for a
    name, and no labels. Clips of the same content are all used where actor and emotion agree, and none else.
    Raises `UserError` for a shard that is missing or broken, and for a corpus without a clip.
    """
    folder = Path(root) / "data" / name
    shards = Progress(corpus.shards, f"index of {name}, shards")
    rows = [row for shard in shards for row in sorted(_shard(folder, corpus, shard), key=lambda row: row["clip"])]
    if not any(row["actor"] for row in rows):
        raise UserError(f"{folder / 'raw'}: there is no clip of {name} in its shards; see corpora.{name}.source")
    _refuse_contradictions(rows)
    for reason, number in reasons.by_kind(row["status"] for row in rows if row["status"] != "ok").items():
        log.warning("%s: %d of %d clips not usable: %s", name, number, len(rows), reason)
    write_table(folder / "index.csv", COLUMNS, rows)


def _shard(folder: Path, corpus: Corpus, shard: int) -> Iterator[Row]:
    archive = folder / "raw" / f"shard-{shard}.zip"
    names = base.members(archive)
    read = partial(base.read_member, archive)
    reader = corpora.reader(corpus.kind)
    own = getattr(reader, "entries", None)
    for entry in own(names, read, corpus) if own else base.entries(reader.parse, names):
        yield {**_labels(entry), "shard": str(shard), **_content(entry, read, corpus)}


def _labels(entry: base.Entry) -> Row:
    if entry.clip is None:
        return {"clip": entry.file, **dict.fromkeys(LABELS, "")}
    return {"clip": entry.clip.clip, **{label: str(getattr(entry.clip, label)) for label in LABELS}}


def _refuse_contradictions(rows: Sequence[Row]) -> None:
    """One content under the names of two actors or emotions: one name is wrong, and nobody knows which."""
    copies: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row["status"] == "ok":
            copies[row["sha256"]].append(row)
    for group in copies.values():
        for row in group:
            others = [o["clip"] for o in group if (o["actor"], o["emotion"]) != (row["actor"], row["emotion"])]
            if others:
                row["status"] = f"duplicate content: {others[0]} is the same, of another actor or emotion"


def _content(entry: base.Entry, read: partial[bytes], corpus: Corpus) -> Row:
    """What the clip's file holds, and its status."""
    data = read(entry.file)
    sound = data if entry.sound == entry.file else read(entry.sound)
    digest = hashlib.sha256(data)
    if sound is not data:
        digest.update(sound)
    row = {"file": entry.file, "sound": entry.sound, "sha256": digest.hexdigest()}
    try:
        if data.startswith(LFS_POINTER):
            raise media.BrokenClip("a pointer of Git LFS, not the clip: run git lfs pull in the source")
        picture = media.probe(data)
        heard = picture if sound is data else media.probe(sound)
    except media.BrokenClip as error:
        return {**row, "video": "false", "audio": "false", "duration": "", "status": entry.reason or str(error)}
    duration = max(picture.duration, heard.duration)
    faults = [
        f"too {what}: {duration:.1f} seconds"
        for what, wrong in (("short", duration < SHORTEST), ("long", duration > LONGEST))
        if wrong
    ]
    faults += [
        reason
        for modality, there, reason in (
            ("video", picture.video, "no video track"),
            ("audio", heard.audio, "no sound track"),
        )
        if modality in corpus.modalities and not there
    ]
    return {
        **row,
        "video": str(picture.video).lower(),
        "audio": str(heard.audio).lower(),
        "duration": f"{duration:.3f}",
        "status": entry.reason or ", ".join(faults) or "ok",
    }
