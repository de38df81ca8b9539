"""External predictions: scored as ours are; every mistake in their file is reported in one line."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score
from test_report import RAVDESS, make_params, read_csv, write_clips, write_csv, write_demo
from test_training import EMOTIONS, make_corpus, run_key, scored, trained

from emofuse import cli
from emofuse.data import splits
from emofuse.evaluation import external
from emofuse.report import load
from emofuse.utils.errors import UserError
from emofuse.utils.files import sha256

Row = dict[str, str]
FOLDS = {0: [1, 2], 1: [3, 4], 2: [5, 6]}
BROKEN = "1-neutral-0"


def write_protocol(data: Path, clips: list[tuple[str, int, str]], tests: dict[int, list[int]]) -> None:
    """clips.csv and folds.csv below data/<corpus>/splits/<protocol>; the first clip is unusable."""
    write_clips(data.parents[3], data.parents[1].name, data.name, clips, broken=1)
    usable = [row for row in read_csv(data / "clips.csv") if row["usable"] == "true"]
    protocol = {fold: {"test": actors} for fold, actors in tests.items()}
    rows = splits.actor_folds(pd.DataFrame(usable), protocol, 1, "seed").to_dict("records")
    write_csv(data / "folds.csv", rows)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/own, with the protocols `apart` and `twice`; in the latter, fold 3 tests actors of folds 0 and 1 again."""
    data = tmp_path_factory.mktemp("project") / "data" / "own"
    clips = [
        (f"{actor}-{emotion}-{take}", actor, emotion) for actor in range(1, 7) for emotion in RAVDESS for take in (0, 1)
    ]
    write_protocol(data / "splits/apart", clips, FOLDS)
    write_protocol(data / "splits/twice", clips, FOLDS | {3: [1, 3]})
    return data


def truth(corpus: Path, protocol: str = "apart") -> list[Row]:
    """Fold, clip, actor and emotion of each test clip."""
    clips = {row["clip"]: row for row in read_csv(corpus / "splits" / protocol / "clips.csv")}
    return [
        {"fold": row["fold"]} | {name: clips[row["clip"]][name] for name in ("clip", "actor", "emotion")}
        for row in read_csv(corpus / "splits" / protocol / "folds.csv")
        if row["part"] == "test"
    ]  # fmt: skip


def guesses(corpus: Path, seed: int = 0, emotions: tuple[str, ...] = RAVDESS) -> list[Row]:
    """Rows of a file: each test clip with its emotion, or sometimes a random one of `emotions`."""
    generator = random.Random(seed)
    return [
        {"clip": row["clip"], "predicted": row["emotion"] if generator.random() < 0.6 else generator.choice(emotions)}
        for row in truth(corpus)
    ]


def score_file(file: Path, corpus: Path, protocol: str = "apart") -> external.Scores:
    return external.score(file, corpus.name, protocol, RAVDESS, corpus.parents[1])


def score(corpus: Path, rows: list[Row], protocol: str = "apart") -> external.Scores:
    file = corpus / "given.csv"
    write_csv(file, rows)  # type: ignore[arg-type]
    return score_file(file, corpus, protocol)


def numbers(scores: external.Scores) -> dict[str, object]:
    return {name: value for name, value in scores.record().items() if name != "sha256"}


@settings(max_examples=15)
@given(st.integers(0, 2**32), st.integers(1, 8))
def test_the_scores_are_scikit_learns(corpus: Path, seed: int, known: int) -> None:
    rows = guesses(corpus, seed, RAVDESS[:known])
    result = score(corpus, rows).record()
    predicted = {row["clip"]: row["predicted"] for row in rows}
    by_fold = []
    for fold in result["folds"]:
        here = [row for row in truth(corpus) if row["fold"] == str(fold["fold"])]
        pair = [row["emotion"] for row in here], [predicted[row["clip"]] for row in here]
        by_fold.append((accuracy_score(*pair), balanced_accuracy_score(*pair), f1_score(*pair, average="macro")))
        assert (fold["war"], fold["uar"], fold["macro_f1"]) == pytest.approx(by_fold[-1])
        assert fold["confusion"] == confusion_matrix(*pair, labels=RAVDESS).tolist()
        assert fold["actors"] == sorted({int(row["actor"]) for row in here})
        assert fold["clips"] == len(here)
    means = [result["mean_over_folds"][metric] for metric in ("war", "uar", "macro_f1")]
    assert [estimate["mean"] for estimate in means] == pytest.approx(np.mean(by_fold, axis=0))
    assert [estimate["sd"] for estimate in means] == pytest.approx(np.std(by_fold, axis=0, ddof=1))
    everything = [row["emotion"] for row in truth(corpus)], [predicted[row["clip"]] for row in truth(corpus)]
    assert result["pooled"]["confusion"] == confusion_matrix(*everything, labels=RAVDESS).tolist()
    right = np.diag(confusion_matrix(*everything, labels=RAVDESS, normalize="true"))
    assert list(result["pooled"]["recall"].values()) == pytest.approx(right)


