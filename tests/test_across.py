"""Models of one corpus applied to another: demo corpora with different seeds and emotions, at micro scale."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import micro
import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT, once
from hypothesis import given
from hypothesis import strategies as st

from emofuse import config, paths, report
from emofuse.config import Params
from emofuse.data import index, splits
from emofuse.data.download import clips
from emofuse.datasets.emotions import VALENCE_AROUSAL
from emofuse.evaluation import calibrate, calibration, evaluate, transfer
from emofuse.features import audio, faces
from emofuse.paths import RunKey, TransferKey
from emofuse.provenance import across
from emofuse.provenance.freshness import Chain, State
from emofuse.provenance.records import Record
from emofuse.provenance.trace import trace
from emofuse.report import load
from emofuse.training import train
from emofuse.utils.errors import UserError
from emofuse.utils.files import read_csv

EMOTIONS = ["neutral", "happy", "sad", "angry"]
SHARED = ("happy", "sad", "angry")
SOURCE: dict[str, Any] = {
    **{
        key: micro.SECTION[key] for key in ("faces", "audio", "spectrogram", "network", "training", "validation_actors")
    },
    "kind": "demo",
    "title": "the source",
    "demo": {"seed": 2, "actors": 4, "takes": 1, "emotions": EMOTIONS},
    "shards": [0, 1],
    "variants": ["proposed"],
    "protocols": {"kfold_2": [0, 1]},
    "seeds": [1, 2],
}
ACROSS = {"there": {"kfold_2": ["proposed"]}}
HERE: dict[str, Any] = {
    **SOURCE,
    "title": "the target",
    "demo": {"seed": 3, "actors": 5, "takes": 1, "emotions": ["surprised", "angry", "sad", "happy"]},
    "seeds": [1],
    "protocols": {"kfold_2": [0]},
    "across": ACROSS,
}
OTHER: dict[str, Any] = {  # the same clips, of which other features are made
    **HERE,
    "faces": HERE["faces"] | {"size": 24},
    "audio": HERE["audio"] | {"bands": 24},
}
TREE: dict[str, Any] = {
    "paper": [],
    "corpora": {"there": SOURCE, "here": HERE, "elsewhere": OTHER},
    "variants": {"proposed": {}, "audio_only": {"network": {"modalities": ["audio"]}}},
}


def folds(corpus: str = "here") -> list[TransferKey]:
    return [
        TransferKey(RunKey("there", "kfold_2", "proposed", seed, fold), corpus) for seed in (1, 2) for fold in (0, 1)
    ]


def load_tree(folder: Path, **changes: Any) -> Params:
    """params.yaml with the sections of corpora that are given replaced in part."""
    corpora = {name: {**section, **changes.get(name, {})} for name, section in TREE["corpora"].items()}
    (folder / "params.yaml").write_text(yaml.safe_dump({**TREE, "corpora": corpora}, sort_keys=False))
    return config.load(folder / "params.yaml")


def run_stages(folder: Path) -> None:
    """Every stage that transfers to both targets need, and the transfers."""
    folder.mkdir(parents=True)
    shutil.copytree(ROOT / "literature", folder / "literature")
    params = load_tree(folder)
    for corpus in params.corpora:
        for shard in (0, 1):
            clips.stage(params, corpus, shard, folder)
        index.stage(params, corpus, folder)
    for corpus in ("there", "here"):
        for shard in (0, 1):
            faces.stage(params, corpus, shard, root=folder)
            audio.stage(params, corpus, shard, folder)
    splits.stage(params, "there", "kfold_2", folder)
    for key in params.keys("there"):
        run_fold(params, key, folder)
    for corpus in ("here", "elsewhere"):
        for fold in folds(corpus):
            apply(params, fold, folder)


def _arguments(key: RunKey) -> tuple[str, str, str, int, int]:
    return key.corpus, key.protocol, key.variant, key.seed, key.fold


def run_fold(params: Params, key: RunKey, folder: Path) -> None:
    train.stage(params, *_arguments(key), root=folder)
    if params.calibrated_on(key):
        calibrate.stage(params, *_arguments(key), root=folder)
    evaluate.stage(params, *_arguments(key), root=folder)


def apply(params: Params, fold: TransferKey, folder: Path) -> None:
    transfer.stage(params, *_arguments(fold.run), fold.corpus, folder)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder after all transfers. Do not change it."""
    patch = pytest.MonkeyPatch()
    patch.setenv("MLFLOW_TRACKING_URI", "")
    try:
        return once(tmp_path_factory, "transfers", run_stages)
    finally:
        patch.undo()


