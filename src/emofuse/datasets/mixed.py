"""Names of clips of other corpora. Data sets that mix corpora contain them, for example on Kaggle."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

# What the end of a clip's path, without its extension, looks like.
NAMES = {
    "RAVDESS": r"[0-9]{2}(-[0-9]{2}){6}",
    "CREMA-D": r"1[0-9]{3}_[A-Z]{3}_[A-Z]{3}_[A-Z]{1,2}",
    "TESS": r"(OAF|YAF|OA|YA)_[a-z']+_(angry|disgust|fear|happy|neutral|ps|sad)",
    "SAVEE": r"(DC|JE|JK|KL)[/_](a|d|f|h|n|sa|su)[0-9]{2}",
    "EMO-DB": r"[01][0-9][ab][0-9]{2}[AEFLNTW][a-f]",
    "IEMOCAP": r"Ses0[1-5][FM]_(impro|script)[0-9]{2}\w*",
    "MELD": r"dia[0-9]+_utt[0-9]+",
    "ESD": r"00[0-2][0-9]_[0-9]{6}",
}
_PATTERNS = {
    corpus: re.compile(rf"(?:.*/)?(?:{name})", re.ASCII | re.DOTALL | re.IGNORECASE) for corpus, name in NAMES.items()
}


def other_corpus(path: str, own: str) -> str:
    """The corpus, other than `own`, that the clip at a path is of, judged by its name; "" if it looks like none."""
    bare = str(PurePosixPath(path).with_suffix(""))
    return next((name for name, pattern in _PATTERNS.items() if name != own and pattern.fullmatch(bare)), "")