@settings(max_examples=15)
@given(st.integers(0, 2**32), st.sampled_from(["p_", ""]), st.sampled_from(["", "Actor_01/", "C:\\clips\\"]),
       st.sampled_from(["", ".mp4", ".WAV", ".flv"]), st.floats(1e-3, 1e3))  # fmt: skip
def test_the_format_of_a_file_changes_no_score(
    corpus: Path, seed: int, prefix: str, folder: str, suffix: str, scale: float
) -> None:
    rows = guesses(corpus, seed)
    generator = random.Random(seed)
    others = []
    for row in rows:
        probabilities = {emotion: scale * generator.random() for emotion in RAVDESS}
        probabilities[row["predicted"]] += scale
        columns = {f"{prefix}{emotion}": f"{value:.6e}" for emotion, value in probabilities.items()}
        others.append({"comment": "x", "clip": f" {folder}{row['clip']}{suffix}"} | columns)
    generator.shuffle(others)
    assert numbers(score(corpus, others)) == numbers(score(corpus, rows))


def test_our_predictions_get_the_scores_of_their_evaluation(tmp_path: Path) -> None:
    make_corpus(tmp_path)
    trained(tmp_path, "m")
    expected = scored(tmp_path, "m")
    record = external.score(tmp_path / run_key("m").predictions, "toy", "kfold_3", EMOTIONS, tmp_path).record()
    assert len(record["folds"]) == 1
    for name in ("fold", "actors", "clips", "war", "uar", "macro_f1", "recall", "confusion"):
        assert record["folds"][0][name] == expected[name], name


def test_our_predictions_get_the_estimates_of_the_report(tmp_path: Path) -> None:
    params = make_params(tmp_path)
    write_demo(tmp_path, variants=("proposed",))
    runs = tmp_path / "results/demo/runs/kfold_3/proposed/seed-1"
    rows = {fold: read_csv(runs / f"fold-{fold}" / "predictions.csv") for fold in range(3)}
    data = tmp_path / "data" / "demo"
    write_csv(data / "splits/kfold_3/folds.csv",
              [{"fold": fold, "part": "test", "clip": row["clip"]} for fold in rows for row in rows[fold]])  # fmt: skip
    write_csv(data / "given.csv", [row for fold in rows for row in rows[fold]])  # type: ignore[misc]
    result = score_file(data / "given.csv", data, "kfold_3")
    run = next(method for method in load.read("demo", params, tmp_path).methods if method.variant == "proposed")
    assert result.estimates == run.estimates
    assert result.confusion.tolist() == run.confusion.tolist()


def test_what_is_printed(corpus: Path) -> None:
    result = score(corpus, guesses(corpus))
    text, war = result.text(), result.estimates["war"]
    assert war.sd_folds is not None
    assert war.low is not None
    assert war.high is not None
    assert text.startswith("own, apart: 95 test clips of 6 actors in 3 of 3 folds\n")
    line = (
        f"WAR %        {100 * war.mean:.1f} ± {100 * war.sd_folds:.1f}   [{100 * war.low:.1f}, {100 * war.high:.1f}]\n"
    )
    assert line in text
    for fold in result.folds:
        assert f"\n{fold}      {2 * fold + 1}–{2 * fold + 2}" in text
    assert "Mean ± standard deviation over folds" in text
    assert "Recalls are from the confusion matrix pooled" in text
    assert "Not given" not in text
    assert max(map(len, text.splitlines())) <= 100


