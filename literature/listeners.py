"""How often people recognise the emotion that CREMA-D's actors intended.

`python literature/listeners.py VOTES > literature/listeners.csv`, where VOTES is the corpus's
processedResults/tabulatedVotes.csv. It has one row per clip and presentation (audio only, video only or both), which the
first digit of the row's number encodes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from emofuse.datasets import cremad

MODALITIES = {"3": "audio_video", "1": "audio", "2": "video"}
LETTERS = dict(zip("ADFHNS", cremad.EMOTIONS, strict=True))
METHOD = "votes for the intended emotion as a share of all votes on the 7,442 clips in that modality"
SOURCE = f"CREMA-D, {cremad.VOTES}"


def main(path: Path) -> None:
    rows = pd.read_csv(path, index_col=0).rename(columns=LETTERS)
    modalities = rows.index.astype(str).str[0].map(MODALITIES)
    intended = rows["fileName"].str.split("_").str[2].map(cremad.CODES)
    votes = rows[list(cremad.EMOTIONS)].groupby([modalities, intended]).sum()
    results = []
    for modality in MODALITIES.values():
        for emotion in cremad.EMOTIONS:
            counts = votes.loc[modality, emotion]
            share = counts[emotion] / counts.sum()
            results.append(("cremad", modality, emotion, counts.sum(), share, METHOD, SOURCE))
    columns = ["corpus", "modality", "emotion", "votes", "share", "method", "source"]
    pd.DataFrame(results, columns=columns).to_csv(sys.stdout, index=False, float_format="%.6f", lineterminator="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
