"""What is known about emotions apart from any corpus: where they lie in the circumplex, and what else they are called."""

from __future__ import annotations

# Valence and arousal of each emotion in Russell's circumplex model. We placed them by hand; they are not from the paper.
# Neutral is the origin. Calm is absent from the usual models; we place it as pleasant with low arousal.
VALENCE_AROUSAL = {
    "neutral": (0.0, 0.0),
    "calm": (0.4, -0.6),
    "happy": (0.8, 0.5),
    "sad": (-0.7, -0.5),
    "angry": (-0.7, 0.7),
    "fearful": (-0.5, 0.8),
    "disgust": (-0.8, 0.2),
    "surprised": (0.3, 0.8),
}
# The sign of the valence. Positive: calm, happy and surprised (surprise as in VAANet's groups). Negative: sad, angry,
# fearful and disgust. Neutral has no polarity, since it is not closer to either group.
POLARITY = {emotion: (valence > 0) - (valence < 0) for emotion, (valence, _) in VALENCE_AROUSAL.items()}

# Other words for these emotions, in the labels of corpora, → the word used here.
SYNONYMS = {
    **dict.fromkeys(("neutrality",), "neutral"),
    **dict.fromkeys(("calmness", "calmed"), "calm"),
    **dict.fromkeys(("happiness", "joy", "joyful"), "happy"),
    **dict.fromkeys(("sadness",), "sad"),
    **dict.fromkeys(("anger",), "angry"),
    **dict.fromkeys(("fear", "afraid", "scared"), "fearful"),
    **dict.fromkeys(("disgusted",), "disgust"),
    **dict.fromkeys(("surprise",), "surprised"),
}


def standard(emotion: str) -> str:
    """The word used here for an emotion, in lower case; other words stay as they are, so that corpora can be compared."""
    word = emotion.strip().lower()
    return SYNONYMS.get(word, word)