def test_missing_folds_are_named(corpus: Path) -> None:
    rows = [row for row in guesses(corpus) if row["clip"][0] in "34"]
    result = score(corpus, rows)
    assert "in 1 of 3 folds" in result.text()
    assert "Not given: fold 0, 2." in result.text()
    assert result.record()["folds_not_given"] == [0, 2]
    assert [fold["fold"] for fold in result.record()["folds"]] == [1]
    assert result.estimates["war"].sd_folds is None


def test_a_clip_tested_in_several_folds_needs_a_fold(corpus: Path) -> None:
    rows = [row | {"predicted": "sad"} for row in truth(corpus, "twice")]
    with pytest.raises(UserError, match=r"line 2, 1-neutral-1: it is tested in folds 0, 3; add a column fold"):
        score(corpus, [{"clip": row["clip"], "predicted": "sad"} for row in rows], "twice")
    rows = [row | {"predicted": "happy" if row["fold"] == "3" else "sad"} for row in rows]
    result = score(corpus, rows, "twice").record()
    assert [fold["fold"] for fold in result["folds"]] == [0, 1, 2, 3]
    assert [fold["recall"]["happy"] for fold in result["folds"]] == [0, 0, 0, 1]


def test_shared_actors_are_noted(corpus: Path) -> None:
    shared = corpus / "splits/random_apart"
    shared.mkdir(exist_ok=True)
    for name in ("clips.csv", "folds.csv"):
        (shared / name).write_bytes((corpus / "splits/apart" / name).read_bytes())
    assert "do not apply to new speakers" in score(corpus, guesses(corpus), "random_apart").text()
    assert "do not apply to new speakers" not in score(corpus, guesses(corpus)).text()


def test_the_record_has_the_hashes_of_all_files_read(corpus: Path) -> None:
    result = score(corpus, guesses(corpus))
    assert result.record()["sha256"] == {
        "predictions": sha256(corpus / "given.csv"),
        "clips": sha256(corpus / "splits/apart" / "clips.csv"),
        "folds": sha256(corpus / "splits/apart" / "folds.csv"),
    }


def changed(number: int, **cells: str) -> Callable[[list[Row]], list[Row]]:
    return lambda rows: [row | cells if i == number else row for i, row in enumerate(rows)]


def without(*names: str) -> Callable[[list[Row]], list[Row]]:
    return lambda rows: [{name: cell for name, cell in row.items() if name not in names} for row in rows]


