"""params.yaml: what is accepted, and the one-line message for what is not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from emofuse import config
from emofuse.data import protocols
from emofuse.data.download import clips
from emofuse.paths import RunKey
from emofuse.utils.errors import UserError

TEXT = (ROOT / "params.yaml").read_text()
HEADS = TEXT[: TEXT.index("  heads: 8\n")].count("\n") + 1  # the line number in the file


def load_changed(folder: Path, old: str, new: str) -> config.Params:
    assert old in TEXT
    shutil.copytree(ROOT / "protocols", folder / "protocols", dirs_exist_ok=True)
    shutil.copytree(ROOT / "corpora", folder / "corpora", dirs_exist_ok=True)
    (folder / "params.yaml").write_text(TEXT.replace(old, new, 1), errors="surrogateescape")
    return config.load(folder / "params.yaml")


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("  margin:", "  margn:", "loss.margn: no such parameter"),
        ("  margin: 0.4", "  margin: -0.2", "loss.margin: Input should be greater than 0 (found -0.2)"),
        ("  margin: 0.4", "  margin: 2.0", "loss.margin: Input should be less than 1.9"),
        ("size: 32}", 'size: "32"}', "corpora.demo.faces.size: Input should be a valid integer (found '32')"),
        ("kfold_3: [0, 1, 2]", "kfold_3: [0, 7]", "corpora.demo.protocols.kfold_3: there is no fold 7"),
        ("kfold_3: [0, 1, 2]", "halves: [0, 1]", "corpora.demo.protocols.halves: no such protocol"),
        (
            "      kfold_3:",
            "      random_kfold_3:",
            "corpora.demo.protocols: random_kfold_3 requires kfold_3",
        ),
        ("audit: [proposed]", "audit: [nothing]", "corpora.ravdess.audit: there is no variant 'nothing'"),
        ("audit: [proposed]", "audit: [proposed, proposed]", "corpora.ravdess.audit: a value is listed twice"),
        ("{fusion: concat}", "{fusin: concat}", "variants.concat_fusion.network.fusin: no such parameter"),
        ("{fusion: concat}", "{fusion: sum}", "variants.concat_fusion.network.fusion: Input should be"),
        (
            "concat_fusion, cross_entropy, plain_late_average]",
            "nothing]",
            "corpora.demo.variants: there is no variant 'nothing'",
        ),
        ("      modalities: [audio]\n", "", "corpora.ravdess_audio.variants: proposed needs video"),
        ("weights: r3d_18,", "weights: resnet18,", "network.video.weights: expected none, r3d_18 or a file (.pth"),
        ("backbone: r3d_18,", "backbone: r3d_50,", "network.video.weights: r3d_18 fits only r3d_18 with width 64"),
        (
            "weights: none}\n      audio:",
            "weights: none, frozen: 1}\n      audio:",
            "network.video.frozen: randomly initialized stages",
        ),
        (
            "segments: 3, frames: 48",
            "segments: 4, frames: 48",
            "corpora.demo.variants: proposed: spectrogram.segments: 4 differs from faces.snippets 3",
        ),
        (
            "segments: 3, frames: 48",
            "segments: 3, frames: 48, trim_db: 30.0",
            "corpora.demo.variants: proposed: spectrogram.trim_db: only for sound alone; segment i and snippet i must",
        ),
        ("frames: 48", "frams: 48", "corpora.demo.spectrogram.frams: no such parameter"),
        ("normalise: fixed", "normalise: loud", "variants.plain_audio.spectrogram.normalise: Input should be 'band'"),
        ("shards: [0, 1]", "shards: [0, 2]", "corpora.demo.shards: expected consecutive numbers from 0"),
        ("seeds: [1, 2, 3]", "seeds: [1, 1]", "corpora.ravdess.seeds: a value is listed twice"),
        ("paper: [ravdess", "paper: [ravdes", "paper: there is no corpus 'ravdes'"),
        ("  heads: 8", "  heads: 7", "network.heads: 7 does not divide the dimension, 512"),
        (
            "  heads: 8\n",
            "  heads: 8\n  heads: 8\n",
            f'params.yaml: not YAML: line {HEADS + 1}: found duplicate key "heads"',
        ),
        ("    kind: cremad", "    kind: crema", "corpora.cremad.kind: Input should be"),
        ("\n  warmup_epochs: 9", "\n  warmup_epochs: 30", "training.warmup_epochs: 30 must be less than epochs, 30"),
        ("loss:\n", "loss: {\n", "params.yaml: not YAML: line "),
        ("title: CREMA-D", "title: \udce9", "params.yaml: not YAML: 'utf-8' codec can't decode byte 0xe9"),
        (
            "kind: cremad",
            "kind: cremad\n    actors: [1001]",
            "corpora.cremad.actors: List should have at least 2 items, not 1",
        ),
        (
            "kind: cremad",
            "kind: cremad\n    actors: 1001",
            "actors: Input should be 'all' or a valid list (found 1001)",
        ),
        (
            "kind: cremad",
            "kind: cremad\n    actors: All",
            "actors: Input should be 'all' or a valid list (found 'All')",
        ),
        (
            "kind: cremad",
            "kind: cremad\n    actors: [1, 2a]",
            "corpora.cremad.actors: '2a' is not a number",
        ),
        ("kind: cremad", "kind: cremad\n    actors: x\n    seed: 1", "valid list (found 'x') (and 1 more)"),
        (
            "kind: cremad",
            "kind: cremad\n    demo: 3",
            "corpora.cremad.demo: Input should be a valid dictionary (found 3)",
        ),
        # Any other selection would choose by scores of actors that are tested in some fold.
        ("selection: last", "selection: best", "training.selection: Input should be 'last' or 'nested' (found 'best')"),
        ("selection: last", "selection: [0]", "training.selection: Input should be 'last' or 'nested' (found [0])"),
        ("selection: last", "selection: last\n  validation_fold: 0", "training.validation_fold: no such parameter"),
        (
            "    kind: cremad",
            "    kind: cremad\n    calibrated: [proposed, plain]",
            "corpora.cremad.calibrated: plain is not among the variants of this corpus; remove it",
        ),
        ("  flip: 0.5", "  flip: yes", "training.flip: Input should be a valid number (found 'yes')"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(tmp_path: Path, old: str, new: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        load_changed(tmp_path, old, new)
    message = str(caught.value)
    assert line in message
    assert "\n" not in message


def test_actors_that_leave_a_fold_empty_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="actors is in the test part of fold 2"):
        load_changed(tmp_path, "title: RAVDESS, audio-video speech", "title: x\n    actors: [1, 2, 3, 8]")
    some = load_changed(tmp_path, "title: RAVDESS, audio-video speech", "title: x\n    actors: [1, 2, 3, 8, 10]")
    assert some.corpora["ravdess"].actors == [1, 2, 3, 8, 10]


def test_numbers_may_have_an_exponent_without_a_point(tmp_path: Path) -> None:
    assert load_changed(tmp_path, "\n  weight_decay: 0.05", "\n  weight_decay: 5e-2").training.weight_decay == 0.05


def test_a_missing_file_says_where_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run emofuse in the folder that holds"):
        config.load(tmp_path / "params.yaml")


def test_variants_override_the_corpus_which_overrides_the_proposed() -> None:
    loaded = config.load(ROOT / "params.yaml")
    run = loaded.run("demo", "audio_only")
    assert run.network.modalities == ["audio"]
    assert run.network.audio.width == loaded.corpora["demo"].network["audio"]["width"]
    assert run.loss.label_smoothing == loaded.corpora["demo"].loss["label_smoothing"] != loaded.loss.label_smoothing
    assert run.loss.margin == loaded.loss.margin
    assert loaded.run("demo", "cross_entropy").loss.metric == "none"


@pytest.mark.parametrize(
    ("variant", "fits"), [("audio_only", True), ("video_only", True), ("late_average", True), ("concat_fusion", False)]
)
def test_only_variants_that_pair_moments_need_as_many_segments_as_snippets(
    tmp_path: Path, variant: str, fits: bool
) -> None:
    """Each variant may read the same features in its own way."""
    text = TEXT.replace("segments: 3, frames: 48", "segments: 1, frames: 150, trim_db: 30.0")
    tree = YAML(typ="safe").load(text)
    tree["variants"]["late_average"] = {"network": {"fusion": "late_average"}}
    tree["corpora"]["demo"]["variants"] = [variant]
    tree["corpora"]["demo"]["audit"] = tree["corpora"]["demo"]["calibrated"] = [variant]
    tree |= {"corpora": {"demo": tree["corpora"]["demo"]}, "paper": []}
    for name in ("protocols", "corpora"):
        (tmp_path / name).symlink_to(ROOT / name)
    with (tmp_path / "params.yaml").open("w") as stream:
        YAML(typ="safe").dump(tree, stream)
    if fits:
        assert config.load(tmp_path / "params.yaml").run("demo", variant).spectrogram.segments == 1
    else:
        with pytest.raises(UserError, match=r"spectrogram\.segments: 1 differs from faces.snippets 3"):
            config.load(tmp_path / "params.yaml")


def test_the_environment_overrides_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = config.load(ROOT / "params.yaml").corpora["ravdess"]
    assert clips.source("ravdess", corpus) == corpus.source
    monkeypatch.setenv("EMOFUSE_RAVDESS_SOURCE", "/some/folder")
    assert clips.source("ravdess", corpus) == "/some/folder"


def test_the_committed_schema_is_up_to_date() -> None:
    written = (ROOT / "workflow/schemas/params.schema.json").read_text()
    assert written == config.schema(), "run `make schema`"
    assert "$schema=workflow/schemas/params.schema.json" in TEXT


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    max_leaves=8,
)


@given(ANYTHING)
def test_any_other_yaml_is_one_line(tmp_path_factory: pytest.TempPathFactory, tree: object) -> None:
    path = tmp_path_factory.mktemp("any") / "params.yaml"
    with path.open("w", encoding="utf-8") as stream:
        YAML(typ="safe").dump(tree, stream)
    with pytest.raises(UserError) as caught:
        config.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "name", "folds", "actors"),
    [
        ("ravdess", "luna_jimenez_2022_5cv", 5, 24),
        ("ravdess", "sequential_6cv", 6, 24),
        ("ravdess", "emobox_6cv", 6, 24),
        ("ravdess", "cfnsr_5cv", 5, 20),
        ("ravdess", "chumachenko_split", 1, 4),
        ("cremad", "hicmae_5cv", 5, 91),
    ],
)
def test_a_published_protocol_tests_each_of_its_actors_once(kind: str, name: str, folds: int, actors: int) -> None:
    protocol = protocols.read_protocol(ROOT / protocols.protocol_path(kind, name))
    tested = [actor for parts in protocol.values() for actor in parts["test"]]
    assert len(protocol) == folds
    assert len(tested) == len(set(tested)) == actors
    for parts in protocol.values():
        assert not set(parts["test"]) & set(parts.get("val", ()))


def test_what_is_calibrated_depends_on_selection_variant_seed_and_protocol(tmp_path: Path) -> None:
    params = load_changed(tmp_path, "seeds: [1, 2, 3]", "seeds: [2, 1]")
    protocol = "luna_jimenez_2022_5cv"
    found = {key: params.calibrated_on(key) for key in params.keys("ravdess") if key.fold == 0}
    halves = {key for key, on in found.items() if on == "inner halves"}
    run = set(params.corpus("ravdess").calibrated) & set(params.corpus("ravdess").variants)
    assert halves == {RunKey("ravdess", protocol, variant, 2, 0) for variant in run}
    assert "proposed" in run
    assert set(found.values()) == {"inner halves", None}
    for key in found:
        assert params.settings("evaluate", **key.asdict())["calibration"] == {"from": found[key]}
    with pytest.raises(UserError, match="audio_only with seed 2 under luna_jimenez_2022_5cv is not calibrated by two"):
        params.settings("calibrate", **RunKey("ravdess", protocol, "audio_only", 2, 0).asdict())
    nested = load_changed(tmp_path, "selection: last", "selection: nested")
    assert {nested.calibrated_on(key) for key in nested.keys("ravdess")} == {"validation actors"}