@pytest.fixture
def folder(done: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(done, tmp_path / "copy")
    return tmp_path / "copy"


def test_probabilities_are_of_the_shared_clips_and_of_all_emotions_of_the_model(done: Path) -> None:
    frame = read_csv(done / folds()[0].predictions)
    assert list(frame) == ["clip", "actor", "emotion", *(f"p_{emotion}" for emotion in EMOTIONS)]
    assert set(frame["emotion"]) == set(SHARED)
    assert len(frame) == 5 * len(SHARED)
    probabilities = frame[[f"p_{emotion}" for emotion in EMOTIONS]].to_numpy(float)
    assert np.allclose(probabilities.sum(1), 1, atol=1e-5)
    stated = json.loads((done / folds()[0].metrics).read_text())
    assert stated["left_out"] == {"emotion: surprised": 5}
    assert (stated["shared"], stated["clips"], stated["actors"]) == (list(SHARED), 15, [1, 2, 3, 4, 5])
    assert len({(done / fold.predictions).read_bytes() for fold in folds()}) == 4


def test_other_features_of_the_target_give_the_same_predictions(done: Path) -> None:
    """Both targets have the same clips, but only one has features that are made as those of the source."""
    for equal, different in zip(folds("here"), folds("elsewhere"), strict=True):
        assert (done / equal.predictions).read_bytes() == (done / different.predictions).read_bytes()
    record = Record.read(done, folds("elsewhere")[0].record)
    assert record
    assert {path for path in record.inputs if "/features/" in path} == set()
    assert paths.raw("elsewhere", 0) in record.inputs


def test_scores_are_those_of_the_mean_probability_of_the_models_of_a_seed(done: Path) -> None:
    by_seed = []
    for seed in (1, 2):
        total = pd.DataFrame()
        for fold in (key for key in folds() if key.run.seed == seed):
            frame = read_csv(done / fold.predictions)
            chosen = frame[[f"p_{emotion}" for emotion in SHARED]].astype(float)
            total = total.add(chosen.div(chosen.sum(axis=1), axis=0), fill_value=0)
        predicted = total.idxmax(axis=1).str.removeprefix("p_")
        by_seed.append((predicted == frame["emotion"]).mean())
    found = load.read("here", load_tree_of(done), done).across
    assert len(found) == 1
    assert found[0].estimates["war"].mean == pytest.approx(np.mean(by_seed))
    assert found[0].estimates["war"].sd_seeds == pytest.approx(np.std(by_seed, ddof=1))


def load_tree_of(folder: Path) -> Params:
    return config.load(folder / "params.yaml")


def test_the_report_has_a_row_per_source_and_variant_and_its_numbers_lead_to_the_clips(folder: Path) -> None:
    params = load_tree_of(folder)
    splits.stage(params, "here", "kfold_2", folder)
    report.stage(params, "here", folder)
    tables = folder / "results/here/tables"
    row = pd.read_csv(tables / "across.csv").iloc[0]
    assert (row["trained_on"], row["models"], row["seeds"], row["clips"], row["actors"]) == ("there", 4, "1, 2", 15, 5)
    assert row["shared"] == "happy, sad, angry"
    assert row["chance"] == pytest.approx(1 / 3)
    assert row["war_low"] <= row["war_mean"] <= row["war_high"]
    text = (tables / "across.md").read_text()
    assert "both corpora are of kind demo: their speakers may be the same" in text
    assert "5 (emotion: surprised)" in text
    html = (folder / "results/here/report.html").read_text()
    assert 'href="#across/there/kfold_2/proposed/seed-1"' in html
    assert 'id="across/there/kfold_2/proposed/seed-2"' in html
    traced = "\n".join(trace(f"{tables / 'across.md'}:there:WAR", Chain(params, folder)))
    for command in ("transfer there kfold_2 proposed 1 0 here", "train there kfold_2 proposed 1 0", "download here 0"):
        assert f"emofuse {command}" in traced
    report.stage(params, "there", folder)
    assert "#across" not in (folder / "results/there/report.html").read_text()
    assert "lists no runs of other corpora" in (folder / "results/there/tables/across.md").read_text()


def test_transfers_from_and_to_development_corpora_are_marked(folder: Path) -> None:
    for here, there in ((False, True), (True, False), (False, False)):
        params = load_tree(folder, here={"development": here}, there={"development": there})
        text = report.compute("here", params, folder)[1]["across"].markdown()
        assert ("there (development corpus, optimistic)" in text) == there
        assert ("there is a development corpus: the recipe of its networks was selected" in text) == there
        assert ("Development corpus, optimistic: recipes were selected on these speakers" in text) == here
        assert params.settings("report", "here")["across"]["there"]["development"] == there


def test_rows_without_results_are_shown(folder: Path) -> None:
    for fold in folds()[1:]:
        shutil.rmtree(folder / fold.results)
    params = load_tree_of(folder)
    text = report.compute("here", params, folder)[1]["across"].markdown()
    assert "1 of 4" in text
    assert "lacks fold 1 of seed 1; fold 0–1 of seed 2" in text
    shutil.rmtree(folder / folds()[0].results)
    text = report.compute("here", params, folder)[1]["across"].markdown()
    assert text.count("not run") == 2


def test_a_model_that_changed_makes_its_predictions_stale(folder: Path) -> None:
    params = load_tree(folder, there={"training": SOURCE["training"] | {"learning_rate": 0.01}})
    record = Record.read(folder, folds()[0].record)
    assert record
    found = Chain(params, folder).lineage(record)
    assert found.state == State.STALE
    assert "training.learning_rate" in found.reasons[0]
    with pytest.raises(
        UserError, match=r"stale: .*training.learning_rate 0.001; params.yaml has 0.01.* run `snakemake"
    ):
        apply(params, folds()[0], folder)
    for key in params.keys("there"):
        run_fold(params, key, folder)
    assert "has changed since" in str(Chain(params, folder).current(record).reasons)
    splits.stage(params, "here", "kfold_2", folder)
    with pytest.raises(UserError, match="stale: "):
        report.stage(params, "here", folder)
    apply(params, folds()[0], folder)
    record = Record.read(folder, folds()[0].record)
    assert record
    assert Chain(params, folder).whole(record).state == State.VERIFIED


def test_dvc_sees_the_state_of_the_runs_of_other_corpora(folder: Path) -> None:
    params = load_tree_of(folder)
    assert across.state("there", params, folder) == {}
    before = across.state("here", params, folder)
    assert before["there"]["retrained"] == {}
    changed = load_tree(folder, there={"demo": SOURCE["demo"] | {"seed": 9}})
    assert across.state("here", changed, folder) != before
    record = Record.read(folder, folds()[0].run.training_record)
    assert record
    replace(record, outputs={**record.outputs, folds()[0].run.model: "0" * 64}).write(folder)
    assert across.state("here", params, folder)["there"]["retrained"] == {folds()[0].run.model: "0" * 64}


def test_without_the_model_the_message_names_what_makes_it(folder: Path) -> None:
    (folder / folds()[0].run.model).unlink()
    with pytest.raises(UserError, match=f"is missing: run `snakemake {folds()[0].run.model} "):
        apply(load_tree_of(folder), folds()[0], folder)


def test_clips_that_are_in_the_source_too_are_left_out(folder: Path) -> None:
    file = folder / paths.index("there")
    known = read_csv(folder / paths.index("here"))
    ours = read_csv(file)
    ours.loc[0, "sha256"] = known[known["emotion"] == "sad"]["sha256"].iloc[0]
    ours.to_csv(file, index=False)
    transfer.transfer(folds()[0], load_tree_of(folder), folder)
    stated = json.loads((folder / folds()[0].metrics).read_text())
    assert stated["left_out"] == {"emotion: surprised": 5, "the same recording is in there": 1}
    assert stated["clips"] == 14


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown corpus": (
        {"nowhere": {"kfold_2": ["proposed"]}},
        "across: there is no corpus 'nowhere'; there are there,",
    ),
    "itself": ({"here": {"kfold_2": ["proposed"]}}, "across.here: this is the corpus itself"),
    "unknown protocol": ({"there": {"kfold_3": ["proposed"]}}, "across.there: there is no protocol 'kfold_3'"),
    "unknown variant": ({"there": {"kfold_2": ["audio_only"]}}, "kfold_2: there is no variant 'audio_only'"),
    "variant twice": ({"there": {"kfold_2": ["proposed"] * 2}}, "across.there.kfold_2: a variant is listed twice"),
    "shared actors": ({"there": {"random_kfold_2": ["proposed"]}}, "training and validation share actors"),
    "nothing": ({"there": {}}, "across.there: Dictionary should have at least 1 item"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_section_is_one_line(tmp_path: Path, mistake: str) -> None:
    section, message = WRONG[mistake]
    random = {"protocols": {"kfold_2": [0, 1], "random_kfold_2": [0]}}
    with pytest.raises(UserError) as error:
        load_tree(tmp_path, here={"across": section}, there=random if mistake == "shared actors" else {})
    assert str(error.value).startswith("corpora.here.across")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_corpora_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"across\.there: at least two emotions .* here has sad$"):
        load_tree(tmp_path, here={"demo": HERE["demo"] | {"emotions": ["disgust", "sad", "calm"]}})
    audio = {"modalities": ["audio"], "faces": None, "network": HERE["network"] | {"modalities": ["audio"]}}
    with pytest.raises(UserError, match=r"across\.there\.kfold_2: proposed needs video, which here lacks"):
        load_tree(tmp_path, here=audio)
    params = load_tree(tmp_path)
    for wrong in ({"seed": 3}, {"fold": 2}, {"source": "here"}):
        with pytest.raises(UserError, match="there is no"):
            params.applied(**{**folds()[0].asdict(), **wrong})