def with_probabilities(**first: str) -> Callable[[list[Row]], list[Row]]:
    """Probabilities instead of labels: 1 for the label, except as given in the first row."""

    def change(rows: list[Row]) -> list[Row]:
        certain = [
            {"clip": row["clip"]} | {f"p_{emotion}": str(int(emotion == row["predicted"])) for emotion in RAVDESS}
            for row in rows
        ]
        return changed(0, **{f"p_{emotion}": value for emotion, value in first.items()})(certain)

    return change


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (without("clip"), "there is no column clip; the first line is 'predicted'"),
        (without("predicted"), "there is neither a column predicted, with an emotion, nor one probability per emotion"),
        (lambda rows: [row | {"label": "sad"} for row in rows], "there are two columns of predictions, predicted and label"),
        (lambda rows: rows + rows[:1], "line 97, 1-neutral-1: fold 0 already has a prediction for it"),
        (changed(3, clip="7-calm-0"), "line 5: there is no clip '7-calm-0'; name it as in "),
        (changed(3, predicted="glad"), "line 5, 1-happy-0: predicted 'glad' is not an emotion of this corpus: use neutral,"),
        (changed(0, clip=BROKEN), f"line 2, {BROKEN}: it is not usable here (no face in 6 of 6 snippets)"),
        (lambda rows: rows[1:], "fold 0 has 31 test clips, of which 1 have no prediction (1-neutral-1)"),
        (lambda rows: rows[:-9], "fold 2 has 32 test clips, of which 9 have no prediction (6-sad-1, 6-angry-0,"),
        (lambda rows: [row | {"fold": "0"} for row in rows], "fold 0 does not test it, fold 1 does"),
        (lambda rows: [row | {"fold": "9"} for row in rows], "there is no fold '9'; there are 0–2"),
        (lambda rows: [row | {"fold": ""} for row in rows], "there is no fold ''"),
        (lambda rows: [row | {"emotion": "sad"} for row in rows], "the emotion is 'sad' here but 'neutral' in "),
        (lambda rows: without("p_calm", "p_sad")(with_probabilities()(rows)), "there is no column p_calm, p_sad; add a probability"),
        (lambda rows: [row | {"p_bored": "0"} for row in with_probabilities()(rows)], "p_bored is not an emotion of this corpus"),
        (with_probabilities(neutral="0.5", sad="0.5", calm="0.1"), "line 2, 1-neutral-1: neutral and sad are equally probable"),
        (with_probabilities(calm="-0.1"), "line 2, 1-neutral-1: p_calm '-0.1' is not a probability"),
        (with_probabilities(calm="nan"), "p_calm 'nan' is not a probability"),
        (with_probabilities(calm="inf"), "p_calm 'inf' is not a probability"),
        (with_probabilities(calm=""), "p_calm '' is not a probability"),
        (with_probabilities(calm="high"), "p_calm 'high' is not a probability"),
        (  # a column `label` of true emotions
            lambda rows: changed(0, p_sad="2")([row | {"label": row["clip"].split("-")[1]} for row in with_probabilities()(rows)]),
            "line 2, 1-neutral-1: label is neutral, but the most probable emotion is sad",
        ),
        (lambda rows: [{"clip": "", "predicted": "sad"}], "line 2: there is no clip ''"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(corpus: Path, change: Callable[[list[Row]], list[Row]], line: str) -> None:
    with pytest.raises(UserError) as raised:
        score(corpus, change(guesses(corpus, emotions=RAVDESS[:1])))
    message = str(raised.value)
    assert message.startswith(str(corpus / "given.csv"))
    assert line in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "there is no column clip"),
        (b"clip:predicted\n1-sad-0:sad\n", "there is no column clip; the first line is 'clip:predicted'"),
        (b"clip,predicted\n", "there are no predictions"),
        (b"clip,predicted\n,\n", "there are no predictions"),
        (b"clip,predicted\n1-sad-0\n", "line 2: 1 cells for 2 columns"),
        (b"clip,predicted\n1-sad-0,sad,0.9\n", "line 2: 3 cells for 2 columns"),
        (b"clip,clip,predicted\n", "there are two columns 'clip'"),
        (b'clip,predicted\n"1-sad-0,sad\n', "is not a CSV file"),
        ("clip,predicted,by\n1-sad-0,sad,Zoë\n".encode("latin-1"), "is not a CSV file in UTF-8"),
        ("clip,predicted\n".encode("utf-16-le"), "is not a CSV file in UTF-8"),
        ("clip,predicted\n".encode("utf-16")[:-1], "is not a CSV file in UTF-8"),
        (b"PK\x03\x04\x14\x00\x06\x00", "is a workbook of a spreadsheet program: save it as CSV"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS, not the file: run"),
        (None, "is missing"),
    ],
)
def test_a_malformed_file_is_one_line(corpus: Path, tmp_path: Path, content: bytes | None, line: str) -> None:
    file = tmp_path / "theirs.csv"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError) as raised:
        score_file(file, corpus)
    assert str(raised.value).startswith(str(file))
    assert line in str(raised.value)


@given(st.binary(max_size=60) | st.text('clip,predictedsa-0123\n"\r \ufeff', max_size=80).map(str.encode))
def test_arbitrary_bytes_are_one_line(corpus: Path, content: bytes) -> None:
    file = corpus / "any.csv"
    for start in (b"", b"clip,predicted,fold\n", b"clip,predicted\n2-sad-0,sad\n"):
        file.write_bytes(start + content)
        with pytest.raises(UserError):
            score_file(file, corpus)


