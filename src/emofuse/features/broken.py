"""Why a clip cannot be used."""


class BrokenClip(Exception):
    """A clip that cannot be used; str() is the reason as it appears in clips.csv, "kind" or "kind: detail"."""
