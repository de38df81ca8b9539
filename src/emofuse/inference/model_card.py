"""The model card of a run (Mitchell et al., FAT* 2019, arXiv 1810.03993), generated from its results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emofuse import datasets, paths
from emofuse.config import Network, Params
from emofuse.data.protocols import RANDOM
from emofuse.datasets.base import Actor, Dataset, actor_named
from emofuse.evaluation import metrics, statistics
from emofuse.evaluation.metrics import NAMES
from emofuse.evaluation.text import ACTORS_UNKNOWN, SCORES_NOTE, spread
from emofuse.inference.bundle import Bundle, Ensemble
from emofuse.inference.writers import MODALITIES
from emofuse.report import load as results
from emofuse.report.load import CorpusResults, Fold, Method, Run
from emofuse.report.table import points
from emofuse.report.tables import scores
from emofuse.utils.errors import UserError
from emofuse.utils.files import read_csv
from emofuse.utils.text import NONE, percent, ranges


def text(bundle: Bundle, params: Params, root: Path) -> str:
    """The card as Markdown, with intervals from resampling actors within folds, in %.

    Raises `UserError` if a result file is missing or invalid.
    """
    corpus = results.read(bundle.corpus, params, root)
    runs = [(ensemble, _run(corpus, bundle, ensemble)) for ensemble in bundle.ensembles]
    requested = runs[0][1]
    clips = read_csv(root / paths.index(bundle.corpus), ("actor", "gender"))
    gender = {actor_named(actor): own for actor, own in zip(clips["actor"], clips["gender"], strict=True) if actor}
    dataset = datasets.of(params.corpus(bundle.corpus), root)
    parts: list[Sequence[str]] = [
        ["---", f"license: {dataset.licence}", "tags: [emotion-recognition, audio-visual, emofuse]", "---"],
        [f"# {bundle.title}: {requested.variant}"],
        [*([f"**{corpus.warning}**"] if corpus.warning else []), _summary(bundle, requested)],
        ["## Intended use", *_uses(dataset)],
        ["## Training and test data", *_data(bundle, dataset, corpus, requested)],
        ["## Results", *_results(runs)],
        ["## Results by gender and actor", *_fairness(requested, gender)],
        ["## Calibration", _calibration(bundle.ensembles[0])],
        ["## Usage", *_use(bundle)],
        [
            "## Licence",
            f"Trained on {dataset.terms}",
            "The code is under the MIT licence." if bundle.kind != "demo" else "",
        ],
        ["## Provenance", *_origins(bundle)],
    ]
    return (
        "\n\n".join("\n".join(part) if part[0] == "---" else "\n\n".join(filter(None, part)) for part in parts) + "\n"
    )


def _run(corpus: CorpusResults, bundle: Bundle, ensemble: Ensemble) -> Run:
    """The run of an ensemble, with only the folds whose models it contains."""
    key = (bundle.protocol, ensemble.variant, bundle.seed)
    run = next(run for run in corpus.planned if (run.protocol, run.variant, run.seed) == key)
    wanted = {model.fold for model in ensemble.models}
    folds = tuple(fold for fold in run.folds if fold.fold in wanted)
    if len(folds) < len(wanted):
        raise UserError(f"results/{corpus.name}/{run.key()}: results of some folds are missing; run the evaluate stage")
    return replace(run, folds=folds)


def _summary(bundle: Bundle, run: Run) -> str:
    network = run.setup.network
    parts = {"video": "faces", "audio": "log-mel spectrograms"}
    origin = f"Built by `{network.factory}`, which is not part of emofuse."
    if isinstance(network, Network):
        parts = {
            "video": f"a 3D-CNN ({network.video.backbone}) on faces",
            "audio": f"a 2D-CNN ({network.audio.backbone}) on log-mel spectrograms",
        }
        origin = (
            "A reimplementation of Mocanu, Tapu and Zaharia, Image and Vision Computing 133, 2023; these are not the authors'"
            " models."
        )
    branches = " and ".join(parts[name] for name in sorted(network.modalities, reverse=True))
    count = len(run.folds)
    return (
        f"{count} {'network' if count == 1 else 'networks, one per fold,'} {'on' if network.factory else 'with'} {branches},"
        f" which recognize {len(bundle.emotions)} emotions ({', '.join(bundle.emotions)}) in a spoken sentence. {origin}"
    )


def _uses(dataset: Dataset) -> list[str]:
    return [
        "Research on the recognition of acted emotions, and reproducing results of that research.",
        f"**Out of scope.** The training data are {dataset.people}, who portray each emotion on request. The models do not"
        " recognize what anybody feels. Do not judge people by them: do not use them in hiring, education, policing, care,"
        " insurance or border control, nor to monitor anybody without consent. The EU AI Act prohibits emotion recognition at"
        " work and in schools (Regulation 2024/1689, article 5). Other languages, ages, cultures, cameras, spontaneous speech"
        " and several speakers were not tested.",
    ]


def _data(bundle: Bundle, dataset: Dataset, corpus: CorpusResults, run: Run) -> list[str]:
    clips = corpus.clips.get(bundle.protocol)
    usable = f"{clips.usable:,} of {clips.total:,} clips were usable, from {len(clips.actors)} actors." if clips else ""
    shared = (
        "**Actors appear in training and test**: the results do not apply to unseen people."
        if bundle.protocol.startswith(RANDOM)
        else ACTORS_UNKNOWN
        if not corpus.actors_known
        else "No actor is in more than one part of a split."
    )
    kept = (
        "Each network was trained for a fixed number of epochs, and its last weights were kept."
        if run.setup.training.selection == "last"
        else "The weights kept are those of the epoch with the best results on validation actors, held out in each fold."
    )
    return [
        f"Corpus: {bundle.title}; {dataset.people}. {usable}",
        f"Protocol: {bundle.protocol}, folds {ranges([fold.fold for fold in run.folds])}, seed {bundle.seed}. {shared}"
        f" {kept} Each network was tested on the test actors of its own fold. The ensemble was not tested, because every actor is"
        " in the training data of some of its networks.",
    ]


def _results(runs: Sequence[tuple[Ensemble, Run]]) -> list[str]:
    rows = [
        [
            run.variant,
            " and ".join(sorted(ensemble.modalities)),
            *(_spread(Method((run,)).estimates[metric]) for metric in statistics.METRICS),
        ]
        for ensemble, run in runs
    ]
    return [
        _table(["Variant", "Needs", *(f"{NAMES[metric]} %" for metric in statistics.METRICS)], rows),
        SCORES_NOTE,
    ]


def _spread(estimate: statistics.Estimate) -> str:
    return spread(estimate).replace("\n", " ")


def _fairness(run: Run, gender: dict[Actor, str]) -> list[str]:
    parts = []
    groups = sorted({gender.get(actor, "") for fold in run.folds for actor in fold.actors.tolist()} - {""})
    chosen = {
        group: _of_actors(run.folds, [actor for actor, own in gender.items() if own == group]) for group in groups
    }
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
        parts.append(_table(["Gender (corpus label)", "Actors", "Clips", "WAR %", "UAR %"], rows))
    if len(groups) == 2:
        one, other = groups
        gap = statistics.gap(chosen[one], chosen[other])
        parts.append(f"Difference in WAR, {one} minus {other}: {scores.gain(gap).replace(chr(10), ' ')} points.")
    pooled: dict[Actor, NDArray[np.int64]] = {}
    for fold in run.folds:
        for actor, confusion in zip(fold.actors.tolist(), fold.confusions, strict=True):
            pooled[actor] = pooled.get(actor, 0) + confusion
    accuracy = {actor: float(metrics.scores(confusion)["war"]) for actor, confusion in sorted(pooled.items())}
    worst, best = min(accuracy, key=accuracy.__getitem__), max(accuracy, key=accuracy.__getitem__)
    parts.append(
        f"Between actors: WAR from {percent(accuracy[worst])} % (actor {worst}) to {percent(accuracy[best])} %"
        f" (actor {best}), {points(100 * (accuracy[best] - accuracy[worst]))} points."
    )
    rows = [
        [str(actor), gender.get(actor) or NONE, str(int(pooled[actor].sum())), percent(value)]
        for actor, value in accuracy.items()
    ]
    parts.append(_table(["Actor", "Gender", "Clips", "WAR %"], rows))
    return parts


def _of_actors(
    folds: Sequence[Fold], actors: Sequence[Actor]
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """The arguments of `statistics` for one seed, restricted to some actors; folds without them are left out."""
    chosen = [(fold, np.isin(fold.actors, actors)) for fold in folds]
    return [fold.actors[who] for fold, who in chosen if who.any()], [
        fold.confusions[who][:, None] for fold, who in chosen if who.any()
    ]


def _calibration(ensemble: Ensemble) -> str:
    temperatures = ", ".join(f"{model.temperature:.2f}" for model in ensemble.models if model.temperature is not None)
    fitted = {
        None: "",
        "validation actors": "fitted on the validation actors of its fold",
        "inner halves": "fitted on its training actors, each predicted by a network that was trained in the same way on the half"
        " of them without that actor",
    }[ensemble.calibrated_on]
    divided = f"Probabilities are calibrated: the scores of each network are divided by a temperature {fitted} ({temperatures})."
    return (
        divided if fitted else "Probabilities are uncalibrated: read them as a ranking of the emotions."
    ) + " The probabilities of the networks are averaged. The report of the run shows the reliability of each network."


def _use(bundle: Bundle) -> list[str]:
    used = " and ".join(MODALITIES[name] for name in sorted(bundle.modalities, reverse=True)).capitalize()
    own = {each.network.factory: each for each in bundle.ensembles if each.network.factory}
    option = "".join(f" --factory {name}" for name in own)
    return [
        f"```sh\nemofuse predict --model <this folder>{option} video.mp4\n```",
        *(
            f"The code of {each.variant}, the package `{each.network.package}`, is not in this folder: have it in the folder"
            f" where you run this, or install it, in the version with the digest `{each.package}`. A server takes the name"
            f" from its environment, `EMOFUSE_FACTORY={name}`. The programs (`.pt2`) need no package."
            for name, each in own.items()
        ),
        f"{used} are extracted as in training, from the whole video if it is no longer than {bundle.longest:.1f} seconds, else from"
        f" windows of {bundle.window:.1f} seconds.",
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