names = st.lists(st.sampled_from(list(VALENCE_AROUSAL)), min_size=2, unique=True)


@st.composite
def restriction(draw: st.DrawFn) -> tuple[np.ndarray, list[str], list[str]]:
    emotions = draw(names)
    shared = draw(st.lists(st.sampled_from(emotions), min_size=2, unique=True))
    rows = draw(st.lists(st.lists(st.floats(0, 1), min_size=len(emotions), max_size=len(emotions)), min_size=1))
    values = np.array(rows) + 0.0
    sums = values.sum(1, keepdims=True)
    return np.where(sums > 0, values / np.where(sums > 0, sums, 1), 1 / len(emotions)), emotions, shared


@given(restriction())
def test_restricted_probabilities_sum_to_one_and_keep_their_ratios(
    case: tuple[np.ndarray, list[str], list[str]],
) -> None:
    probabilities, emotions, shared = case
    found = calibration.restricted(probabilities, emotions, shared)
    assert found.shape == (len(probabilities), len(shared))
    assert np.allclose(found.sum(1), 1)
    chosen = probabilities[:, [emotions.index(emotion) for emotion in shared]]
    chosen = np.maximum(chosen, calibration.SMALLEST)  # which stands for any that is too small for a float
    assert (chosen[np.arange(len(chosen)), found.argmax(1)] == chosen.max(1)).all()
    assert np.allclose(found * chosen.sum(1, keepdims=True), chosen)


