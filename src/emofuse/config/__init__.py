"""`params.yaml`, the only configuration, as typed, validated, immutable objects.

`load` reads the file; `Params.run` resolves what a variant is trained with; `Params.settings` gives the parameters that a
job depends on. Every mistake is a `UserError` of one line that starts with the path of the key.
"""

from emofuse.config.checks import check_fits
from emofuse.config.corpus import Audio, Corpus, Demo, Faces, Table
from emofuse.config.params import CalibratedOn, Params, load, schema
from emofuse.config.run import AttentionForm, CustomNetwork, Loss, Network, Run, Spectrogram, Training, overridden
from emofuse.config.section import LONGEST_NAME, Modality, Name, Positive, Section, leaves

__all__ = [
    "LONGEST_NAME", "AttentionForm", "Audio", "CalibratedOn", "Corpus", "CustomNetwork", "Demo", "Faces", "Loss", "Modality",
    "Name", "Network", "Params", "Positive", "Run", "Section", "Spectrogram", "Table", "Training", "check_fits", "leaves",
    "load", "overridden", "schema",
]  # fmt: skip
