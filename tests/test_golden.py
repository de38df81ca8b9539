"""Golden losses: variants and ways of selection train to the losses on record.

On a machine like the one that recorded them, with the same processor and torch, they are bit-identical. Elsewhere, other
kernels add in a different order, and the losses agree within TOLERANCE. After an intended change, run
`python tests/test_golden.py` to record new ones, and explain it in the commit.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import tempfile
from pathlib import Path

import pytest
import torch
from test_training import RUN, make_corpus, trained

from emofuse import config

GOLDEN = Path(__file__).parent / "golden" / "losses.json"
# The largest relative difference between SSE4.1, AVX and AVX2, and between 1 and 2 threads, was 0.0017.
TOLERANCE = 0.01
CHANGES = {
    "proposed": {"network": {"modalities": ["video", "audio"]}},
    "nested": {"network": {"modalities": ["video", "audio"]}, "training": {"selection": "nested"}},
    "gated": {
        "network": {
            "modalities": ["video", "audio"],
            "attention": dict.fromkeys(("spatial", "channel", "temporal", "audio_temporal"), "gate"),
            "fusion": "self_attention",
        },
        "loss": {"metric": "polarity", "miner": "semihard"},
    },
    "late_average": {
        "network": {"modalities": ["video", "audio"], "fusion": "late_average"},
        "loss": {"metric": "none"},
        "training": {"sampling": "shuffled"},
    },
}


def machine() -> dict[str, str]:
    """What the exact losses of a training depend on."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    features = re.findall(
        r"^(?:model name|cpu family|model|stepping|flags)\s*:.*$", text.split("\n\n")[0], re.MULTILINE
    )
    return {
        "processor": hashlib.sha256("\n".join(features).encode()).hexdigest()[:16],
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }


def losses(name: str, folder: Path) -> list[dict[str, float]]:
    """The training loss of each epoch and, if a part of the training actors is held out, the validation loss."""
    video = {"video": {"backbone": "r3d_10", "width": 8}}
    base = config.overridden(
        RUN, {"network": video, "training": {"crop": 0.8, "flip": 0.5, "brightness": 0.2}}, "golden"
    )
    model = trained(folder, name, config.overridden(base, CHANGES[name], name))
    with model.with_suffix(".csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [{key: float(row[key]) for key in ("train_loss", "val_loss") if key in row} for row in rows]


@pytest.mark.parametrize("name", CHANGES)
def test_losses_equal_the_golden_ones(name: str, tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text())
    make_corpus(tmp_path)
    found = losses(name, tmp_path)
    if golden["machine"] == machine():
        assert found == golden["losses"][name]
    else:
        for epoch, expected in zip(found, golden["losses"][name], strict=True):
            assert epoch == pytest.approx(expected, rel=TOLERANCE)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        make_corpus(Path(folder))
        golden = {"machine": machine(), "losses": {name: losses(name, Path(folder)) for name in CHANGES}}
    GOLDEN.write_text(json.dumps(golden, indent=2) + "\n")
