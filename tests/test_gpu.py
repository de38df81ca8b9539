"""Training on a GPU: nearly the same losses in every precision and from every place of the features."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_training import EMOTIONS, RUN, make_corpus, run_key

from emofuse import config
from emofuse.data import dataset
from emofuse.training import train
from emofuse.training.checkpoint import Checkpoint
from emofuse.utils import gpu

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA on this machine")

BOTH = config.overridden(
    RUN, {"network": {"modalities": ["video", "audio"], "video": {"backbone": "r3d_10", "width": 8}}}, "gpu"
)


def losses(folder: Path, name: str, **changes: object) -> list[float]:
    """The training loss of each epoch, on a GPU."""
    run = config.overridden(BOTH, {"training": changes}, name)
    with gpu.device() as device:
        assert device.type == "cuda"
        checkpoint = Checkpoint(folder / f"{name}.pt", "identity")
        progress, details = train.train(run_key(name), run, EMOTIONS, folder, checkpoint, device=device)
    assert details["device"] == torch.cuda.get_device_name(device)
    return [row["train_loss"] for row in progress.history]


def test_bfloat16_and_compilation_stay_close_to_float32(tmp_path: Path) -> None:
    make_corpus(tmp_path)
    exact = losses(tmp_path, "float32", precision="float32", mixup=0.0)
    assert losses(tmp_path, "bfloat16", precision="bfloat16", mixup=0.0) == pytest.approx(exact, rel=0.1)
    assert losses(tmp_path, "compiled", precision="float32", mixup=0.0, compile=True) == pytest.approx(exact, rel=0.05)


def test_features_that_do_not_fit_are_prefetched_to_the_same_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_corpus(tmp_path)
    resident = losses(tmp_path, "resident", precision="float32")
    monkeypatch.setattr(dataset, "RESIDENT", 0.0)
    for kind in (dataset.Faces, dataset.Spectrograms):
        monkeypatch.setattr(kind, "move", lambda self, device: pytest.fail("moved although it does not fit"))
    assert losses(tmp_path, "mapped", precision="float32") == pytest.approx(resident, rel=0.01)
