"""Learned representations: the compactness table, and the figures of distances, embeddings and attention."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import style
from matplotlib.figure import Figure
from safetensors.numpy import save_file
from sklearn.metrics import silhouette_score
from test_report import RAVDESS, VIEW, changed, make_params, write_demo, write_ravdess

from emofuse import paths, report
from emofuse.config import Network, Params
from emofuse.models.losses import EmotionDistance
from emofuse.models.network import EmotionNetwork
from emofuse.paths import RunKey
from emofuse.report import figures, load, tables
from emofuse.report.attention import Attended
from emofuse.report.embeddings import MEASURES, Embedded, aligned, classical_map, compactness, measure
from emofuse.report.figures.attention import draw_attention
from emofuse.report.figures.style import STYLE
from emofuse.utils.errors import UserError

LEARNED = ("distances", "embeddings", "attention")
TINY: dict[str, Any] = {
    "video": {"backbone": "r3d_10", "width": 4, "weights": "none"},
    "audio": {"backbone": "resnet10", "width": 8, "weights": "none"},
    "dimension": 16,
    "heads": 4,
}


@pytest.fixture
def project(tmp_path: Path) -> tuple[Params, Path]:
    return make_params(tmp_path), tmp_path


def words(figure: Figure) -> str:
    """All text in a figure."""
    texts = [*figure.texts, *itertools.chain.from_iterable([axis.title, *axis.texts] for axis in figure.axes)]
    labels = [label for axis in figure.axes for label in (axis.get_xlabel(), axis.get_ylabel(), axis.get_title("left"))]
    return "\n".join([text.get_text() for text in texts] + labels)


def run_key(fold: int, corpus: str = "demo", variant: str = "proposed") -> RunKey:
    return RunKey(corpus, "kfold_3" if corpus == "demo" else "luna_jimenez_2022_5cv", variant, 1, fold)


def write_embeddings(root: Path, fold: int, variant: str = "proposed", towards: str = "emotion") -> None:
    """Write embeddings of a fold that cluster by emotion or by actor."""
    key = run_key(fold, variant=variant)
    with (root / key.predictions).open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    generator = np.random.default_rng([fold, *variant.encode()])
    names = sorted({row[towards] for row in rows})
    places = np.eye(len(names), 12)[[names.index(row[towards]) for row in rows]]
    save_file(
        {"embeddings": (3 * places + generator.normal(0, 0.3, places.shape)).astype(np.float32)},
        root / key.embeddings,
    )


def write_model(root: Path, fold: int, tensors: dict[str, np.ndarray], network: Network, corpus: str = "demo") -> None:
    """Write a model as `train` does."""
    path = root / run_key(fold, corpus).model
    described = {"emotions": RAVDESS, "network": network.model_dump(mode="json"), "spectrogram": VIEW}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, {"emofuse": json.dumps(described)})


def write_network(root: Path, params: Params, corpus: str = "demo", **changes: Any) -> dict[str, np.ndarray]:
    """Write a tiny network for fold 0 and the features of its corpus. Returns the features by stage."""
    modalities = params.corpus(corpus).modalities
    network = Network.model_validate(TINY | {"modalities": modalities} | changes)
    torch.manual_seed(1)
    trained = EmotionNetwork(network, len(RAVDESS), {"video": (3, 3, 2, 32, 32), "audio": (3, 16, 16)})
    write_model(root, 0, {name: value.numpy().copy() for name, value in trained.state_dict().items()}, network, corpus)
    clips = root / paths.splits(corpus, run_key(0, corpus).protocol)[0]
    count = len(clips.read_text().splitlines()) - 1
    generator = np.random.default_rng(1)
    features: dict[str, np.ndarray] = {
        "faces": generator.integers(0, 256, (count, 3, 2, 32, 32, 3), dtype=np.uint8),
        "audio": generator.normal(size=(48 * count, 16)).astype(np.float16),
    }
    if "video" not in modalities:
        del features["faces"]
    for stage, values in features.items():
        file = root / paths.features(corpus, stage, 0)[0]
        file.parent.mkdir(parents=True)
        np.save(file, values)
    return features


def some_clips(actors: int = 4, seed: int = 0) -> Embedded:
    generator = np.random.default_rng(seed)
    who = np.repeat(np.arange(actors), 12)
    emotions = np.tile(np.repeat(["angry", "happy", "sad"], 4), actors)
    values = generator.normal(size=(12 * actors, 5)) + 2 * np.eye(5)[np.tile(np.repeat([0, 1, 2], 4), actors)]
    return Embedded(values / np.linalg.norm(values, axis=1, keepdims=True), emotions, who)


def test_compactness_measures_match_their_definition() -> None:
    clips = some_clips()
    found = measure(clips.distances, clips.emotions, clips.actors)
    same, other = [], []
    for i, j in itertools.combinations(range(len(clips.unit)), 2):
        distance = float(np.sqrt(((clips.unit[i] - clips.unit[j]) ** 2).sum()))
        (same if clips.emotions[i] == clips.emotions[j] else other).append(distance)
    assert found["intra"] == pytest.approx(np.mean(same))
    assert found["inter"] == pytest.approx(np.mean(other))
    assert found["ratio"] == pytest.approx(np.mean(same) / np.mean(other))
    assert found["silhouette_emotion"] == pytest.approx(silhouette_score(clips.unit, clips.emotions))
    assert found["silhouette_actor"] == pytest.approx(silhouette_score(clips.unit, clips.actors))


def test_jackknife_interval_leaves_out_each_actor() -> None:
    clips = some_clips(actors=3)
    left = []
    for actor in range(3):
        kept = clips.actors != actor
        part = Embedded(clips.unit[kept], clips.emotions[kept], clips.actors[kept])
        left.append(measure(part.distances, part.emotions, part.actors)["intra"])
    error = np.sqrt(2 / 3 * ((np.array(left) - np.mean(left)) ** 2).sum())
    reach = 4.302653 * error  # Student's t of 2 degrees of freedom, at 97.5 %
    found = compactness([[clips]])["intra"]
    assert (found.low, found.high) == pytest.approx((found.mean - reach, found.mean + reach))
    assert found.sd_folds is None
    both = compactness([[clips, some_clips(actors=5, seed=1)]])["intra"]
    assert both.sd_folds is not None
    assert both.low is not None
    assert both.low < both.mean


def test_too_few_actors_give_no_interval_and_no_silhouette() -> None:
    alone = compactness([[some_clips(actors=1)]])
    assert alone["intra"].mean > 0
    assert alone["intra"].low is None
    assert np.isnan(alone["silhouette_actor"].mean)
    pair = compactness([[some_clips(actors=2)]])
    assert pair["intra"].low is not None
    assert pair["silhouette_actor"].low is None


def test_table_distinguishes_clusters_by_emotion_from_clusters_by_actor(project: tuple[Params, Path]) -> None:
    params, root = project
    write_demo(root, variants=("proposed", "cross_entropy"))
    for fold in range(3):
        write_embeddings(root, fold)
        write_embeddings(root, fold, "cross_entropy", towards="actor")
    shown = tables.compactness(load.read("demo", params, root))
    proposed, cross_entropy = shown.frame.to_dict("records")
    assert (proposed["variant"], proposed["loss"], proposed["status"]) == ("proposed", "learnable", "run")
    assert proposed["ratio_mean"] < 0.6 < cross_entropy["ratio_mean"]
    assert proposed["silhouette_emotion_mean"] > 0.5 > proposed["silhouette_actor_mean"]
    assert cross_entropy["silhouette_actor_mean"] > 0.5 > cross_entropy["silhouette_emotion_mean"]
    for measured in MEASURES:
        assert proposed[f"{measured}_low"] <= proposed[f"{measured}_mean"] <= proposed[f"{measured}_high"]
    assert f"{proposed['intra_mean']:.3f} ± {proposed['intra_sd_folds']:.3f}" in shown.rows[0][3]
    assert shown.rows[0][-2:] == ["3", "1"]


def test_missing_embeddings_are_stated(project: tuple[Params, Path]) -> None:
    params, root = project
    write_demo(root, variants=("proposed",))
    shown = tables.compactness(load.read("demo", params, root))
    cells = {row[1]: row[3] for row in shown.rows}
    assert cells == {"proposed": "embeddings missing", "cross_entropy": "not run"}
    assert any("make pull" in note for note in shown.notes)
    write_embeddings(root, 1)
    shown = tables.compactness(load.read("demo", params, root))
    assert shown.rows[0][-2] == "1 of 3"
    assert shown.frame["status"].iat[0] == "embeddings missing"


@pytest.mark.parametrize("wrong", ["rows", "nan", "name", "bytes"])
def test_embeddings_of_another_evaluation_are_an_error(project: tuple[Params, Path], wrong: str) -> None:
    params, root = project
    write_demo(root, variants=("proposed",))
    file = root / run_key(0).embeddings
    write_embeddings(root, 0)
    count = len((file.parent / "predictions.csv").read_text().splitlines()) - 1
    values = np.ones((count - (wrong == "rows"), 4), dtype=np.float32)
    values[0, 0] = np.nan if wrong == "nan" else 1
    if wrong == "bytes":
        file.write_bytes(b"nothing of the kind")
    else:
        save_file({"vectors" if wrong == "name" else "embeddings": values}, file)
    with pytest.raises(UserError, match=r"fold-0.*embeddings.safetensors.*evaluate stage"):
        tables.compactness(load.read("demo", params, root))


@given(st.integers(3, 9), st.integers(0, 1000))
def test_map_preserves_distances_that_fit_a_plane(points: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    places = generator.normal(size=(points, 2))
    distances = np.linalg.norm(places[:, None] - places, axis=2)
    found, share = classical_map(distances)
    np.testing.assert_allclose(np.linalg.norm(found[:, None] - found, axis=2), distances, atol=1e-6)
    assert share == pytest.approx(1)
    np.testing.assert_allclose(aligned(found, places), places - places.mean(0), atol=1e-6)


def test_share_of_equal_distances_in_a_plane() -> None:
    # The seven axes of a simplex of eight points are equally long.
    assert classical_map(1 - np.eye(8))[1] == pytest.approx(2 / 7)


@pytest.mark.parametrize("name", LEARNED)
def test_missing_files_are_stated(project: tuple[Params, Path], name: str) -> None:
    params, root = project
    assert words(figures.ALL[name](load.read("demo", params, root))).strip() == "not run"
    write_demo(root, variants=("proposed",))
    drawn = figures.ALL[name](load.read("demo", params, root))
    assert ("the embeddings are missing" if name == "embeddings" else "the models are missing") in words(drawn)


def test_learned_distances_are_shown_with_their_initial_values(project: tuple[Params, Path]) -> None:
    params, root = project
    write_demo(root, variants=("proposed",))
    margin = params.run("demo", "proposed").loss.margin
    start = EmotionDistance(RAVDESS, margin)().detach().numpy()
    network = params.run("demo", "proposed").network
    for fold, step in ((0, 0.1), (2, 0.3)):
        learned = start + step * (1 - np.eye(8, dtype=np.float32))
        write_model(root, fold, {"emotion_distance": learned}, network)
    drawn = figures.distances(load.read("demo", params, root))
    cells = {tuple(text.get_position()): float(text.get_text()) for text in drawn.axes[0].texts}
    assert len(cells) == 56
    assert cells[1.5, 0.5] == pytest.approx(start[0, 1], abs=0.006)  # above the diagonal
    assert cells[0.5, 1.5] == pytest.approx(start[0, 1] + 0.2, abs=0.006)  # below, the mean of the two folds
    assert "mean of 2 of 3 folds" in words(drawn)
    named = {text.get_text() for text in drawn.axes[1].texts}
    assert named == set(RAVDESS)


def test_unchanged_distances_coincide_with_their_initial_values(project: tuple[Params, Path]) -> None:
    params, root = project
    write_demo(root, folds=(0,), variants=("proposed",))
    setup = params.run("demo", "proposed")
    start = EmotionDistance(RAVDESS, setup.loss.margin)().detach().numpy()
    write_model(root, 0, {"emotion_distance": start}, setup.network)
    places = figures.distances(load.read("demo", params, root)).axes[1]
    rings, dots = (line.get_xydata() for line in places.lines[-2:])
    np.testing.assert_allclose(rings, dots, atol=1e-6)
    happy, sad = dots[RAVDESS.index("happy")], dots[RAVDESS.index("sad")]
    assert happy[0] > sad[0]  # pleasant to the right
    assert happy[1] > sad[1]  # aroused upwards


def test_tick_labels_of_the_map_do_not_overlap(project: tuple[Params, Path]) -> None:
    params, root = project
    write_demo(root, folds=(0,), variants=("proposed",))
    setup = params.run("demo", "proposed")
    start = EmotionDistance(RAVDESS, setup.loss.margin)().detach().numpy()
    write_model(root, 0, {"emotion_distance": start}, setup.network)
    drawn = figures.distances(load.read("demo", params, root))
    with style.context(STYLE):  # how many ticks there are depends on it
        drawn.draw_without_rendering()
        axis = drawn.axes[1]
        low, high = axis.get_xlim()
        ticks = zip(axis.get_xticks(), axis.get_xticklabels(), strict=True)
        labels = [label.get_window_extent() for place, label in ticks if low <= place <= high]
    assert len(labels) > 2
    assert all(right.x0 - left.x1 > left.height for left, right in itertools.pairwise(labels))


def test_both_panels_show_the_same_embeddings(project: tuple[Params, Path]) -> None:
    params, root = project
    write_demo(root, variants=("proposed",))
    write_embeddings(root, 1)
    read = load.read("demo", params, root)
    drawn = figures.embeddings(read)
    by_emotion, by_actor = drawn.axes
    assert [text.get_text() for text in by_emotion.get_legend().get_texts()] == list(RAVDESS)
    assert [text.get_text() for text in by_actor.get_legend().get_texts()] == ["5", "6", "7", "8"]

    def points(axis: Any) -> np.ndarray:
        rows = np.concatenate([line.get_xydata() for line in axis.lines])
        return rows[np.lexsort(rows.T)]

    assert len(points(by_emotion)) == 160
    np.testing.assert_array_equal(points(by_emotion), points(by_actor))
    looks = {(line.get_color(), line.get_marker()) for line in by_emotion.lines}
    assert len(looks) == 8
    assert "fold 1" in words(drawn)
    measured = [float(axis.get_title("left").split()[-1].replace("−", "-")) for axis in drawn.axes]
    assert measured[0] > 0.5 > measured[1]
    again = figures.embeddings(read)
    np.testing.assert_array_equal(points(again.axes[0]), points(by_emotion))


def shown(figure: Figure) -> list[np.ndarray]:
    return [np.asarray(image.get_array()) for axis in figure.axes for image in axis.images]


def test_attention_is_drawn_over_faces_and_spectrograms_of_synthetic_clips(project: tuple[Params, Path]) -> None:
    params, root = project
    write_demo(root, folds=(0,), variants=("proposed",))
    features = write_network(root, params)
    drawn = figures.attention(load.read("demo", params, root))
    with (root / run_key(0).predictions).open(newline="") as stream:
        clip = next(row["clip"] for row in csv.DictReader(stream) if row["emotion"] == row["predicted"])
    assert clip in words(drawn)
    clips = list(csv.DictReader((root / "data/demo/splits/kfold_3/clips.csv").read_text().splitlines()))
    row = [line["clip"] for line in clips].index(clip)
    found = shown(drawn)
    columns_TF = features["audio"][48 * row : 48 * (row + 1)].astype(float)
    spectrogram_TF = (columns_TF - columns_TF.mean(0)) / columns_TF.std(0)
    for moment in range(3):
        assert any(np.array_equal(image, features["faces"][row, moment, 1]) for image in found)
        expected = spectrogram_TF[16 * moment : 16 * (moment + 1)].T
        assert any(image.shape == (16, 16) and np.allclose(image, expected, atol=0.01) for image in found)
    positions = [image for image in found if image.shape == (2, 2)]
    assert len(positions) == 3
    for image in positions:
        assert image.mean() == pytest.approx(1, abs=2e-3)
    bars = [[bar.get_height() for bar in group] for axis in drawn.axes for group in axis.containers]
    assert len(bars) == 4  # over time and of the fusion, of both modalities
    for heights in bars:
        assert len(heights) == 3
        assert np.mean(heights) == pytest.approx(1, abs=2e-3)


def test_faces_and_spectrograms_of_real_clips_are_not_shown(project: tuple[Params, Path]) -> None:
    params, root = project
    write_ravdess(root, variants=("proposed",))
    write_network(root, params, "ravdess", attention={"spatial": "gate", "temporal": "gate", "audio_temporal": "gate"})
    drawn = figures.attention(load.read("ravdess", params, root))
    assert [image.shape for image in shown(drawn)] == [(2, 2)] * 3  # weights of positions alone
    assert "weight of a position" in words(drawn)
    assert sum(len(axis.containers) for axis in drawn.axes) == 4


def test_attention_of_an_audio_only_network(project: tuple[Params, Path]) -> None:
    params, root = project
    write_ravdess(root, "ravdess_audio", ("proposed",))
    write_network(root, params, "ravdess_audio")
    drawn = figures.attention(load.read("ravdess_audio", params, root))
    assert shown(drawn) == []
    assert [axis.get_xlabel() for axis in drawn.axes] == ["audio segment"]


def test_each_modality_has_as_many_panels_as_moments() -> None:
    """With late average, the numbers may differ."""
    generator = np.random.default_rng(1)
    faces = generator.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    segments = generator.normal(size=(2, 16, 40))
    weights = {"video": np.array([0.5, 1.0, 1.5]), "audio": np.array([0.8, 1.2])}
    drawn = draw_attention(Attended("a clip", weights, faces, segments), "attention", True)
    assert [image.shape for image in shown(drawn)] == [(32, 32, 3)] * 3 + [(16, 40)] * 2
    bars = [[bar.get_height() for bar in group] for axis in drawn.axes for group in axis.containers]
    assert bars == [[0.5, 1.0, 1.5], [0.8, 1.2]]


def test_missing_features_or_attention_are_stated(project: tuple[Params, Path]) -> None:
    params, root = project
    write_demo(root, folds=(0,), variants=("proposed",))
    write_network(
        root,
        params,
        fusion="concat",
        attention=dict.fromkeys(("spatial", "channel", "temporal", "audio_temporal"), "none"),
    )
    assert "has no attention over" in words(figures.attention(load.read("demo", params, root)))
    (root / "data/demo/features/audio/shard-0.npy").unlink()
    assert "features of a test clip are missing" in words(figures.attention(load.read("demo", params, root)))


def test_figures_are_in_the_page_and_in_files(project: tuple[Params, Path]) -> None:
    params, root = project
    write_demo(root, folds=(0,), variants=("proposed",))
    write_embeddings(root, 0)
    write_network(root, params)
    report.build("demo", params, root)
    html = (root / "results/demo/report.html").read_text()
    for name in LEARNED:
        assert f'id="figure-{name}"' in html
        png = (root / f"results/demo/figures/{name}.png").read_bytes()
        assert int.from_bytes(png[16:20], "big") <= 200 * 7  # pixels: no wider than a page
    assert 'id="table-compactness"' in html
    first = [(root / f"results/demo/figures/{name}.svg").read_bytes() for name in LEARNED]
    report.build("demo", params, root)
    assert [(root / f"results/demo/figures/{name}.svg").read_bytes() for name in LEARNED] == first


def test_figures_of_scores_have_a_panel_per_variant_over_all_seeds(project: tuple[Params, Path]) -> None:
    _, root = project
    params = changed(root / "params.yaml", {"seeds": [1, 2]}, "demo")
    for seed in (1, 2):
        write_demo(root, variants=("proposed", "audio_only"), seed=seed)
    read = load.read("demo", params, root)
    for draw in (figures.confusion, figures.folds, figures.learning_curves):
        titles = [axis.get_title("left") for axis in draw(read).axes]
        assert list(filter(None, titles)) == ["proposed", "audio_only"], draw
    bar = figures.folds(read).axes[0].collections[0].get_segments()[0][0][1]
    assert bar == pytest.approx(50 * sum(run.folds[0].scores["war"] for run in read.methods[0].runs))
