"""From videos to probabilities of each emotion, for every face in every window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from emofuse.data.dataset import to_input
from emofuse.features import faces
from emofuse.features.media import BrokenClip
from emofuse.inference import windows
from emofuse.inference.bundle import Bundle, Ensemble
from emofuse.inference.windows import Place, Sample
from emofuse.training.train import CPU
from emofuse.utils.progress import Progress
from emofuse.utils.stand_ins import stand_in

BATCH = {"cpu": 4, "cuda": 32}  # samples; larger batches take gigabytes on a CPU and are no faster
EXAMPLES = 20  # clips that keep a sample per face for the page; a sample takes megabytes


@dataclass(frozen=True)
class Prediction:
    """The prediction of an ensemble for one face in one window.

    `scores` (models, emotions) are the outputs of its networks; `probabilities` (emotions,) are calibrated, if the models have
    temperatures, and averaged over the networks.
    """

    place: Place
    ensemble: Ensemble
    scores: NDArray[np.float32]
    probabilities: NDArray[np.float64]

    def note(self, bundle: Bundle) -> str:
        """Why the bundle's first ensemble could not be used; "" if it was."""
        return reasons(self.place, bundle) if self.ensemble is not bundle.ensembles[0] else ""


@dataclass(eq=False)
class Clip:
    """The predictions for one file, in order of time, and the places without one.

    `broken` is the reason if the file cannot be read, else "". `examples` has the sample with the most confident prediction
    for each face; only the first clips have them.
    """

    path: Path
    predictions: list[Prediction] = field(default_factory=list)
    skipped: list[Place] = field(default_factory=list)
    examples: dict[int | None, tuple[Sample, Prediction]] = field(default_factory=dict)
    broken: str = ""

    @property
    def faces(self) -> list[int | None]:
        """The faces with predictions; None if no face was looked for or found, and for sound alone."""
        found = {prediction.place.face for prediction in self.predictions}
        return sorted(found, key=lambda face: (face is None, face or 0))

    def of(self, face: int | None) -> list[Prediction]:
        """The predictions for one face, window by window."""
        return [prediction for prediction in self.predictions if prediction.place.face == face]

    def mean(self, face: int | None) -> NDArray[np.float64]:
        """The probabilities (emotions,) of a face, averaged over its windows."""
        return np.asarray(np.mean([prediction.probabilities for prediction in self.of(face)], axis=0))

    def failure(self, bundle: Bundle) -> str:
        """Why there is no prediction at all; "" if there is one."""
        if self.predictions or self.broken:
            return self.broken
        needed = " or ".join(" and ".join(sorted(ensemble.modalities)) for ensemble in bundle.ensembles)
        return f"{reasons(self.skipped[0], bundle)}; these models need {needed}"


def reasons(place: Place, bundle: Bundle) -> str:
    """Why modalities of a place cannot be used."""
    return "; ".join(dict.fromkeys(place.missing[name] for name in sorted(bundle.modalities) if name in place.missing))


class Models:
    """The face detector and the networks of a bundle; networks are loaded on first use."""

    def __init__(self, bundle: Bundle, folder: Path, device: torch.device = CPU, factory: str | None = None) -> None:
        """Raises `UserError` if the weights of the face detector are missing or do not fit, or for the wrong `factory`
        (see `Bundle.check_factory`).
        """
        bundle.check_factory(factory)
        self.bundle, self.folder, self.device, self._factory = bundle, folder, device, factory
        weights = folder / bundle.detector if bundle.detector else None
        self.detect = faces.detector(bundle.faces, weights) if bundle.faces else None
        self._networks: dict[str, list[nn.Module]] = {}

    def networks(self, ensemble: Ensemble) -> list[nn.Module]:
        """The networks of an ensemble, on the device, in eval mode."""
        if ensemble.variant not in self._networks:
            loaded = self.bundle.networks(ensemble, self.folder, self._factory)
            self._networks[ensemble.variant] = [network.to(self.device) for network in loaded]
        return self._networks[ensemble.variant]

    @torch.no_grad()
    def scores(self, ensemble: Ensemble, samples: Sequence[Sample]) -> NDArray[np.float32]:
        """The scores (samples, models, emotions) of samples that have the modalities of the ensemble."""
        inputs = self.inputs(ensemble, samples)
        return torch.stack([network(inputs)[0].float().cpu() for network in self.networks(ensemble)], 1).numpy()

    def inputs(self, ensemble: Ensemble, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        """The network inputs of samples, by modality."""
        stacked = {
            name: np.stack([sample.stored(name, ensemble.spectrogram) for sample in samples])
            for name in ensemble.network.modalities
        }
        return {name: to_input(torch.from_numpy(batch).to(self.device), name) for name, batch in stacked.items()}


def predict(paths: Sequence[Path], models: Models) -> list[Clip]:
    """Predict some videos. At most a few windows of each are in memory at a time."""
    clips = [Clip(path) for path in paths]
    batch: list[tuple[Clip, Sample, Ensemble]] = []
    for clip in Progress(clips, "videos") if len(clips) > 1 else clips:
        try:
            _require_file(clip.path)
            for sample in windows.samples(clip.path, models.bundle, models.detect, _with_progress(clip.path)):
                ensemble = models.bundle.ensemble_for(sample.modalities)
                if ensemble is None:
                    clip.skipped.append(sample.place)
                    continue
                batch.append((clip, sample, ensemble))
                if len(batch) == BATCH[models.device.type]:
                    _predict_batch(batch, models, clips[:EXAMPLES])
                    batch = []
        except BrokenClip as reason:
            clip.broken = str(reason)
    _predict_batch(batch, models, clips[:EXAMPLES])
    for clip in clips:
        clip.predictions.sort(key=lambda prediction: (prediction.place.start, prediction.place.face or 0))
    return clips


def _require_file(path: Path) -> None:
    """Raise `BrokenClip` for a pipe, which might never end, and for a file that stands for another."""
    try:
        is_pipe = path.is_fifo()
    except OSError as error:
        raise BrokenClip(f"cannot be read: {error.strerror}") from None
    if is_pipe:
        raise BrokenClip("cannot be read: it is a pipe, not a file")
    if instead := stand_in(path, "the file"):
        raise BrokenClip(instead)


def _with_progress(path: Path) -> windows.Progress:
    return lambda spans: Progress(spans, f"{path.name}, windows") if len(spans) > 1 else spans


def _predict_batch(
    batch: Sequence[tuple[Clip, Sample, Ensemble]], models: Models, with_examples: Sequence[Clip]
) -> None:
    """Predict samples, each with its ensemble, and add the predictions to their clips."""
    for ensemble in models.bundle.ensembles:
        chosen = [(clip, sample) for clip, sample, own in batch if own is ensemble]
        if not chosen:
            continue
        scores_SMC = models.scores(ensemble, [sample for _, sample in chosen])
        temperatures = np.array([model.temperature or 1 for model in ensemble.models])
        probabilities_SMC = torch.from_numpy(scores_SMC / temperatures[:, None]).double().softmax(2).numpy()
        means_SC = probabilities_SMC.mean(1)
        for (clip, sample), scores_MC, probabilities_C in zip(chosen, scores_SMC, means_SC, strict=True):
            prediction = Prediction(sample.place, ensemble, scores_MC, probabilities_C)
            clip.predictions.append(prediction)
            best = clip.examples.get(sample.place.face)
            if clip in with_examples and (best is None or probabilities_C.max() > best[1].probabilities.max()):
                clip.examples[sample.place.face] = sample, prediction
