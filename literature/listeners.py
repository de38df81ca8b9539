"""How often people recognised what CREMA-D's actors intended: `python literature/listeners.py VOTES > literature/listeners.csv`.

VOTES is the corpus's processedResults/tabulatedVotes.csv, with a row for each clip and way of showing it: the sound
alone, the picture alone, or both, told apart by the first digit of the row's number.
"""

from __future__ import annotations

import csv
import sys
from collections import Counter
from pathlib import Path

from emofuse.datasets import cremad

MODALITIES = {"3": "audio_video", "1": "audio", "2": "video"}
LETTERS = dict(zip(cremad.EMOTIONS, "ADFHNS", strict=True))
METHOD = "votes for the emotion that the actor intended, of all votes on the 7,442 clips in that modality"
SOURCE = f"CREMA-D, {cremad.VOTES}"


def main(table: Path) -> None:
    votes: Counter[tuple[str, str]] = Counter()
    right: Counter[tuple[str, str]] = Counter()
    with table.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            intended = cremad.parse(row["fileName"]).emotion
            key = MODALITIES[row[""][0]], intended
            votes[key] += sum(int(row[letter]) for letter in LETTERS.values())
            right[key] += int(row[LETTERS[intended]])
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["corpus", "modality", "emotion", "votes", "share", "method", "source"])
    for modality in MODALITIES.values():
        for emotion in cremad.EMOTIONS:
            key = modality, emotion
            writer.writerow(["cremad", *key, votes[key], f"{right[key] / votes[key]:.6f}", METHOD, SOURCE])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