def make(folder: Path) -> Path:
    """A committed copy of the working tree with a source of one seed and a target, in which nothing has run."""
    folder.mkdir(parents=True)
    micro.copy_tree(folder)
    (folder / "dvc.lock").unlink(missing_ok=True)
    corpora = {"there": {**SOURCE, "seeds": [1], "protocols": {"kfold_2": [0]}}, "here": HERE}
    micro.change(folder, lambda loaded: loaded.update(corpora=corpora, paper=[]))
    micro.commit(folder)
    return folder


RUN = "kfold_2 proposed 1 0"
APPLIED = {f"{stage} there {RUN}" for stage in ("train", "calibrate", "evaluate")}
APPLIED |= {f"transfer there {RUN} here", "report here"}
REPRO = ("dvc", "repro", "report@here")


@pytest.fixture(scope="module")
def run_by_dvc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The target, run by DVC in a new clone, and committed."""

    def run(folder: Path) -> None:
        clone = make(folder / "emofuse")
        jobs = micro.ran(micro.run(clone, *REPRO))
        assert jobs >= APPLIED | {f"train here {RUN}", f"evaluate here {RUN}", "splits there kfold_2", "faces here 1"}
        assert "report there" not in jobs
        micro.commit(clone, "run")

    return once(tmp_path_factory, "across-by-dvc", run) / "emofuse"


@pytest.mark.slow
def test_both_engines_apply_models_of_the_other_corpus_and_notice_when_they_change(
    run_by_dvc: Path, tmp_path: Path
) -> None:
    folder = micro.copied(run_by_dvc, tmp_path)
    assert micro.planned(folder, "here") == set()
    assert "Stage 'scores@here' didn't change, skipping" in micro.run(folder, *REPRO)
    assert "up to date" in micro.run(folder, "dvc", "status", "report@here")
    assert "there,kfold_2,proposed,False,run" in (folder / "results/here/tables/across.csv").read_text()

    def rate(value: float) -> None:
        training = SOURCE["training"] | {"learning_rate": value}
        micro.change(folder, lambda loaded: loaded["corpora"]["there"].update(training=training))

    rate(0.01)
    assert micro.planned(folder, "here") == APPLIED
    assert "stale" in micro.run(folder, "emofuse", "verify", "here", status=2)
    assert "stale: " in micro.run(folder, "emofuse", "transfer", "there", *RUN.split(), "here", status=2)
    predictions = folder / folds()[0].predictions
    before = predictions.read_bytes()
    assert micro.ran(micro.run(folder, *REPRO)) == APPLIED
    assert predictions.read_bytes() != before
    assert "up to date" in micro.run(folder, "dvc", "status", "report@here")
    micro.run(folder, "emofuse", "verify", "here")

    rate(0.02)
    micro.run(folder, "snakemake", "there_scores", "--cores", "2")  # the source alone
    assert micro.ran(micro.run(folder, *REPRO)) == {f"transfer there {RUN} here", "report here"}
    micro.change(folder, lambda loaded: loaded["corpora"]["here"].pop("across"))
    assert micro.ran(micro.run(folder, *REPRO)) == {"report here"}
    assert json.loads((folder / paths.across("here")).read_text()) == {}


@pytest.mark.integration
def test_published_predictions_are_adopted_without_the_models(run_by_dvc: Path, tmp_path: Path) -> None:
    origin = micro.copied(run_by_dvc, tmp_path / "origin")
    micro.run(origin, "emofuse", "publish", "here", "--why", "first run")
    log = (origin / "results/published/test_evaluations.csv").read_text()
    assert '"across there, kfold_2: proposed, seeds 1, folds 0; kfold_2: proposed, seeds 1, folds 0"' in log
    assert ",first run,2," in log
    micro.commit(origin, "published")
    assert "published/here: intact, up to date" in micro.run(origin, "emofuse", "verify", "here")

    clone = tmp_path / "clone" / "emofuse"
    clone.parent.mkdir()
    micro.run(origin, "git", "clone", "-q", str(origin), str(clone))
    micro.run(clone, "emofuse", "adopt", "results/published/here")
    key = folds()[0]
    assert (clone / key.predictions).read_bytes() == (origin / key.predictions).read_bytes()
    assert not (clone / key.run.model).exists()
    assert micro.ran(micro.run(clone, "snakemake", "here", "--cores", "2")) <= {"report here"}
    assert "across: identical" in micro.run(clone, "emofuse", "compare", "here")
    assert "adopted from published results" in micro.run(clone, "emofuse", "verify", "here")
    printed = micro.run(clone, "emofuse", "transfer", "there", *RUN.split(), "here", status=2)
    assert "is missing: run `snakemake " in printed
