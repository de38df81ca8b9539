"""The model card of a run (Mitchell et al., FAT* 2019, arXiv 1810.03993), made from its results: what comes with the models."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emofuse.config import Params
from emofuse.data.protocols import RANDOM
from emofuse.evaluation import metrics, statistics
from emofuse.inference.bundle import Bundle, Ensemble
from emofuse.inference.writers import WORDS
from emofuse.report import load as results
from emofuse.report.load import CorpusResults, Fold, Run
from emofuse.report.table import points
from emofuse.report.tables import NAMES, scores
from emofuse.utils.errors import UserError
from emofuse.utils.files import read_table
from emofuse.utils.text import NONE, percent, ranges

LICENCES = {
    "ravdess": (
        "cc-by-nc-sa-4.0",
        "Trained on RAVDESS (Livingstone and Russo, PLoS ONE 13, 2018), CC BY-NC-SA 4.0: not for commercial use, its authors"
        " must be named, and what is made from it, these models too, is passed on under the same terms.",
    ),
    "cremad": (
        "odbl",
        "Trained on CREMA-D (Cao et al., IEEE Transactions on Affective Computing 5, 2014), Open Database License 1.0: what is"
        " derived from it must say so, and a derived database is passed on under the same licence.",
    ),
    "demo": (
        "mit",
        "Trained on clips that a program of this repository draws; no licence but the code's, MIT, applies.",
    ),
}
PEOPLE = {
    "ravdess": "professional actors of one city, Toronto, who speak two English sentences with a North American accent",
    "cremad": "actors, 48 men and 43 women, who speak twelve English sentences",
    "demo": "faces and voices that a program makes",
}


def text(bundle: Bundle, params: Params, root: Path) -> str:
    """The card as Markdown: intervals are of actors resampled within folds, in %.

    Raises `UserError` where a result file is missing or broken.
    """
    corpus = results.read(bundle.corpus, params, root)
    runs = [(ensemble, _run(corpus, bundle, ensemble)) for ensemble in bundle.ensembles]
    asked = runs[0][1]
    gender = {
        int(row["actor"]): row["gender"] for row in read_table(root / f"data/{bundle.corpus}/index.csv") if row["actor"]
    }
    licence, terms = LICENCES[bundle.kind]
    parts: list[Sequence[str]] = [
        ["---", f"license: {licence}", "tags: [emotion-recognition, audio-visual, emofuse]", "---"],
        [f"# {bundle.title}: {asked.variant}"],
        [*([f"**{corpus.warning}**"] if corpus.warning else []), _summary(bundle, asked)],
        ["## What it is for", *_uses(bundle)],
        ["## Whom it was trained and tested on", *_data(bundle, corpus, asked)],
        ["## Results", *_results(runs)],
        ["## By gender and actor", *_fairness(asked, gender)],
        ["## Calibration", *_calibration(bundle)],
        ["## Use it", *_use(bundle)],
        ["## Licence", terms, "The code is under the MIT licence." if bundle.kind != "demo" else ""],
        ["## Where it is from", *_origins(bundle)],
    ]
    return (
        "\n\n".join("\n".join(part) if part[0] == "---" else "\n\n".join(filter(None, part)) for part in parts) + "\n"
    )


def _run(corpus: CorpusResults, bundle: Bundle, ensemble: Ensemble) -> Run:
    """The run that an ensemble is of, with the folds whose models it has."""
    key = (bundle.protocol, ensemble.variant, bundle.seed)
    run = next(run for run in corpus.planned if (run.protocol, run.variant, run.seed) == key)
    wanted = {model.fold for model in ensemble.models}
    folds = tuple(fold for fold in run.folds if fold.fold in wanted)
    if len(folds) < len(wanted):
        raise UserError(f"results/{corpus.name}/{run.key()}: not every fold has results; run the evaluate stage")
    return Run(run.protocol, run.variant, run.seed, run.setup, run.planned, folds)


def _summary(bundle: Bundle, run: Run) -> str:
    network = run.setup.network
    parts = {
        "video": f"a 3D-CNN ({network.video.backbone}) on faces",
        "audio": f"a 2D-CNN ({network.audio.backbone}) on log-mel",
    }
    branches = " and ".join(parts[name] for name in sorted(network.modalities, reverse=True))
    count = len(run.folds)
    return (
        f"{count} {'network' if count == 1 else 'networks, one a fold,'} of {branches} that tell {len(bundle.emotions)} emotions"
        f" ({', '.join(bundle.emotions)}) in a spoken sentence. After Mocanu, Tapu and Zaharia, Image and Vision Computing 133,"
        " 2023; not their models."
    )


def _uses(bundle: Bundle) -> list[str]:
    return [
        "Research on recognising acted emotions, and reproducing its results.",
        f"**What it must not be used for.** It knows {PEOPLE[bundle.kind]}, each emotion put on as it was asked for. It does not tell"
        " what anybody feels. Do not judge people by it: no hiring, teaching, policing, care, insurance or border"
        " control, nobody watched without consent; the EU's AI Act forbids emotion recognition at work and in schools"
        " (Regulation 2024/1689, article 5). Other languages, ages, cultures, cameras, spontaneous speech and more than one"
        " speaker were not tested.",
    ]


def _data(bundle: Bundle, corpus: CorpusResults, run: Run) -> list[str]:
    clips = corpus.clips.get(bundle.protocol)
    there = f"{clips.usable:,} of {clips.total:,} clips were usable, of {len(clips.actors)} actors." if clips else ""
    shared = (
        "**Actors are on all sides of the split**: the results say nothing about people it has not seen."
        if bundle.protocol.startswith(RANDOM)
        else "No actor is on two sides of a split; the epoch was chosen on validation actors."
    )
    return [
        f"Corpus: {bundle.title}; {PEOPLE[bundle.kind]}. {there}",
        f"Protocol: {bundle.protocol}, folds {ranges([fold.fold for fold in run.folds])}, seed {bundle.seed}. {shared}"
        " Each network was tested on the test actors of its own fold, which it has not seen; the average of the networks was not"
        " tested, as every actor was seen by some of them.",
    ]


def _results(runs: Sequence[tuple[Ensemble, Run]]) -> list[str]:
    rows = [
        [
            run.variant,
            " and ".join(sorted(ensemble.modalities)),
            *(_spread(run.estimates[metric]) for metric in statistics.METRICS),
        ]
        for ensemble, run in runs
    ]
    return [
        _table(["Variant", "Needs", *(f"{NAMES[metric]} %" for metric in statistics.METRICS)], rows),
        scores.SCORES_NOTE,
    ]


def _spread(estimate: statistics.Estimate) -> str:
    return scores.spread(estimate).replace("\n", " ")


def _fairness(run: Run, gender: dict[int, str]) -> list[str]:
    said = []
    groups = sorted({gender.get(int(actor), "") for fold in run.folds for actor in fold.actors} - {""})
    chosen = {group: _of(run.folds, [actor for actor, own in gender.items() if own == group]) for group in groups}
    rows = []
    for group, (actors, confusions) in chosen.items():
        found = statistics.estimates(actors, confusions)
        people = len(set(chain.from_iterable(each.tolist() for each in actors)))
        rows.append(
            [
                group,
                str(people),
                str(sum(int(each.sum()) for each in confusions)),
                *(_spread(found[m]) for m in ("war", "uar")),
            ]
        )
    if rows:
        said.append(_table(["Gender, as the corpus has it", "Actors", "Clips", "WAR %", "UAR %"], rows))
    if len(groups) == 2:
        one, other = groups
        gap = statistics.gap(chosen[one], chosen[other])
        said.append(f"Gap in WAR, {one} less {other}: {scores.gain(gap).replace(chr(10), ' ')} points.")
    pooled: dict[int, NDArray[np.int64]] = {}
    for fold in run.folds:
        for actor, confusion in zip(fold.actors.tolist(), fold.confusions, strict=True):
            pooled[actor] = pooled.get(actor, 0) + confusion
    accuracy = {actor: float(metrics.scores(confusion)["war"]) for actor, confusion in sorted(pooled.items())}
    worst, best = min(accuracy, key=accuracy.__getitem__), max(accuracy, key=accuracy.__getitem__)
    said.append(
        f"Between actors: WAR from {percent(accuracy[worst])} % (actor {worst}) to {percent(accuracy[best])} %"
        f" (actor {best}), {points(100 * (accuracy[best] - accuracy[worst]))} points."
    )
    rows = [
        [str(actor), gender.get(actor) or NONE, str(int(pooled[actor].sum())), percent(value)]
        for actor, value in accuracy.items()
    ]
    said.append(_table(["Actor", "Gender", "Clips", "WAR %"], rows))
    return said


def _of(folds: Sequence[Fold], actors: Sequence[int]) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """The actors and confusion matrices of each fold, of some actors alone; without folds that have none of them."""
    chosen = [(fold, np.isin(fold.actors, actors)) for fold in folds]
    return [fold.actors[who] for fold, who in chosen if who.any()], [
        fold.confusions[who] for fold, who in chosen if who.any()
    ]


def _calibration(bundle: Bundle) -> list[str]:
    temperatures = [model.temperature for model in bundle.ensembles[0].models]
    return [
        "Probabilities are calibrated: each network's scores are divided by a temperature, fitted on the validation actors of its"
        f" fold ({', '.join(f'{each:.2f}' for each in temperatures)}), and the networks' probabilities are averaged. The report"
        " of the run has the reliability of each network alone."
    ]


def _use(bundle: Bundle) -> list[str]:
    used = " and ".join(WORDS[name] for name in sorted(bundle.modalities, reverse=True)).capitalize()
    return [
        "```sh\nemofuse predict --model <this folder> video.mp4\n```",
        f"{used} of a video are taken as in training: of the whole of it, if it takes up to {bundle.longest:.1f} seconds, else"
        f" of windows of {bundle.window:.1f} seconds.",
    ]


def _origins(bundle: Bundle) -> list[str]:
    rows = [
        [ensemble.variant, str(model.fold), f"`{model.commit or 'not recorded'}`", f"`{model.sha256}`"]
        for ensemble in bundle.ensembles
        for model in ensemble.models
    ]
    return [
        _table(["Variant", "Fold", "Trained at commit", "SHA-256 of the weights"], rows),
        f"emofuse {bundle.emofuse}.",
    ]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = "|" + "|".join(":--" for _ in header) + "|"
    return "\n".join(["| " + " | ".join(header) + " |", rule, *("| " + " | ".join(row) + " |" for row in rows)])