def as_saved_by(program: str, rows: list[Row]) -> bytes:
    """Rows as other programs write them."""
    header = list(rows[0])
    lines = [header, *([row[name] for name in header] for row in rows)]
    match program:
        case "Excel, CSV UTF-8":
            return "".join(f"{','.join(line)}\r\n" for line in lines).encode("utf-8-sig")
        case "Excel, in Germany":
            return "".join(f"{';'.join(line)}\r\n".replace(".", ",") for line in lines).encode("utf-8-sig")
        case "Excel, Unicode text":
            return "".join("\t".join(line) + "\r\n" for line in lines).encode("utf-16")
        case "Excel, with emptied cells":
            empty = "," * (len(header) + 1) + "\r\n"
            return ("".join(f"{','.join(line)},,\r\n" for line in lines) + empty * 2).encode()
        case "with a line for Excel":
            return ("sep=;\n" + "".join(f"{';'.join(line)}\n" for line in lines)).encode()
        case "pandas, with tabs and its index":
            return pd.DataFrame(rows).to_csv(sep="\t").encode()
        case "R, everything quoted":
            return pd.DataFrame(rows).to_csv(index=False, sep=";", quoting=csv.QUOTE_ALL).encode()
        case "quoted, with spaces between":
            return "".join(", ".join(f'"{cell}"' for cell in line) + "\n" for line in lines).encode()
        case "an old Mac":
            return "".join(f"{','.join(line)}\r" for line in lines).encode()
    raise ValueError(program)


@pytest.mark.parametrize(
    "program",
    ["Excel, CSV UTF-8", "Excel, in Germany", "Excel, Unicode text", "Excel, with emptied cells", "with a line for Excel",
     "pandas, with tabs and its index", "R, everything quoted", "quoted, with spaces between", "an old Mac"],
)  # fmt: skip
@pytest.mark.parametrize("change", [lambda rows: rows, with_probabilities(neutral="0.5", sad="0.25")])
def test_files_of_other_programs_are_read(corpus: Path, program: str, change: Callable[[list[Row]], list[Row]]) -> None:
    rows = change(guesses(corpus))
    expected = numbers(score(corpus, rows))
    file = corpus / "saved.csv"
    file.write_bytes(as_saved_by(program, rows))
    assert numbers(score_file(file, corpus)) == expected


def test_an_ambiguous_name_is_rejected(tmp_path: Path) -> None:
    data = tmp_path / "data" / "own"
    clips = [("x", 1, "sad"), ("a", 1, "sad"), ("a.wav", 2, "sad"), ("b", 3, "sad"), ("c", 4, "sad")]
    write_protocol(data / "splits/apart", clips, {0: [1, 2]})
    exact: list[dict[str, object]] = [{"clip": clip, "label": "sad"} for clip in ("a", "a.wav")]
    write_csv(data / "given.csv", exact)
    assert score_file(data / "given.csv", data).estimates["war"].mean == 1
    write_csv(data / "given.csv", [{"clip": "folder/a.wav", "label": "sad"}])
    with pytest.raises(UserError, match=r"there is no clip 'folder/a.wav'"):
        score_file(data / "given.csv", data)


def test_the_command_prints_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_params(tmp_path)
    monkeypatch.chdir(tmp_path)
    clips = [(f"demo-{actor}-{emotion}", actor, emotion) for actor in range(1, 7) for emotion in RAVDESS]
    write_csv(tmp_path / "theirs.csv", [{"clip": clip, "label": "sad"} for clip, _, _ in clips[1:]])
    command = ["score", "demo", "kfold_3", "theirs.csv", "--output", "out/scores.json"]
    assert cli.main(command) == 2
    message = (
        "data/demo/splits/kfold_3/clips.csv is missing: run `snakemake data/demo/splits/kfold_3/folds.csv --cores 1`"
    )
    assert message in capsys.readouterr().err
    write_protocol(tmp_path / "data/demo/splits/kfold_3", clips, FOLDS)
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("demo, kfold_3: 47 test clips of 6 actors in 3 of 3 folds\n")
    with (tmp_path / "out/scores.json").open() as stream:
        result = json.load(stream)
    # Of the 15 clips of fold 0, two are sad, and of the 16 of each other.
    assert result["mean_over_folds"]["war"]["mean"] == pytest.approx((2 / 15 + 2 / 16 + 2 / 16) / 3)
    assert result["pooled"]["recall"] == {emotion: float(emotion == "sad") for emotion in RAVDESS}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "corpora",
        "data",
        "literature",
        "out",
        "params.yaml",
        "protocols",
        "theirs.csv",
    ]
