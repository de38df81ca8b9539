"""The report, shown from result files that are written here in the formats of the stages."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from emofuse import config, paths, report
from emofuse.config import Params
from emofuse.data import protocols
from emofuse.evaluation import statistics
from emofuse.paths import RunKey
from emofuse.provenance.records import Record
from emofuse.report import figures, latex, load, page, table, tables
from emofuse.report.tables import scores
from emofuse.report.tables.published import paper_verdict
from emofuse.utils.errors import UserError
from emofuse.utils.files import sha256
from emofuse.utils.text import percent, ranges

ROOT = Path(__file__).resolve().parents[1]
RAVDESS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
CREMAD = ("angry", "disgust", "fearful", "happy", "neutral", "sad")
VARIANTS = ("proposed", "audio_only", "video_only", "concat_fusion", "cross_entropy")
COMPARISONS = ("modality", "attention", "fusion", "loss")
AUDIO = {"bands": 16}
VIEW = {"segments": 3, "frames": 16}
FACES = {"snippets": 3, "frames": 2, "size": 32}
HEADER = ",".join(["clip", "actor", "emotion", "predicted", *(f"p_{emotion}" for emotion in RAVDESS)])


def make_params(root: Path) -> Params:
    """Write params.yaml, protocols/ and literature/ of a small project under `root`."""
    both = {"faces": FACES, "audio": AUDIO, "spectrogram": VIEW, "variants": list(VARIANTS)}
    tree = {
        "paper": ["ravdess", "cremad"],
        "corpora": {
            "ravdess": both | {
                "kind": "ravdess", "title": "RAVDESS, audio-video speech",
                "protocols": {"luna_jimenez_2022_5cv": [0, 1, 2, 3, 4]},
            },
            "cremad": both | {"kind": "cremad", "title": "CREMA-D", "protocols": {"hicmae_5cv": [0, 1, 2, 3, 4]}},
            "ravdess_audio": {
                "kind": "ravdess", "title": "RAVDESS, speech recordings", "modalities": ["audio"], "audio": AUDIO,
                "spectrogram": VIEW, "protocols": {"luna_jimenez_2022_5cv": [0, 1, 2, 3, 4]}, "network": {"modalities": ["audio"]},
                "variants": ["proposed", "no_temporal_attention"],
            },
            "demo": both | {
                "kind": "demo", "title": "demo, made faces and voices", "demo": {}, "show_faces": True, "faces": FACES | {"detector": "centre"},
                "protocols": {"kfold_3": [0, 1, 2]},
            },
        },
        "variants": {
            "proposed": {}, "audio_only": {"network": {"modalities": ["audio"]}},
            "video_only": {"network": {"modalities": ["video"]}}, "concat_fusion": {"network": {"fusion": "concat"}},
            "cross_entropy": {"loss": {"metric": "none"}}, "triplet": {"loss": {"metric": "triplet"}},
            "no_temporal_attention": {"network": {"attention": {"temporal": "none", "audio_temporal": "none"}}},
        },
    }  # fmt: skip
    (root / "params.yaml").write_text(yaml.safe_dump(tree))
    shutil.copytree(ROOT / "protocols", root / "protocols", dirs_exist_ok=True)
    shutil.copytree(ROOT / "corpora", root / "corpora", dirs_exist_ok=True)
    shutil.copytree(ROOT / "literature", root / "literature", dirs_exist_ok=True)
    return config.load(root / "params.yaml")


def write_csv(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_clips(root: Path, corpus: str, protocol: str, clips: list[tuple[str, int, str]], broken: int = 0) -> None:
    rows = [
        {
            "clip": clip, "shard": 0, "faces_row": row, "audio_row": 48 * row, "audio_rows": 48, "audio_span": 48.0, "actor": actor, "gender": "female",
            "emotion": emotion, "group": clip, "usable": "true" if row >= broken else "false",
            "reason": "" if row >= broken else "no face in 6 of 6 snippets", "replaced": 7 if row == broken else 0,
        }
        for row, (clip, actor, emotion) in enumerate(clips)
    ]  # fmt: skip
    write_csv(root / paths.splits(corpus, protocol)[0], rows)


def write_fold(
    root: Path, run: tuple[str, str, str, int], fold: int, emotions: tuple[str, ...],
    clips: list[tuple[str, int, str]], accuracy: float, epochs: int = 20, history: bool = True,
) -> None:  # fmt: skip
    """Write an evaluated fold: actors vary around `accuracy`, and most errors predict the next emotion."""
    corpus, protocol, variant, seed = run
    generator = np.random.default_rng([fold, seed, *variant.encode()])
    chance = {actor: np.clip(accuracy + generator.normal(0, 0.06), 0, 1) for actor in {actor for _, actor, _ in clips}}
    rows, confusion = [], np.zeros((len(emotions), len(emotions)), dtype=int)
    for clip, actor, emotion in clips:
        true = emotions.index(emotion)
        slip = 1 if generator.random() < 0.6 else int(generator.integers(1, len(emotions)))
        predicted = true if generator.random() < chance[actor] else (true + slip) % len(emotions)
        confusion[true, predicted] += 1
        p = np.full(len(emotions), 0.3 / (len(emotions) - 1))
        p[predicted] = 0.7
        rows.append(
            {"clip": clip, "actor": actor, "emotion": emotion, "predicted": emotions[predicted]}
            | {f"p_{name}": f"{value:.6f}" for name, value in zip(emotions, p, strict=True)}
        )
    key = RunKey(*run, fold)
    write_csv(root / key.predictions, rows)
    metrics = {
        **key.asdict(),
        "emotions": emotions, "actors": sorted(chance), "clips": len(rows),
        "war": np.trace(confusion) / confusion.sum(), "uar": 0.5, "macro_f1": 0.5, "recall": {},
        "confusion": confusion.tolist(), "validation": {"war": accuracy, "uar": accuracy - 0.01},
        "calibration": {"temperature": 1.5 - 0.1 * fold, "clips": 96, "from": "validation actors"},
    }  # fmt: skip
    (root / key.metrics).write_text(json.dumps(metrics))
    if not history:
        return
    length = epochs - 2 * fold
    loss = np.exp(-np.arange(length) / 5)
    wiggle = generator.normal(0, 0.02, (3, length))
    write_csv(
        root / key.history,
        [
            {
                "epoch": e + 1, "learning_rate": 1e-3, "train_loss": 2.2 * loss[e] + 0.3, "train_metric": 0.1,
                "train_cross_entropy": 2 * loss[e] + 0.1 + wiggle[0, e], "val_loss": 1.3 * loss[e] + 0.7 + wiggle[1, e],
                "val_war": accuracy, "val_uar": accuracy * (1 - 0.8 * loss[e]) + wiggle[2, e],
                "kept": "true" if e == length - 3 else "false",
            }
            for e in range(length)
        ],
    )  # fmt: skip
    settings = config.load(root / "params.yaml").run(corpus, variant).model_dump(mode="json")
    clips_file = paths.splits(corpus, protocol)[0]
    write_record(root, key.training_record, "train", key, settings, (clips_file,), key.trained)
    write_record(root, key.evaluation_record, "evaluate", key, {}, key.trained, (key.metrics, key.predictions))


def write_record(
    root: Path, path: str, stage: str, key: RunKey, settings: dict[str, dict[str, object]],
    inputs: tuple[str, ...], outputs: tuple[str, ...],
) -> None:  # fmt: skip
    """Write a record of files in their current state."""
    hashes = [{file: sha256(root / file) for file in files if (root / file).is_file()} for files in (inputs, outputs)]
    Record(path, stage, key.asdict(), settings, f"code of {stage}", *hashes).write(root)


def ravdess_clips() -> list[tuple[str, int, str]]:
    """The 1,440 speech clips: 60 per actor, 4 of them neutral."""
    return [
        (f"03-01-{index + 1:02}-01-01-{take + 1:02}-{actor:02}", actor, emotion)
        for actor in range(1, 25)
        for index, emotion in enumerate(RAVDESS)
        for take in range(4 if emotion == "neutral" else 8)
    ]


def write_ravdess(
    root: Path, corpus: str = "ravdess", variants: tuple[str, ...] = VARIANTS, accuracy: float = 0.7
) -> None:
    protocol = "luna_jimenez_2022_5cv"
    clips = ravdess_clips()
    write_clips(root, corpus, protocol, clips)
    published = protocols.read_protocol(root / "protocols" / "ravdess" / f"{protocol}.csv")
    shift = dict(zip(VARIANTS, (0.0, -0.12, -0.08, -0.02, -0.03), strict=True))
    for variant in variants:
        for fold, parts in published.items():
            test = [clip for clip in clips if clip[1] in parts["test"]]
            write_fold(root, (corpus, protocol, variant, 1), fold, RAVDESS, test, accuracy + shift[variant])


def write_demo(
    root: Path, folds: tuple[int, ...] = (0, 1, 2), variants: tuple[str, ...] = VARIANTS, seed: int = 1,
    accuracy: dict[str, float] | None = None,
) -> None:  # fmt: skip
    clips = [(f"demo-{a:02}-{e}-{t}", a, e) for a in range(1, 13) for e in RAVDESS for t in range(1, 6)]
    write_clips(root, "demo", "kfold_3", clips, broken=2)
    accuracy = accuracy or dict(zip(VARIANTS, (0.86, 0.6, 0.62, 0.84, 0.83), strict=True))
    for variant in variants:
        for fold in folds:
            test = [clip for clip in clips[2:] if (clip[1] - 1) // 4 == fold]
            write_fold(root, ("demo", "kfold_3", variant, seed), fold, RAVDESS, test, accuracy[variant], epochs=14)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def quick(corpus: str, params: Params, root: Path) -> tuple[dict[str, table.Table], str]:
    """The tables and the page of a corpus, without the slow figures."""
    read = load.read(corpus, params, root)
    by_name = {name: make(read) for name, make in tables.ALL.items()}
    return by_name, page.render(read, by_name, dict.fromkeys(paths.FIGURES, ""))


def origins_of(shown: table.Table) -> list[list[str]]:
    """The runs behind each cell of a table, by row and column."""
    return [[shown.runs(row, column) for column in range(len(shown.columns))] for row in range(len(shown.rows))]


def parse(shown: table.Table) -> list[dict[str, str]]:
    return list(csv.DictReader(shown.csv().splitlines()))


@pytest.fixture
def project(tmp_path: Path) -> tuple[Params, Path]:
    return make_params(tmp_path), tmp_path


def test_build_writes_exactly_the_declared_files(project: tuple[Params, Path]) -> None:
    params, root = project
    write_demo(root, variants=("proposed", "audio_only"))
    before = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    report.build("demo", params, root)
    report.build_paper(params, root)
    after = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert after - before == {*paths.report("demo"), *paths.PAPER}


def test_rebuilding_gives_identical_bytes(project: tuple[Params, Path]) -> None:
    params, root = project
    write_demo(root, variants=("proposed",))
    report.build("demo", params, root)
    first = {name: (root / name).read_bytes() for name in paths.report("demo")}
    for name in first:
        (root / name).unlink()
    report.build("demo", params, root)
    assert {name: (root / name).read_bytes() for name in first} == first
    for name, content in first.items():
        assert not re.search(rb"<dc:date>|Software|20\d\d-\d\d-\d\d", content), name


def test_main_table_of_a_whole_corpus(project: tuple[Params, Path]) -> None:
    params, root = project
    write_ravdess(root)
    by_name, _ = quick("ravdess", params, root)
    rows = {row["variant"]: row for row in parse(by_name["main"])}
    assert list(rows) == list(VARIANTS)
    proposed = rows["proposed"]
    wars = []
    for fold in range(5):
        predictions = read_csv(
            root / f"results/ravdess/runs/luna_jimenez_2022_5cv/proposed/seed-1/fold-{fold}/predictions.csv"
        )
        wars.append(np.mean([row["emotion"] == row["predicted"] for row in predictions]))
    assert float(proposed["war_mean"]) == pytest.approx(np.mean(wars))
    assert float(proposed["war_sd_folds"]) == pytest.approx(np.std(wars, ddof=1))
    assert float(proposed["war_low"]) < np.mean(wars) < float(proposed["war_high"])
    assert float(proposed["difference_points"]) == pytest.approx(100 * np.mean(wars) - 89.25)
    assert (proposed["verdict"], proposed["clips"], proposed["actors"], proposed["folds"]) == (
        "below",
        "1440",
        "24",
        "5",
    )
    assert rows["concat_fusion"]["paper_war_percent"] == ""
    assert rows["concat_fusion"]["verdict"] == "–"
    text = by_name["main"].markdown()
    assert "10.1016/j.imavis.2023.104676" in text


def test_the_summary_has_the_scores_of_every_run(project: tuple[Params, Path]) -> None:
    params, root = project
    write_demo(root, folds=(0, 1), variants=("proposed", "audio_only"))
    rows = {row["variant"]: row for row in parse(quick("demo", params, root)[0]["main"])}
    by_name = report.summary(load.read("demo", params, root))
    assert by_name["kfold_3"].keys() == {"proposed", "audio_only"}
    for variant, found in by_name["kfold_3"].items():
        expected = {
            metric: pytest.approx(float(rows[variant][f"{metric}_mean"]), abs=1e-6) for metric in statistics.METRICS
        }
        assert found == expected | {"seeds": 1, "folds": 2}


def test_verdict_requires_the_whole_corpus_all_folds_and_the_papers_task(project: tuple[Params, Path]) -> None:
    params, root = project
    write_ravdess(root, variants=("proposed",), accuracy=0.8925)
    write_ravdess(root, corpus="ravdess_audio", variants=("proposed",), accuracy=1.0)

    def verdict(corpus: str) -> str:
        read = load.read(corpus, params, root)
        return paper_verdict(read, next(method for method in read.methods if method.complete))

    assert verdict("ravdess") in ("equivalent", "inconclusive")
    assert verdict("ravdess_audio") == "not comparable"
    (root / "results/ravdess/runs/luna_jimenez_2022_5cv/proposed/seed-1/fold-3/metrics.json").unlink()
    assert verdict("ravdess") == "not comparable"
    by_name, html = quick("ravdess", params, root)
    row = parse(by_name["main"])[0]
    assert (row["folds"], row["folds_planned"], row["difference_points"]) == ("4", "5", "")
    assert "without fold 3" in by_name["main"].markdown()
    assert "4 of 5" in html


def test_report_without_runs_says_not_run(project: tuple[Params, Path]) -> None:
    params, root = project
    for corpus in ("ravdess", "demo"):
        report.build(corpus, params, root)
        for name in paths.report(corpus):
            assert (root / name).stat().st_size > 0
        for name in ("main", "modality", "fusion", "loss", "recall", "calibration", "folds", "search"):
            for suffix in ("md", "tex", "csv"):
                text = (root / f"results/{corpus}/tables/{name}.{suffix}").read_text()
                assert "not run" in text, (corpus, name, suffix)
        assert "not run" in (root / f"results/{corpus}/report.html").read_text()


def test_modalities_and_recall_of_the_demo(project: tuple[Params, Path]) -> None:
    params, root = project
    write_demo(root)
    by_name, _ = quick("demo", params, root)
    rows = {row["variant"]: row for row in parse(by_name["modality"])}
    assert {name: row["modality"] for name, row in rows.items()} == {
        "proposed": "audio + video",
        "audio_only": "audio",
        "video_only": "video",
    }
    for row in rows.values():
        assert float(row["war_over_bayes"]) == pytest.approx(float(row["war_mean"]) / float(row["bayes"]))
    assert float(rows["audio_only"]["war_difference"]) < 0
    recalls = [row for row in parse(by_name["recall"]) if row["variant"] == "proposed"]
    assert [row["emotion"] for row in recalls] == list(RAVDESS)
    assert sum(int(row["clips"]) for row in recalls) == 478
    folds = [row for row in parse(by_name["folds"]) if row["variant"] == "proposed"]
    assert [row["actors"] for row in folds] == ["1 2 3 4", "5 6 7 8", "9 10 11 12"]


def changed(params_file: Path, change: dict[str, object], corpus: str) -> Params:
    tree = yaml.safe_load(params_file.read_text())
    tree["corpora"][corpus] |= change
    params_file.write_text(yaml.safe_dump(tree))
    return config.load(params_file)


def test_modality_is_that_of_the_network_not_of_the_variants_name(project: tuple[Params, Path]) -> None:
    _, root = project
    changes = {"network": {"modalities": ["audio"]}, "modalities": ["audio"], "variants": ["proposed", "audio_only"]}
    params = changed(root / "params.yaml", changes | {"faces": None}, "demo")
    write_demo(root, variants=("proposed",))
    by_name, html = quick("demo", params, root)
    rows = {row["variant"]: row for row in parse(by_name["modality"])}
    assert [row["modality"] for row in rows.values()] == ["audio", "audio"]
    best = load.read("demo", params, root).bayes["audio"]  # type: ignore[index]
    assert float(rows["proposed"]["bayes"]) == pytest.approx(best)
    assert f"WAR / Bayes: {float(rows['proposed']['war_mean']) / best:.3f}" in html
    for name, text in (("modality", "Modality of proposed: audio."), ("fusion", "Fusion of proposed: none, one")):
        assert text in quick("ravdess_audio", params, root)[0][name].markdown()


def wars(root: Path, run: tuple[str, str, str, int], folds: tuple[int, ...]) -> list[float]:
    """The accuracy of each fold, from its predictions."""
    files = [root / RunKey(*run, fold).predictions for fold in folds]
    return [float(np.mean([row["emotion"] == row["predicted"] for row in read_csv(file)])) for file in files]


def test_variants_are_compared_with_proposed(project: tuple[Params, Path]) -> None:
    params, root = project
    write_ravdess(root)
    by_name, _ = quick("ravdess", params, root)
    proposed = wars(root, ("ravdess", "luna_jimenez_2022_5cv", "proposed", 1), (0, 1, 2, 3, 4))
    for name in ("modality", "fusion", "loss"):
        rows = parse(by_name[name])
        assert rows[0]["variant"] == "proposed"
        assert {rows[0][key] for key in rows[0] if "difference" in key} == {""}
        for row in rows[1:]:
            theirs = wars(root, ("ravdess", "luna_jimenez_2022_5cv", row["variant"], 1), (0, 1, 2, 3, 4))
            assert float(row["war_difference"]) == pytest.approx(np.mean(theirs) - np.mean(proposed))
            assert float(row["war_difference_low"]) < float(row["war_difference"]) < float(row["war_difference_high"])
        for metric in statistics.METRICS:
            ps = [float(row[f"{metric}_difference_p"]) for row in rows[1:]]
            assert [float(row[f"{metric}_difference_p_holm"]) for row in rows[1:]] == statistics.holm(ps)
    audio = parse(by_name["modality"])[1]
    assert float(audio["war_difference_p"]) < 0.01
    line = next(line for line in by_name["modality"].markdown().splitlines() if "audio\\_only" in line)
    assert table.points(100 * float(audio["war_difference"])) in line
    assert line.endswith(f"| {scores.p_value(float(audio['war_difference_p_holm']))} |")
    assert [row["loss"] for row in parse(by_name["loss"])] == ["learnable", "none"]
    assert [row["fusion"] for row in parse(by_name["fusion"])] == ["cross_attention", "concat"]
    for name in (*COMPARISONS, "compactness", "recall"):
        assert "not available to us" in by_name[name].markdown() or not by_name[name].rows


def test_each_number_names_its_run_or_fold(project: tuple[Params, Path]) -> None:
    params, root = project
    write_demo(root, variants=("proposed", "audio_only", "concat_fusion"))
    shutil.rmtree(root / "results/demo/runs/kfold_3/audio_only/seed-1/fold-1")
    by_name, _ = quick("demo", params, root)
    runs = {}
    for folder in (root / "results/demo/runs").glob("*/*/seed-*"):
        folds = {fold.name: read_csv(fold / "predictions.csv") for fold in folder.glob("fold-*")}
        hits = {
            name: float(np.mean([row["emotion"] == row["predicted"] for row in rows])) for name, rows in folds.items()
        }
        key = str(folder.relative_to(root / "results/demo/runs"))
        runs |= {f"{key}/{name}": hit for name, hit in hits.items()} | {key: float(np.mean(list(hits.values())))}
    assert len(runs) == 3 + 8
    seen = set()
    for name in ("main", "modality", "fusion", "loss", "folds"):
        place = by_name[name].header.index("WAR %")
        for row, origins in zip(by_name[name].rows, origins_of(by_name[name]), strict=True):
            shown = row[place].partition("\n")[0].partition(" ")[0]
            assert shown == ("not" if origins[place] == "" else percent(runs[origins[place]])), (name, row)
            seen.add(origins[place])
            assert not any(
                origin for cell, origin in zip(row, origins, strict=True) if cell in ("not run", "–", row[0])
            )
    assert seen == {*runs, ""}
    for name in ("compactness", "recall", "calibration"):
        assert all(
            origins[-1] in ("", *(f"{row[0]}/{cell.partition(chr(10))[0]}/seed-1" for cell in row))
            for row, origins in zip(by_name[name].rows, origins_of(by_name[name]), strict=True)
        )
    assert {origins[-1] for origins in origins_of(by_name["recall"])} == {
        "",
        *(key for key in runs if "/fold-" not in key),
    }


def test_missing_runs_and_unlisted_variants_are_stated(project: tuple[Params, Path]) -> None:
    _, root = project
    params = changed(root / "params.yaml", {"variants": ["proposed", "triplet", "no_temporal_attention"]}, "demo")
    write_demo(root, variants=("proposed",))
    by_name, html = quick("demo", params, root)
    row = parse(by_name["loss"])[1]
    assert (row["variant"], row["loss"], row["status"], row["war_difference_p"]) == (
        "triplet",
        "triplet",
        "not run",
        "",
    )
    assert "| triplet | not run | not run | not run | – | – | – |" in by_name["loss"].markdown()
    attention = by_name["attention"].rows[1]
    assert "self_attention: spatial, channel" in attention
    assert "not run" in attention
    assert not by_name["fusion"].rows
    sentence = "params.yaml lists none of self_attention_fusion, concat_fusion, late_average_fusion for this corpus"
    assert sentence in html
    for text in (by_name["fusion"].markdown(), latex.table(by_name["fusion"])):
        assert "Nothing to compare" in text
        assert "WAR" not in text
    assert "tabular" not in latex.table(by_name["fusion"])


def test_variants_on_other_folds_or_clips_are_not_compared(project: tuple[Params, Path]) -> None:
    params, root = project
    write_demo(root)
    shutil.rmtree(root / "results/demo/runs/kfold_3/concat_fusion/seed-1/fold-1")
    file = root / "results/demo/runs/kfold_3/cross_entropy/seed-1/fold-2"
    rows = read_csv(file / "predictions.csv")
    metrics = json.loads((file / "metrics.json").read_text())
    gone = rows.pop()
    metrics["confusion"][RAVDESS.index(gone["emotion"])][RAVDESS.index(gone["predicted"])] -= 1
    write_csv(file / "predictions.csv", rows)
    (file / "metrics.json").write_text(json.dumps(metrics))
    by_name, _ = quick("demo", params, root)
    for name in ("fusion", "loss"):
        row = parse(by_name[name])[1]
        assert float(row["war_mean"]) > 0.5
        assert (row["war_difference"], row["war_difference_p"], row["war_difference_p_holm"]) == ("", "", "")
    assert "without fold 1" in by_name["fusion"].markdown()
    assert parse(by_name["modality"])[1]["war_difference_p"] != ""


def test_seeds_are_one_row(project: tuple[Params, Path]) -> None:
    _, root = project
    params = changed(root / "params.yaml", {"seeds": [1, 2, 4]}, "demo")
    for seed in (1, 2, 4):
        write_demo(root, variants=("proposed", "concat_fusion"), seed=seed)
    by_name, html = quick("demo", params, root)
    for variant, row, line in zip(
        ("proposed", "concat_fusion"), parse(by_name["fusion"]), by_name["fusion"].rows, strict=False
    ):
        found = np.array([wars(root, ("demo", "kfold_3", variant, seed), (0, 1, 2)) for seed in (1, 2, 4)])
        assert (row["variant"], row["status"], row["seeds"], row["folds"]) == (variant, "run", "3", "3")
        assert float(row["war_mean"]) == pytest.approx(found.mean())
        assert float(row["war_sd_folds"]) == pytest.approx(found.mean(0).std(ddof=1))
        assert float(row["war_sd_seeds"]) == pytest.approx(found.mean(1).std(ddof=1))
        shown = [percent(float(row[f"war_{key}"])) for key in ("mean", "sd_folds", "sd_seeds")]
        assert line[3].startswith(" ± ".join(shown) + "\n[")
    difference = parse(by_name["fusion"])[1]
    low, high = (100 * float(difference[f"war_difference_{end}_90"]) for end in ("low", "high"))
    assert by_name["fusion"].rows[1][6].endswith(f"[{table.points(low)}, {table.points(high)}]")
    assert difference["verdict"] == statistics.verdict(
        statistics.Estimate(0, low_90=low, high_90=high), float(difference["margin_points"])
    )
    assert float(difference["margin_points"]) == statistics.margin((4, 4, 4))
    assert by_name["fusion"].rows[1][7] == f"{difference['verdict']}\n(margin ±{difference['margin_points']})"
    assert [(row["seed"], row["fold"]) for row in parse(by_name["folds"])[:4]] == [
        ("1", "0"),
        ("1", "1"),
        ("1", "2"),
        ("2", "0"),
    ]
    assert by_name["main"].runs(0, by_name["main"].header.index("WAR %")).split() == [
        f"kfold_3/proposed/seed-{seed}" for seed in (1, 2, 4)
    ]
    assert "mean of 3 folds and 3 seeds" in html


def test_identical_variants_are_equivalent(project: tuple[Params, Path]) -> None:
    _, root = project
    params = changed(root / "params.yaml", {"seeds": [1, 2]}, "demo")
    for seed in (1, 2):
        write_demo(root, variants=("proposed",), seed=seed)
    folder = root / "results/demo/runs/kfold_3"
    shutil.copytree(folder / "proposed", folder / "concat_fusion")
    row = parse(quick("demo", params, root)[0]["fusion"])[1]
    assert {float(row[f"war_difference{end}"]) for end in ("", "_low", "_high", "_low_90", "_high_90")} == {0}
    assert float(row["war_difference_p"]) == float(row["war_difference_p_holm"]) == 1
    assert row["verdict"] == "equivalent"


def test_missing_seeds_make_a_row_incomplete(project: tuple[Params, Path]) -> None:
    _, root = project
    params = changed(root / "params.yaml", {"seeds": [1, 2, 3]}, "demo")
    write_demo(root, variants=("proposed", "concat_fusion"))
    write_demo(root, variants=("proposed",), seed=3)
    write_demo(root, folds=(0, 1), variants=("proposed",), seed=2)
    by_name, html = quick("demo", params, root)
    row = parse(by_name["main"])[0]
    assert (row["status"], row["seeds"], row["seeds_planned"], row["folds"]) == ("incomplete", "2", "3", "3")
    kept = [wars(root, ("demo", "kfold_3", "proposed", seed), (0, 1, 2)) for seed in (1, 3)]
    assert float(row["war_mean"]) == pytest.approx(np.mean(kept))
    assert by_name["main"].rows[0][1] == "proposed\n(incomplete)"
    assert "2 of 3" in by_name["main"].rows[0]
    note = "proposed (kfold_3): without fold 2 of seed 2; computed from fold 0–2 of seed 1, 3"
    for name in ("main", "fusion", "recall"):
        assert note in " ".join(by_name[name].notes)
    assert note in html
    assert (
        "concat_fusion (kfold_3): without fold 0–2 of seed 2; fold 0–2 of seed 3; computed from fold 0–2 of seed 1"
        in html
    )
    row = parse(by_name["fusion"])[1]  # other seeds than proposed
    assert (row["war_difference"], row["verdict"]) == ("", "–")


@pytest.mark.parametrize("better", [True, False])
def test_a_plain_network_that_is_better_is_the_first_note(project: tuple[Params, Path], better: bool) -> None:
    _, root = project
    tree = yaml.safe_load((root / "params.yaml").read_text())
    tree["variants"] |= {"plain_late_average": {"network": {"fusion": "late_average"}}, "paper_reading": {}}
    (root / "params.yaml").write_text(yaml.safe_dump(tree))
    variants = ["proposed", "no_temporal_attention", "plain_late_average", "paper_reading"]
    params = changed(root / "params.yaml", {"variants": variants}, "demo")
    write_demo(
        root,
        variants=("proposed", "plain_late_average"),
        accuracy={"proposed": 0.5, "plain_late_average": 0.7 if better else 0.3},
    )
    by_name, html = quick("demo", params, root)
    plain, proposed = (
        np.mean(wars(root, ("demo", "kfold_3", variant, 1), (0, 1, 2)))
        for variant in ("plain_late_average", "proposed")
    )
    note = (
        f"A plain network is better than the proposed one: plain_late_average has a WAR of {percent(plain)} %, proposed"
        f" {percent(proposed)} %, {100 * (plain - proposed):.1f} points less (kfold_3)."
    )
    for name in ("main", "modality", "attention"):
        assert (by_name[name].notes[0] == note) == better, name
        assert not better or by_name[name].notes.count(note) == 1
    assert (note in html) == better
    assert [row["variant"] for row in parse(by_name["attention"])] == variants
    assert [row["variant"] for row in parse(by_name["modality"])] == ["proposed", *variants[2:]]
    assert not by_name["loss"].rows  # nothing but the baselines
    shutil.rmtree(root / RunKey("demo", "kfold_3", "proposed", 1, 0).results)  # now on fewer folds
    assert not any("plain network" in note for note in quick("demo", params, root)[0]["main"].notes)


def test_a_development_corpus_is_marked_everywhere(project: tuple[Params, Path]) -> None:
    _, root = project
    mark = "Development corpus, optimistic: recipes were selected on these speakers"
    write_demo(root, variants=("proposed",))
    for development in (True, False):
        params = changed(root / "params.yaml", {"development": development}, "demo")
        by_name, html = quick("demo", params, root)
        for name, one in by_name.items():
            assert (mark in one.markdown()) == (mark in latex.table(one)) == development, name
        assert (mark in html) == development


def test_contradictory_results_are_an_error(project: tuple[Params, Path]) -> None:
    params, root = project
    write_demo(root, variants=("proposed",))
    folder = root / "results/demo/runs/kfold_3/proposed/seed-1/fold-1"
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["confusion"][0][0] -= 1
    (folder / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(UserError, match=r"fold-1: predictions.csv and metrics.json contradict each other"):
        report.build("demo", params, root)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("metrics.json", "{", "not valid JSON"),
        ("metrics.json", "{}", "emotions"),
        ("predictions.csv", "clip,actor\na,1\n", "no column emotion"),
        ("predictions.csv", "clip,actor,emotion,predicted\na,1,sad,sad\n", "no column p_neutral"),
        ("predictions.csv", f"{HEADER}\na,1,glad,sad,0,0,0,1,0,0,0,0\n", "glad"),
        ("predictions.csv", f"{HEADER}\na,1,sad\n", "probability"),
        ("predictions.csv", f"{HEADER}\na,1,sad,sad,0,0,0,high,0,0,0,0\n", "high"),
        ("predictions.csv", f"{HEADER}\na,1,sad,sad,0,0,0,nan,0,0,0,0\n", "add up to 1"),
        ("predictions.csv", f"{HEADER}\na,1,sad,sad,0,0,0,2,0,0,-1,0\n", "add up to 1"),
        ("predictions.csv", f"{HEADER}\na,1,sad,sad,0.6,0,0,0.4,0,0,0,0\n", "not the most probable"),
    ],
)
def test_broken_result_file_is_named(project: tuple[Params, Path], file: str, text: str, message: str) -> None:
    params, root = project
    write_demo(root, folds=(0,), variants=("proposed",))
    (root / "results/demo/runs/kfold_3/proposed/seed-1/fold-0" / file).write_text(text)
    with pytest.raises(UserError, match=message) as error:
        report.build("demo", params, root)
    assert file in str(error.value)


@pytest.mark.parametrize("calibration", [None, {}, {"temperature": "hot"}, {"temperature": 0}, {"temperature": 1e999}])
def test_fold_without_temperature_must_be_evaluated_again(
    project: tuple[Params, Path], calibration: dict[str, object] | None
) -> None:
    params, root = project
    write_demo(root, folds=(0,), variants=("proposed",))
    file = root / "results/demo/runs/kfold_3/proposed/seed-1/fold-0/metrics.json"
    metrics = json.loads(file.read_text())
    del metrics["calibration"]
    file.write_text(json.dumps(metrics | ({} if calibration is None else {"calibration": calibration})))
    with pytest.raises(
        UserError, match=r"fold-0/metrics.json: .*(temperature|calibration|hot).*run the evaluate stage of"
    ):
        report.build("demo", params, root)


def test_learning_curves_show_validation_only_where_there_is_some(project: tuple[Params, Path]) -> None:
    params, root = project
    write_demo(root, variants=("proposed",))
    selected = load.read("demo", params, root)
    method = selected.methods[0]
    last = tuple(
        replace(fold, validation=None, history=fold.history[["epoch", "train_cross_entropy"]])
        for fold in method.first.folds
    )
    unselected = replace(method, runs=(replace(method.first, folds=last),))
    selected = replace(selected, methods=(method,), random_methods=())
    alone, mixed = replace(selected, methods=(unselected,)), replace(selected, methods=(method, unselected))
    found = {}
    for name, corpus in (("nested", selected), ("last", alone), ("both", mixed)):
        drawn = figures.learning_curves(corpus)
        words = {text.get_text() for axis in drawn.axes for text in axis.texts}
        labels = {text.get_text() for text in drawn.legends[0].get_texts()}
        found[name] = len(drawn.axes), "validation" in labels, "no validation actors" in words
    assert found == {"nested": (2, True, False), "last": (1, False, False), "both": (4, True, True)}
    shown = tables.folds(alone)
    row = dict(zip(shown.header, shown.rows[0], strict=True))
    assert row["Validation UAR %"] == "–"


def test_report_works_without_models(project: tuple[Params, Path]) -> None:
    params, root = project
    write_demo(root, variants=("proposed",))
    shutil.rmtree(root / "models")
    shutil.rmtree(root / "data")
    report.build("demo", params, root)
    rows = read_csv(root / "results/demo/tables/main.csv")
    assert float(rows[0]["war_mean"]) > 0.5
    assert "data/demo/splits/kfold_3/clips.csv is missing" in (root / "results/demo/report.html").read_text()


def published(root: Path, method: str, **change: str) -> None:
    """Change a row of literature/published.csv for RAVDESS."""
    rows = read_csv(root / "literature/published.csv")
    (line,) = (row for row in rows if (row["method"], row["corpus"]) == (method, "ravdess"))
    line.update(change)
    write_csv(root / "literature/published.csv", rows)  # type: ignore[arg-type]


def literature(params: Params, root: Path) -> tuple[dict[str, dict[str, str]], dict[str, list[str]]]:
    """The rows of the CSV file and of the displayed table of published results on RAVDESS, by method."""
    shown = tables.literature(load.read("ravdess", params, root))
    for row, origins in zip(shown.rows, origins_of(shown), strict=True):
        ours = (2, 3) if row[-1] == "this report" else (5,)
        numbers = [any(map(str.isdigit, cell)) and column in ours for column, cell in enumerate(row)]
        assert [origin == "luna_jimenez_2022_5cv/proposed/seed-1" for origin in origins] == numbers
    return {row["method"]: row for row in parse(shown)}, {row[0].partition("\n")[0]: row for row in shown.rows}


@pytest.mark.parametrize(
    ("accuracy", "war", "verdict"),
    [(2.0, "98.5", "equivalent"), (2.0, "90.0", "above"), (-1.0, "90.0", "below"), (0.8, "80.0", "equivalent")],
)
def test_comparison_with_a_published_result(
    project: tuple[Params, Path], accuracy: float, war: str, verdict: str
) -> None:
    params, root = project
    write_ravdess(root, variants=("proposed",), accuracy=accuracy)
    published(root, "HiCMAE-B", war=war)
    lines, rows = literature(params, root)
    ours, theirs = lines["proposed"], lines["HiCMAE-B"]
    for key in ("", "_low", "_high"):
        assert float(theirs[f"difference_points{key}"]) == pytest.approx(100 * float(ours[f"war{key}"]) - float(war))
    assert float(theirs["difference_points_low"]) <= float(theirs["difference_points_low_90"])
    assert float(theirs["margin_points"]) == 7.5
    assert (theirs["verdict"], theirs["compared_with"], theirs["compared_metric"]) == (verdict, "proposed", "war")
    assert rows["HiCMAE-B"][6] == f"{verdict}\n(margin ±7.5)"
    assert rows["HiCMAE-B"][5].startswith(table.points(100 * float(ours["war"]) - float(war)))
    for method in ("proposed", "CFN-SR"):  # ours, and one whose protocol is another
        assert lines[method]["difference_points"] == ""
        assert rows[method][5] == "–"
    assert (lines["CFN-SR"]["verdict"], rows["proposed"][6]) == ("not comparable", "–")


def test_published_uar_is_compared_with_our_uar(project: tuple[Params, Path]) -> None:
    params, root = project
    write_ravdess(root, variants=("proposed",), accuracy=0.8)
    published(root, "HiCMAE-B", war="", uar="70.0")
    lines, _ = literature(params, root)
    assert lines["HiCMAE-B"]["compared_metric"] == "uar"
    expected = 100 * float(lines["proposed"]["uar"]) - 70
    assert float(lines["HiCMAE-B"]["difference_points"]) == pytest.approx(expected)


def test_published_results_are_only_compared_with_complete_runs(project: tuple[Params, Path]) -> None:
    params, root = project
    lines, rows = literature(params, root)
    assert (lines["HiCMAE-B"]["verdict"], lines["CFN-SR"]["verdict"]) == ("not run", "not comparable")
    assert rows["HiCMAE-B"][5:7] == ["–", "not run"]
    write_ravdess(root, variants=("proposed",))
    shutil.rmtree(root / "results/ravdess/runs/luna_jimenez_2022_5cv/proposed/seed-1/fold-3")
    lines, rows = literature(params, root)
    assert lines["HiCMAE-B"]["verdict"] == "not comparable"
    assert rows["HiCMAE-B"][5:7] == ["–", "not comparable"]


def test_recall_minus_that_of_listeners(project: tuple[Params, Path]) -> None:
    params, root = project
    clips = [(f"{a}-{e}-{take}", a, e) for a in range(1001, 1005) for e in CREMAD for take in range(5)]
    write_clips(root, "cremad", "hicmae_5cv", clips)
    write_fold(root, ("cremad", "hicmae_5cv", "audio_only", 1), 0, CREMAD, clips, 0.7)
    shown = tables.recall(load.read("cremad", params, root))
    rows = {row[1]: dict(zip(shown.header, row, strict=True)) for row in shown.rows}
    shares = {
        row["emotion"]: float(row["share"])
        for row in read_csv(root / "literature/listeners.csv")
        if (row["corpus"], row["modality"]) == ("cremad", "audio")
    }
    for row in parse(shown):
        if row["variant"] == "audio_only":
            difference = float(row["recall_pooled"]) - shares[row["emotion"]]
            assert float(row["difference"]) == pytest.approx(difference)
            low, high = (float(row[f"recall_{end}"]) - shares[row["emotion"]] for end in ("low", "high"))
            assert low <= difference <= high
            ends = f"[{table.points(100 * low)}, {table.points(100 * high)}]"
            cell = rows["audio_only minus listeners, audio"][row["emotion"]]
            assert cell == f"{table.points(100 * difference)}\n{ends}"
            assert rows["listeners, audio"][row["emotion"]] == percent(shares[row["emotion"]])
    assert set(rows["proposed"].values()) == {"hicmae_5cv", "proposed", "not run"}
    assert "listeners, video" in rows
    assert not any("minus listeners, video" in name for name in rows)  # nothing of ours saw the faces alone


def test_text_is_escaped() -> None:
    nasty = r"a_b|c&d%$#{x}~^\ <script>*_[1]"
    shown = table.Table(
        "t", nasty, table.frame([{"a": nasty}, {"a": "[70.1, 72.3]"}]), [table.Column(nasty, "a")], [nasty]
    )
    line = shown.markdown().splitlines()[2]
    assert re.sub(r"\\(.)", r"\1", line) == f"| {nasty} |"
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == 2  # only the table's own bars
    assert next(csv.DictReader(shown.csv().splitlines()))["a"] == nasty


def test_formatting_of_numbers() -> None:
    assert ranges([3, 1, 2, 9, 7, 8, 5]) == "1–3, 5, 7–9"
    assert [table.duration(s) for s in (59.2, 61, 7325)] == ["59 s", "1 min 01 s", "2 h 02 min"]
    assert table.points(-4.26) == "−4.3"
    assert [scores.p_value(p) for p in (0.0004, 0.0416, 1.0)] == ["< 0.001", "0.042", "1.000"]
