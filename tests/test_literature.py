"""Published results and the human baseline: the files in literature/, and their use in reports."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from test_report import (
    RAVDESS,
    changed,
    make_params,
    parse,
    quick,
    ravdess_clips,
    write_clips,
    write_fold,
    write_ravdess,
)

from emofuse.config import Params
from emofuse.datasets import cremad
from emofuse.evaluation.text import spread
from emofuse.report import load, table, tables
from emofuse.utils.errors import UserError

EMOTIONS = cremad.EMOTIONS


def lines(name: str) -> list[dict[str, str]]:
    with (ROOT / "literature" / name).open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def project(tmp_path: Path) -> tuple[Params, Path]:
    return make_params(tmp_path), tmp_path


def literature(corpus: str, params: Params, root: Path) -> tuple[table.Table, list[dict[str, str]]]:
    shown = tables.literature(load.read(corpus, params, root))
    return shown, parse(shown)


def recall(corpus: str, params: Params, root: Path) -> table.Table:
    return tables.recall(load.read(corpus, params, root))


def test_the_papers_values_agree_between_files() -> None:
    ours = {
        (row["corpus"], row["war"], row["year"], row["labels"], row["source"])
        for row in lines("published.csv")
        if row["method"].endswith("(the paper)")
    }
    unknown = {"not known": "unknown"}
    assert ours == {
        (row["corpus"], row["value"], row["year"], unknown[row["labels"]], f"doi {row['doi']}")
        for row in lines("paper.csv")
    }


def test_protocols_named_in_published_results_exist() -> None:
    named = {
        (row["corpus"], name)
        for row in lines("published.csv")
        for name in re.findall(r"those of (\w+)", row["protocol"])
    }
    assert ("cremad", "hicmae_5cv") in named
    for corpus, name in named:
        assert (ROOT / "protocols" / corpus / f"{name}.csv").is_file(), name


def test_published_results_are_unique() -> None:
    count = Counter((row["method"], row["authors"], row["corpus"], row["modality"]) for row in lines("published.csv"))
    assert set(count.values()) == {1}


def test_our_result_is_sorted_among_comparable_ones(project: tuple[Params, Path]) -> None:
    params, root = project
    write_ravdess(root, variants=("proposed",), accuracy=0.85)
    shown, rows = literature("ravdess", params, root)
    both = [row for row in rows if row["modality"] == "audio_video" and not row["incomparable"]]
    assert [row["method"] for row in both] == ["HiCMAE-B", "proposed", "fine-tuned CNN-14 and facial transformer"]
    run = load.read("ravdess", params, root).leading[0]
    assert float(both[1]["war"]) == pytest.approx(run.estimates["war"].mean)
    assert float(both[1]["uar_low"]) == pytest.approx(run.estimates["uar"].low)
    assert 0.8008 < float(both[1]["war"]) < 0.8799
    cells = next(row for row in shown.rows if row[0].startswith("proposed"))
    assert cells[2] == spread(run.estimates["war"])
    assert cells[4] == "ours"


def test_comparable_results_come_first_and_others_give_a_reason(project: tuple[Params, Path]) -> None:
    params, root = project
    for corpus in ("ravdess", "cremad"):
        shown, rows = literature(corpus, params, root)
        reasons = [row["incomparable"] for row in rows]
        assert reasons == sorted(reasons, key=bool)
        assert len(rows) == 3 + sum(line["corpus"] == corpus for line in lines("published.csv"))
        for row, cells in zip(rows, shown.rows, strict=True):
            assert cells[4] == (row["incomparable"] or ("ours" if row["authors"] == "this report" else "yes"))
            if row["status"] == "published" and not row["incomparable"]:
                assert (row["subject_independent"], row["labels"]) == ("yes", "intended")
                assert row["classes"] == ("8" if corpus == "ravdess" else "6")
    why = {row["method"]: row["incomparable"] for row in literature("cremad", params, root)[1]}
    assert "random split" in why["OGM-GE"]
    assert "perceived labels" in why["VAVL"]
    assert "four of the six emotions" in why["HiCMAE-B, four emotions"]
    assert "protocol not known" in why["cross-modal fusion, metric learning (the paper)"]
    assert (
        "test fold" in {row["method"]: row["incomparable"] for row in literature("ravdess", params, root)[1]}["CFN-SR"]
    )


def test_missing_runs_are_last_of_their_group(project: tuple[Params, Path]) -> None:
    params, root = project
    shown, rows = literature("cremad", params, root)
    for modality, variant in (("audio_video", "proposed"), ("audio", "audio_only"), ("video", "video_only")):
        group = [row for row in rows if row["modality"] == modality and not row["incomparable"]]
        assert (group[-1]["method"], group[-1]["status"], group[-1]["war"]) == (variant, "not run", "")
        assert len(group) > 1
    assert sum(row[2:4] == ["not run", "not run"] for row in shown.rows) == 3
    assert "| not run | not run |" in shown.markdown()


def test_partial_corpora_and_random_protocols_are_not_compared(project: tuple[Params, Path]) -> None:
    params, root = project
    write_ravdess(root, variants=("proposed",), accuracy=0.99)
    (root / "results/ravdess/runs/luna_jimenez_2022_5cv/proposed/seed-1/fold-3/metrics.json").unlink()
    own = next(row for row in literature("ravdess", params, root)[1] if row["method"] == "proposed")
    assert own["incomparable"] == "seeds or folds are missing"
    shared = "random_luna_jimenez_2022_5cv"
    protocols = {"luna_jimenez_2022_5cv": [0, 1, 2, 3, 4], shared: [0, 1, 2, 3, 4]}
    params = changed(root / "params.yaml", {"protocols": protocols}, "ravdess")
    clips = ravdess_clips()
    write_clips(root, "ravdess", shared, clips)
    for fold in range(5):
        write_fold(root, ("ravdess", shared, "proposed", 1), fold, RAVDESS, clips[fold::5], 0.99)
    rows = [row for row in literature("ravdess", params, root)[1] if row["authors"] == "this report"]
    assert {row["protocol"] for row in rows} == {"luna_jimenez_2022_5cv"}


def test_perceived_labels_are_compared_with_perceived_labels(project: tuple[Params, Path]) -> None:
    _, root = project
    params = changed(root / "params.yaml", {"labels": "perceived"}, "cremad")
    why = {row["method"]: row["incomparable"] for row in literature("cremad", params, root)[1]}
    assert why["VAVL"] == ""
    assert why["HiCMAE-B"] == "different clips or labels"
    shown = recall("cremad", params, root)
    assert not any("listeners" in row[1] for row in shown.rows)
    assert "labels are themselves what listeners perceived" in shown.markdown()


def test_song_is_not_compared_with_results_on_speech(project: tuple[Params, Path]) -> None:
    _, root = project
    params = changed(root / "params.yaml", {"vocal": ["speech", "song"]}, "ravdess")
    rows = literature("ravdess", params, root)[1]
    assert all(row["incomparable"] for row in rows if row["status"] == "published")


def test_audio_only_corpus(project: tuple[Params, Path]) -> None:
    params, root = project
    shown, rows = literature("ravdess_audio", params, root)
    assert {row["modality"] for row in rows} == {"audio"}
    assert [row["method"] for row in rows if not row["incomparable"]] == ["proposed"]
    others = sum(row["corpus"] == "ravdess" and row["modality"] != "audio" for row in lines("published.csv"))
    text = shown.markdown()
    assert "We know of no comparable published result for audio." in text
    assert f"Omitted: {others} results for modalities that no run here has." in text


def test_nothing_is_published_on_synthetic_clips(project: tuple[Params, Path]) -> None:
    params, root = project
    shown, _ = literature("demo", params, root)
    assert shown.rows == []
    assert shown.notes == ["Nothing is published on synthetic clips."]
    assert "nobody has rated the synthetic clips" in recall("demo", params, root).markdown()


def test_table_of_published_results_is_on_the_page(project: tuple[Params, Path]) -> None:
    params, root = project
    _, html = quick("cremad", params, root)
    section = html.split('<section id="literature">')[1].split("</section>")[0]
    assert section.count('<tr class="lead">') == 3
    assert "random split: all 91 actors are on both sides" in section
    assert section.count("looks at the test fold after every epoch") == 1  # once for all whom it concerns
    assert "Nothing is published on synthetic clips." in quick("demo", params, root)[1]


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        ("OGM-GE", {"group": "subject-independent, intended labels"}, "contradict the group"),
        ("HiCMAE-B, four emotions", {"group": "subject-independent, intended labels"}, "contradict the group"),
        ("OGM-GE", {"reason": ""}, "needs a reason"),
        ("OGM-GE", {"war": "0,67"}, "numbers in %, not 0,67"),
        ("OGM-GE", {"war": ""}, "war, uar or both"),
        ("OGM-GE", {"labels": "Intended"}, "unknown labels 'Intended'; expected one of intended, perceived, unknown"),
        ("OGM-GE", {"evidence": "recalled"}, "evidence must start with one of"),
        ("OGM-GE", {"year": "n.d."}, "year and classes"),
    ],
)
def test_contradictory_published_result_is_named(
    project: tuple[Params, Path], method: str, change: dict[str, str], message: str
) -> None:
    params, root = project
    rows = [row | (change if row["method"] == method else {}) for row in lines("published.csv")]
    with (root / "literature/published.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(UserError, match=message) as error:
        load.read("ravdess", params, root)
    assert f"published.csv, {method} (cremad)" in str(error.value)


@pytest.mark.parametrize("name", ["published.csv", "listeners.csv"])
def test_missing_literature_file_is_a_user_error(project: tuple[Params, Path], name: str) -> None:
    params, root = project
    (root / "literature" / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing: run emofuse in the folder"):
        load.read("ravdess", params, root)


def test_listeners_are_compared_with_models_of_the_same_modality(project: tuple[Params, Path]) -> None:
    params, root = project
    shares = {(row["modality"], row["emotion"]): float(row["share"]) for row in lines("listeners.csv")}
    names = {f"listeners, {modality.replace('_', ' + ')}": modality for modality in ("audio_video", "audio", "video")}
    clips = [
        (f"{actor}-{emotion}-{take}", actor, emotion)
        for actor in range(1001, 1005) for emotion in EMOTIONS for take in range(5)
    ]  # fmt: skip
    write_clips(root, "cremad", "hicmae_5cv", clips)
    for part in ([], clips):
        if part:
            write_fold(root, ("cremad", "hicmae_5cv", "proposed", 1), 0, EMOTIONS, part, 0.7)
        shown = recall("cremad", params, root)
        assert shown.header[2:] == [*EMOTIONS, "mean (pooled UAR)"]
        rows = {row[1].removesuffix("\n(incomplete)"): row[2:] for row in shown.rows}
        for name, modality in names.items():
            expected = [shares[modality, emotion] for emotion in EMOTIONS]
            assert rows[name] == [f"{100 * share:.1f}" for share in (*expected, np.mean(expected))]
        assert ("not run" in rows["proposed"]) == (not part)
        assert ("proposed minus listeners, audio + video" in rows) == bool(part)
    records = [row for row in parse(shown) if row["variant"] == "listeners, audio"]
    assert {row["emotion"]: float(row["share"]) for row in records} == {e: shares["audio", e] for e in EMOTIONS}
    assert "processedResults/tabulatedVotes.csv" in shown.markdown()


def test_unverified_listeners_of_ravdess_are_not_shown(project: tuple[Params, Path]) -> None:
    params, root = project
    displayed = recall("ravdess", params, root)
    assert not any("listeners" in row[1] for row in displayed.rows)
    assert "Human listeners: not shown" in displayed.markdown()


def test_listeners_agree_with_the_votes(shared_data: Path) -> None:
    votes = shared_data / "cremad" / cremad.VOTES
    command = [sys.executable, str(ROOT / "literature" / "listeners.py"), str(votes)]
    printed = subprocess.run(command, capture_output=True, check=True).stdout
    assert printed == (ROOT / "literature" / "listeners.csv").read_bytes()
    # Cao et al. 2014 give 40.9, 58.2 and 63.6 % of all responses, some of which the table of votes does not have.
    for modality, stated in (("audio", 0.409), ("video", 0.582), ("audio_video", 0.636)):
        rows = [row for row in lines("listeners.csv") if row["modality"] == modality]
        counts = [int(row["votes"]) for row in rows]
        assert np.average([float(row["share"]) for row in rows], weights=counts) == pytest.approx(stated, abs=0.01)


def test_first_digit_of_a_row_is_its_modality(shared_data: Path) -> None:
    """The corpus's table of majorities names the modalities; its table of votes only numbers them."""
    folder = (shared_data / "cremad" / cremad.VOTES).parent
    with (folder / "summaryTable.csv").open(newline="") as stream:
        majorities = {row["FileName"]: row for row in csv.DictReader(stream)}
    columns = {"1": "VoiceVote", "2": "FaceVote", "3": "MultiModalVote"}
    with (folder / "tabulatedVotes.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 3 * len(majorities) == 3 * 7442
    for row in rows:
        most = max(int(row[letter]) for letter in "ADFHNS")
        first = ":".join(letter for letter in "ADFHNS" if int(row[letter]) == most)
        assert majorities[row["fileName"]][columns[row[""][0]]] == first
