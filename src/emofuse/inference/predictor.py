"""Ask the models: from videos to the probabilities of each emotion, calibrated, of every face in every window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from emofuse.data.dataset import to_input
from emofuse.features import faces
from emofuse.features.media import BrokenClip
from emofuse.inference import windows
from emofuse.inference.bundle import Bundle, Ensemble
from emofuse.inference.windows import Place, Sample
from emofuse.models.network import EmotionNetwork
from emofuse.training.train import CPU
from emofuse.utils.progress import Progress

TOGETHER = {"cpu": 4, "cuda": 32}  # samples asked at once: on a CPU more take gigabytes, and no less time
SHOWN = 20  # clips of which a sample a face is kept to be shown: they are megabytes


@dataclass(frozen=True)
class Answer:
    """What an ensemble says of one place.

    `scores` (models, emotions) are its networks' own, `probabilities` (emotions,) calibrated and averaged over them.
    """

    place: Place
    ensemble: Ensemble
    scores: NDArray[np.float32]
    probabilities: NDArray[np.float64]

    def why(self, bundle: Bundle) -> str:
        """What the clip lacks there for the ensemble that was meant; "" where that one answered."""
        return reasons(self.place, bundle) if self.ensemble is not bundle.ensembles[0] else ""


@dataclass(eq=False)
class Clip:
    """What is said of one file: `answers`, in order of time, and the places where nobody can be asked.

    `broken` says why the file cannot be read, "" where it can. `shown` has of each face the sample with the most certain
    answer, of the first clips alone.
    """

    path: Path
    answers: list[Answer] = field(default_factory=list)
    silent: list[Place] = field(default_factory=list)
    shown: dict[int | None, tuple[Sample, Answer]] = field(default_factory=dict)
    broken: str = ""

    @property
    def faces(self) -> list[int | None]:
        """Whose answers there are; None stands for a clip whose faces nobody looked for, or for a voice alone."""
        known = {answer.place.face for answer in self.answers}
        return sorted(known, key=lambda face: (face is None, face or 0))

    def of(self, face: int | None) -> list[Answer]:
        """What is said of one face, window by window."""
        return [answer for answer in self.answers if answer.place.face == face]

    def mean(self, face: int | None) -> NDArray[np.float64]:
        """The probabilities of a face's emotions (emotions,), averaged over its windows."""
        return np.asarray(np.mean([answer.probabilities for answer in self.of(face)], axis=0))

    def refusal(self, bundle: Bundle) -> str:
        """Why there is no answer at all; "" where there is one."""
        if self.answers or self.broken:
            return self.broken
        reason = reasons(self.silent[0], bundle)
        needed = " or ".join(" and ".join(sorted(ensemble.modalities)) for ensemble in bundle.ensembles)
        return f"{reason}; the models here need {needed}"


def reasons(place: Place, bundle: Bundle) -> str:
    """What a place lacks, in words."""
    return "; ".join(dict.fromkeys(place.lacks[name] for name in sorted(bundle.modalities) if name in place.lacks))


class Models:
    """The networks of a bundle, each read when it is first asked, and its detector of faces."""

    def __init__(self, bundle: Bundle, folder: Path, device: torch.device = CPU) -> None:
        """Raises `UserError` where the face detector's weights are missing, or another network's."""
        self.bundle, self.folder, self.device = bundle, folder, device
        weights = folder / bundle.detector if bundle.detector else None
        self.detect = faces.detector(bundle.faces, weights) if bundle.faces else None
        self._networks: dict[str, list[EmotionNetwork]] = {}

    def networks(self, ensemble: Ensemble) -> list[EmotionNetwork]:
        """Those of an ensemble, on the device, in eval mode."""
        if ensemble.variant not in self._networks:
            read = self.bundle.networks(ensemble, self.folder)
            self._networks[ensemble.variant] = [network.to(self.device) for network in read]
        return self._networks[ensemble.variant]

    @torch.no_grad()
    def scores(self, ensemble: Ensemble, samples: Sequence[Sample]) -> NDArray[np.float32]:
        """The scores of samples that have what the ensemble needs: (samples, models, emotions)."""
        inputs = self.inputs(ensemble, samples)
        return torch.stack([network(inputs)[0].float().cpu() for network in self.networks(ensemble)], 1).numpy()

    def inputs(self, ensemble: Ensemble, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        """What its networks eat of some samples."""
        stacked = {name: np.stack([s.features[name] for s in samples]) for name in ensemble.network.modalities}
        return {name: to_input(torch.from_numpy(batch).to(self.device), name) for name, batch in stacked.items()}


def ask(paths: Sequence[Path], models: Models) -> list[Clip]:
    """What the models say of some videos. Of each no more is in memory than a few windows."""
    clips = [Clip(path) for path in paths]
    batch: list[tuple[Clip, Sample, Ensemble]] = []
    for clip in Progress(clips, "videos") if len(clips) > 1 else clips:
        try:
            for sample in windows.samples(clip.path, models.bundle, models.detect, _watched(clip.path)):
                ensemble = models.bundle.answering(frozenset(sample.features))
                if ensemble is None:
                    clip.silent.append(sample.place)
                    continue
                batch.append((clip, sample, ensemble))
                if len(batch) == TOGETHER[models.device.type]:
                    _answer(batch, models, clips[:SHOWN])
                    batch = []
        except BrokenClip as reason:
            clip.broken = str(reason)
    _answer(batch, models, clips[:SHOWN])
    for clip in clips:
        clip.answers.sort(key=lambda answer: (answer.place.start, answer.place.face or 0))
    return clips


def _watched(path: Path) -> windows.Progress:
    return lambda spans: Progress(spans, f"{path.name}, windows") if len(spans) > 1 else spans


def _answer(batch: Sequence[tuple[Clip, Sample, Ensemble]], models: Models, shown: Sequence[Clip]) -> None:
    """Ask about some samples, each the ensemble that it is for."""
    for ensemble in models.bundle.ensembles:
        asked = [(clip, sample) for clip, sample, answering in batch if answering is ensemble]
        if not asked:
            continue
        scores_SMC = models.scores(ensemble, [sample for _, sample in asked])
        temperatures = np.array([model.temperature for model in ensemble.models])
        chances_SMC = torch.from_numpy(scores_SMC / temperatures[:, None]).double().softmax(2).numpy()
        for (clip, sample), scores_MC, chances_C in zip(asked, scores_SMC, chances_SMC.mean(1), strict=True):
            answer = Answer(sample.place, ensemble, scores_MC, chances_C)
            clip.answers.append(answer)
            best = clip.shown.get(sample.place.face)
            if clip in shown and (best is None or chances_C.max() > best[1].probabilities.max()):
                clip.shown[sample.place.face] = sample, answer
