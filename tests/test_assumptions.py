"""The ledger literature/assumptions.csv, checked against params.yaml and its types, and its use in reports."""

from __future__ import annotations

import csv
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from pydantic import BaseModel
from ruamel.yaml import YAML

from emofuse import config
from emofuse.report import assumptions, load, tables
from emofuse.utils.errors import UserError

SECTIONS = {
    "network": config.Network, "spectrogram": config.Spectrogram, "loss": config.Loss, "training": config.Training,
    "faces": config.Faces, "audio": config.Audio, "demo": config.Demo, "table": config.Table,
}  # fmt: skip
# They name a corpus and cut it in files; its variants have lines of their own.
WITHOUT_EFFECT = {"kind", "title", "shards", "variants", "show_faces"}
# The model card shows them.
WITHOUT_EFFECT |= {f"table.{key}" for key in ("actors_known", "people", "licence", "terms")}
# An override is shown as the value of what it overrides; where clips come from, and models of other corpora, change nothing.
ELSEWHERE = {"network", "spectrogram", "loss", "training", "source", "across"}


def leaves(section: type[BaseModel], path: str) -> Iterator[str]:
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from leaves(kind, f"{path}.{name}")
        else:
            yield f"{path}.{name}"


def wanted() -> list[str]:
    """All parameters that can change a result, and all variants."""
    keys = [key for key in config.Corpus.model_fields if key not in WITHOUT_EFFECT | ELSEWHERE | set(SECTIONS)]
    inner = [leaf for name, section in SECTIONS.items() for leaf in leaves(section, name)]
    inner = [leaf for leaf in inner if leaf not in WITHOUT_EFFECT]
    return [*inner, *keys, *(f"variants.{name}" for name in config.load(ROOT / "params.yaml").variants)]


def test_ledger_lists_exactly_the_parameters_and_variants() -> None:
    lines = Counter(row["parameter"] for row in assumptions.ledger(ROOT).to_dict("records"))
    assert lines == Counter(wanted())


def test_ledger_covers_the_settings_of_all_jobs() -> None:
    params = config.load(ROOT / "params.yaml")
    depended: set[str] = set()
    for name, corpus in params.corpora.items():
        protocol, variant, seed, folds = next(corpus.runs())
        run = {"protocol": protocol, "variant": variant, "seed": seed, "fold": folds[0]}
        jobs = [("download", {}), ("index", {}), ("splits", {"protocol": protocol}), ("train", run), ("evaluate", run)]
        jobs += [(stage, {}) for stage in ("faces", "audio") if getattr(corpus, stage)]
        for stage, key in jobs:
            for section, values in params.settings(stage, name, **key).items():
                if section in (
                    "classes",
                    "calibration",
                ):  # repeat table.emotions, calibrated, seeds and training.selection
                    continue
                found = [parameter for parameter, _ in config.leaves(values)]
                depended |= {f"{section}.{each}" if section in SECTIONS else each.split(".")[0] for each in found}
    lines = {row["parameter"] for row in assumptions.ledger(ROOT).to_dict("records")}
    assert depended - WITHOUT_EFFECT <= lines | {line.split(".")[0] for line in lines}


def test_every_row_has_a_known_source_and_a_reason() -> None:
    for row in assumptions.ledger(ROOT).to_dict("records"):
        assert row["source"] in assumptions.SOURCES
        assert row["reason"].endswith(".")
        assert set(row) == {"parameter", "source", "reason"}
    named = [row["reason"] for row in assumptions.ledger(ROOT).to_dict("records") if row["source"] == "other"]
    assert all(re.search(r"\b(19|20)\d\d\b", reason) for reason in named)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("protocols", "corpora", "literature"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path


def shown(corpus: str, root: Path) -> dict[str, dict[str, str]]:
    table = tables.assumptions(load.read(corpus, config.load(root / "params.yaml"), root))
    return {row[0]: dict(zip(("value", "source", "reason"), row[1:], strict=True)) for row in table.rows}


@pytest.mark.parametrize("corpus", list(config.load(ROOT / "params.yaml").corpora))
def test_values_are_those_of_params_yaml(project: Path, corpus: str) -> None:
    params = config.load(project / "params.yaml")
    section = params.corpora[corpus]
    run = params.run(corpus, "proposed")
    tree = section.model_dump() | run.model_dump()
    tree["variants"] = {name: params.variants[name].model_dump(exclude_defaults=True) for name in section.variants}
    rows = shown(corpus, project)
    assert rows
    for parameter, row in rows.items():
        value = tree
        for key in parameter.split("."):
            value = value[key]
        assert YAML(typ="safe").load(row["value"]) == value, parameter
        assert (row["source"], row["reason"]) != ("–", "–"), parameter


def test_only_parameters_that_apply_are_shown(project: Path) -> None:
    audio, both = shown("ravdess_audio", project), shown("cremad", project)
    for absent in ("faces.size", "network.video.width", "network.attention.spatial", "network.fusion", "training.flip",
                   "labels", "demo.seed", "variants.triplet"):  # fmt: skip
        assert absent not in audio
    assert {
        "network.attention.audio_temporal",
        "audio.bands",
        "spectrogram.frames",
        "vocal",
        "variants.cross_entropy",
    } <= set(audio)
    assert {"faces.size", "network.fusion", "labels", "sound", "variants.triplet"} <= set(both)
    assert "vocal" not in both
    assert "demo.actors" in shown("demo", project)
    assert "calibrated" in both
    assert not {"training.patience", "validation_actors"} & set(both), "they are for selection: nested"
    file = project / "params.yaml"
    file.write_text(file.read_text().replace("selection: last", "selection: nested", 1))
    nested = shown("cremad", project)
    assert {"training.patience", "validation_actors"} <= set(nested)
    assert "calibrated" not in nested


def test_value_of_a_single_corpus_is_attributed_to_us(project: Path) -> None:
    own, general = shown("ravdess_audio", project)["audio.bands"], shown("ravdess", project)["audio.bands"]
    assert general["source"] == "third-party reading"
    assert own["source"] == "ours"
    assert own["reason"] == f"Set for this corpus. In general 256 (third-party reading): {general['reason']}"
    read = load.read("ravdess_audio", config.load(project / "params.yaml"), project)
    record = next(
        r for r in csv.DictReader(tables.assumptions(read).csv().splitlines()) if r["parameter"] == "audio.bands"
    )
    assert (record["value"], record["general_value"], record["source"]) == ("64", "256", "third-party reading")


def test_user_defined_variant_has_no_source(project: Path) -> None:
    text = (project / "params.yaml").read_text()
    text = text.replace("\nvariants:\n", "\nvariants:\n  mine: {loss: {margin: 0.7}}\n")
    (project / "params.yaml").write_text(text.replace("[proposed, audio_only,", "[proposed, mine, audio_only,"))
    assert shown("demo", project)["variants.mine"] == {"value": "{loss: {margin: 0.7}}", "source": "–", "reason": "–"}


def test_unknown_source_and_missing_ledger_are_user_errors(project: Path) -> None:
    ledger = project / "literature/assumptions.csv"
    ledger.write_text(ledger.read_text().replace("loss.pull,ours", "loss.pull,the paper"))
    with pytest.raises(
        UserError, match=r"assumptions.csv, loss.pull: unknown source 'the paper'; expected one of paper, "
    ):
        shown("demo", project)
    ledger.unlink()
    with pytest.raises(UserError, match=r"assumptions.csv is missing"):
        shown("demo", project)
