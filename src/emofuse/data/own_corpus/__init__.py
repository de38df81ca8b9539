"""`emofuse corpus`: list the clips in a folder in corpora/<name>/metadata.csv, and add a section to params.yaml."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from emofuse import config
from emofuse.data.download import selection, sources
from emofuse.data.download.sources import File
from emofuse.data.own_corpus import emobox, names, section
from emofuse.data.own_corpus.listing import Listing, Maps
from emofuse.data.protocols import protocol_path
from emofuse.datasets.base import actor_named, sorted_actors
from emofuse.datasets.emotions import VALENCE_AROUSAL
from emofuse.features import media
from emofuse.features.broken import BrokenClip
from emofuse.utils.errors import UserError
from emofuse.utils.files import atomic, write_csv
from emofuse.utils.progress import Progress
from emofuse.utils.text import ranges

PROTOCOL = "emobox"  # the name of the protocol with EmoBox's folds
FOLDS = 5  # of the protocol of a corpus without one
PROBED = 40  # clips that are opened to see whether the corpus has pictures and sound
COLUMNS = ("file", "actor", "emotion", "clip", "sound", "gender")


def write(
    folder: Path, name: str | None, pattern: str | None, metadata: Path | None, maps: Maps, root: Path
) -> Iterator[str]:
    """List the clips of a folder, and yield what was found and written, as lines for the user.

    Labels are from the names of the files (`pattern`), or from a folder of EmoBox's `metadata`. Writes metadata.csv and, for
    EmoBox, a protocol, adds a section to params.yaml, and changes nothing else. Raises `UserError`, before anything is
    written, for files or labels that make no corpus, and for a name that is taken.
    """
    name = name or re.sub(r"[^a-z0-9]+", "_", folder.resolve().name.lower()).strip("_")
    table = _free(name, root)
    contents = sources.scan(folder, "FOLDER")
    files = {file.path: file for file in contents.files}
    if metadata is not None:
        listing = emobox.read(metadata, sorted(files), pattern, maps)
    elif pattern is not None:
        listing = names.read(sorted(files), pattern, maps)
    else:
        raise UserError(
            "--pattern is missing: it says how names are to be read, such as '{actor}-{emotion}-{take}.mp4'"
        )
    ignored = selection.described(listing.ignored)
    if not listing.rows:
        raise UserError(f"{folder}: no clip could be listed ({'; '.join(ignored) or 'it has no files'})")
    yield from (f"not listed: {line}" for line in ignored)
    modalities, remarks = _modalities([files[row["file"]] for row in listing.rows])
    yield from remarks
    written = _write(folder, name, table, listing, modalities, root)
    yield from _summary(folder, listing, modalities)
    yield from written
    yield f"snakemake {name} --cores 2 runs it; check the emotions and the sizes in params.yaml first"


def _free(name: str, root: Path) -> str:
    """The path of the table of a new corpus. Raises `UserError` if its name is invalid or taken."""
    if not re.fullmatch("[a-z][a-z0-9_]*", name) or len(name) > config.LONGEST_NAME or name == "published":
        raise UserError(f"--name {name!r}: use small letters, digits and _, and start with a letter")
    table = f"corpora/{name}/metadata.csv"
    if name in config.load(root / "params.yaml").corpora:
        raise UserError(f"params.yaml has a corpus {name} already; choose another --name, or remove its section")
    return table


def _modalities(files: Sequence[File]) -> tuple[list[str], list[str]]:
    """The modalities that most clips have, judged by some of them; and remarks on those that lack them."""
    chosen = [files[number * len(files) // min(PROBED, len(files))] for number in range(min(PROBED, len(files)))]
    streams, broken = [], []
    for file in Progress(chosen, "looking into clips"):
        try:
            streams.append((file, media.probe(file.read())))
        except (BrokenClip, UserError) as error:
            broken.append(f"{file.place}: {error}")
    if not streams:
        raise UserError(f"none of {len(chosen)} clips that were opened can be read ({broken[0]})")
    have = {kind: [file for file, found in streams if getattr(found, kind)] for kind in ("video", "audio")}
    modalities = [kind for kind, with_it in have.items() if 2 * len(with_it) > len(streams)]
    if not modalities:
        raise UserError(f"{chosen[0].place}: there is neither a picture nor sound in most clips that were opened")
    remarks = []
    if broken:
        remarks.append(f"{len(broken)} of {len(chosen)} clips that were opened cannot be read, such as {broken[0]}")
    for kind in modalities:
        if without := [file for file, _ in streams if file not in have[kind]]:
            remarks.append(
                f"{len(without)} of {len(streams)} clips that were opened have no {kind}: {without[0].place}"
            )
    return modalities, remarks


def _write(folder: Path, name: str, table: str, listing: Listing, modalities: Sequence[str], root: Path) -> list[str]:
    """Write the table, the protocol and params.yaml, or nothing if the result would not be valid."""
    rows = pd.DataFrame(listing.rows).fillna("")
    rows = rows[[*(c for c in COLUMNS if c in rows), *(c for c in rows if c not in COLUMNS)]]
    actors = sorted_actors({actor_named(actor) for actor in rows["actor"]})
    known = set(rows["emotion"]) <= VALENCE_AROUSAL.keys()
    order = [*VALENCE_AROUSAL, *sorted(set(rows["emotion"]) - VALENCE_AROUSAL.keys())]
    emotions = [emotion for emotion in order if emotion in set(rows["emotion"])]
    if listing.folds:
        protocol, folds = PROTOCOL, list(listing.folds)
        held_out = max(sum(map(len, parts.values())) for parts in listing.folds.values())
    else:
        number = min(FOLDS, len(actors))
        protocol, folds, held_out = f"kfold_{number}", list(range(number)), -(-len(actors) // number)
    if len(actors) - held_out < 2:
        raise UserError(
            f"{folder}: {len(actors)} actors ({ranges(actors)}) are too few: some must train, others validate and test"
        )
    text = section.text(
        name, str(folder), table, emotions, modalities, len(actors) - held_out, len(rows), (protocol, folds),
        listing.actors_known, known,
    )  # fmt: skip
    params = root / "params.yaml"
    changed = section.inserted(params.read_text(encoding="utf-8"), text)
    if changed is None:
        raise UserError("params.yaml: `corpora:` is not written with one key per line; rewrite it so, and run again")
    new = [root / table, *([root / str(protocol_path(name, PROTOCOL))] if listing.folds else [])]
    if existing := [path for path in new if path.exists()]:
        raise UserError(f"{existing[0].relative_to(root)} exists already; choose another --name, or remove it")
    draft = root / f".params-{name}.yaml"
    try:
        write_csv(new[0], rows)
        if listing.folds:
            write_csv(new[1], _protocol(listing))
        draft.write_text(changed, encoding="utf-8")
        config.load(draft)
        with atomic(params) as partial:
            partial.write_text(changed, encoding="utf-8")
    except BaseException:
        for path in new:
            path.unlink(missing_ok=True)
            if path.parent.is_dir() and not any(path.parent.iterdir()):
                path.parent.rmdir()
        raise
    finally:
        draft.unlink(missing_ok=True)
    return [f"{', '.join(str(path.relative_to(root)) for path in new)}: written", f"params.yaml: corpora.{name} added"]


def _protocol(listing: Listing) -> pd.DataFrame:
    lines = [
        (fold, part, actor)
        for fold, parts in listing.folds.items()
        for part, actors in parts.items()
        for actor in actors
    ]
    return pd.DataFrame(lines, columns=["fold", "part", "actor"])


def _summary(folder: Path, listing: Listing, modalities: Sequence[str]) -> Iterator[str]:
    actors = {actor_named(row["actor"]) for row in listing.rows}
    counts = Counter(row["emotion"] for row in listing.rows)
    people = f"{len(actors)} actors ({ranges(actors)})" if listing.actors_known else f"{len(actors)} groups of clips"
    yield f"{folder}: {len(listing.rows):,} clips with {' and '.join(modalities)}, of {people}"
    yield f"emotions: {', '.join(f'{emotion} {count:,}' for emotion, count in counts.most_common())}"
    if listing.folds:
        yield f"protocol: {len(listing.folds)} folds of EmoBox"
    if not listing.actors_known:
        yield "actors unknown: that training and test share no speaker is not checked; name them by {actor} in --pattern"
