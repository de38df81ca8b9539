"""Audio-video emotion recognition, from clips to tables."""

__version__ = "0.1.0"
