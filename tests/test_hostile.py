"""Hostile input: it gives a one-line error or a result in its own folder, and nothing in it is executed."""

from __future__ import annotations

import ast
import copy
import csv
import http.server
import io
import json
import pickle
import shutil
import struct
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import torch
import yaml
from conftest import ROOT
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from test_corpora import corpus
from test_download import FIRST, SECOND, deflate64, sounds, zipped
from test_report import RAVDESS, changed, make_params, quick, read_csv, write_clips, write_csv, write_demo
from test_training import make_corpus, run_key, trained

from emofuse import config, paths
from emofuse.data.download import archives, clips, sources, zenodo
from emofuse.data.download import http as downloads
from emofuse.data.protocols import protocol_path, read_protocol
from emofuse.datasets import cremad, shards
from emofuse.datasets.urls import RemoteFile
from emofuse.evaluation import external
from emofuse.features import media
from emofuse.models.network import EmotionNetwork
from emofuse.paths import RunKey
from emofuse.provenance.adopt import adopt
from emofuse.provenance.freshness import Chain, State
from emofuse.provenance.records import Record
from emofuse.training.checkpoint import Checkpoint
from emofuse.training.initialisation import load_pretrained
from emofuse.training.model_file import load_model, read_model
from emofuse.utils.errors import UserError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=8), x, max_size=3),
    max_leaves=6,
)


def examples(number: int) -> settings:
    """Settings for tests whose examples share the test's folder."""
    return settings(max_examples=number, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Refused(str):
    """The message of a `UserError`: one line without control characters."""


def tried(call: Callable[[], Any], names: str = "") -> Any:
    """The result of a call, or `Refused` with a message that contains `names`."""
    try:
        return call()
    except UserError as error:
        message = str(error)
    assert message.isprintable(), ascii(message)
    assert len(message) < 20_000
    assert names in message
    return Refused(message)


# --- names and archives

PIECES = ["..", ".", "", "C:", "~", "Actor_01", "a\nb", "\x1b[31m", "..\\..", "é", "VideoFlash", "x" * 200]
PATHS = st.builds(
    lambda folders, join, name, ending: join.join([*folders, name]) + ending,
    st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=4),
    st.sampled_from(["/", "\\"]),
    st.sampled_from([FIRST[:-4], "1001_DFA_ANG_XX", "smile", ""]) | st.text(max_size=6),
    st.sampled_from([".wav", ".WAV", ".flac", ".mp4", ".flv", "", ".csv"]),
)


def leads_out(name: str) -> bool:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return ".." in parts or parts[:1] == ("/",) or ":" in "".join(parts[:1])


def everything(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*")}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@examples(60)
@given(names=st.lists(PATHS, min_size=1, max_size=3), kind=st.sampled_from(["ravdess", "cremad"]))
def test_no_name_in_a_zip_leads_out_of_the_shard(names: list[str], kind: str) -> None:
    good = f"Actor_01/{FIRST}" if kind == "ravdess" else "AudioWAV/1001_DFA_ANG_XX.wav"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "deep", "er")
        root.mkdir(parents=True)
        source = Path(folder, "all.zip")
        with zipfile.ZipFile(source, "w") as archive:
            for number, name in enumerate([good, *names]):
                archive.writestr(zipfile.ZipInfo(name), f"{number}")
        section = corpus(kind, modalities=["audio"], shards=[0])
        try:
            clips.download("own", section, 0, str(source), root)
        except UserError:
            pass
        else:
            made = shards.members(root / "data/own/raw/shard-0.zip")
            assert good in made
            assert not any(map(leads_out, made))
        written = everything(Path(folder)) - {Path("all.zip"), Path("deep"), Path("deep/er")}
        assert all(path.is_relative_to("deep/er/data") for path in written)


def compressed() -> bytes:
    """A zip of two clips and a note with all compression methods that Python can read."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        ways = (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
        for name, way in zip((FIRST, SECOND, "é.txt"), ways, strict=True):
            archive.writestr(name, b"sound" * 50, way)
    return buffer.getvalue()


WHOLE = compressed()


INNER = zipped({FIRST: b"sound" * 50})
WHOLES = (
    WHOLE,
    zipped({"a.zip": INNER, "b.zip": WHOLE}, zipfile.ZIP_STORED),
    zipped({"a.zip": INNER}),
    deflate64(b"sound" * 50),
)


@examples(400)
@given(
    st.sampled_from(WHOLES),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=3),
    st.booleans(),
)
def test_no_damage_to_a_zip_is_a_traceback(whole: bytes, changes: list[tuple[int, int]], last: bool) -> None:
    damaged = bytearray(whole)
    table = whole.rindex(b"PK\x01\x02")  # the names and sizes, at the end, are read first
    for place, value in changes:
        damaged[table + place % (len(whole) - table) if last else place % len(whole)] = value
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "all.zip")
        source.write_bytes(damaged)
        try:
            made = [file.read() for file in sources.scan(source, "source").files if not file.fault]
        except UserError:
            return
        assert set(made) <= {b"sound" * 50, b""}  # a size of 0 may have its checksum


LOCAL, CENTRAL = b"PK\x03\x04", b"PK\x01\x02"


def claiming(member: bytes, **fields: int) -> bytes:
    """A zip of one deflated clip whose headers make false claims."""
    zip_file = bytearray(zipped({FIRST: member}))
    for field, value in fields.items():
        local, central, form = {
            "version": (4, 6, "<H"),
            "flags": (6, 8, "<H"),
            "method": (8, 10, "<H"),
            "size": (22, 24, "<I"),
        }[field]
        struct.pack_into(form, zip_file, zip_file.index(LOCAL) + local, value)
        struct.pack_into(form, zip_file, zip_file.index(CENTRAL) + central, value)
    return bytes(zip_file)


@pytest.mark.parametrize(
    "content",
    [
        claiming(b"\0" * 5_000_000, size=10),
        claiming(b"\0" * 5_000_000, size=0),
        claiming(b"\0" * 100, size=2**32 - 2),
        claiming(b"\0" * 100, method=99),
        claiming(b"\0" * 100, method=14),
        claiming(b"\0" * 100, flags=1),
        claiming(b"\0" * 100, version=200),
        WHOLE[:-30],
        WHOLE.replace("é".encode(), b"\xff\xfe"),
    ],
    # The bytes contain the time, so as names they could differ between processes that run the tests.
    ids=["small", "empty", "huge", "method", "lzma", "encrypted", "version", "truncated", "encoding"],
)
def test_zip_with_false_claims_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "all.zip").write_bytes(content)
    made = tried(lambda: clips.download("voices", sounds(), 0, str(tmp_path / "all.zip"), tmp_path), "all.zip")
    assert isinstance(made, Refused)
    assert everything(tmp_path / "data") <= {Path("voices"), Path("voices/raw")}


def test_zip_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "all.zip").write_bytes(zipped({FIRST: b"\0" * 1001}))
    monkeypatch.setattr(archives, "LARGEST", 1000)
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("it was read"))
    with pytest.raises(UserError, match="claims to have 1,001 bytes, which no clip has; do not trust this zip"):
        clips.download("voices", sounds(), 0, str(tmp_path / "all.zip"), tmp_path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_contents_under_one_name_in_a_zip_are_one_line(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr(FIRST, b"one")
        archive.writestr(FIRST, b"other")
    with pytest.raises(UserError, match="two files differ"):
        clips.download("voices", sounds(), 0, str(tmp_path / "all.zip"), tmp_path)


VOTES = st.binary(max_size=60) | st.builds(
    lambda header, cells: "\n".join([header, *cells]).encode(),
    st.sampled_from(["", "fileName", '"",fileName,A,D,F,H,N,S', '"",A,D,F,H,N,fileName']) | st.text(max_size=10),
    st.lists(st.text('"3,1001_DFAGX²0\r', max_size=30).map('"3'.__add__), max_size=3),
)


@examples(200)
@given(VOTES)
@example(b'"",fileName,A,D,F,H,N,S\n"3001",1001_DFA_ANG_XX,9,0,0,0,0,0\n')
@example(b'"",fileName,A,D,F,H,N,S\n"3001",1001_DFA_ANG_XX,9\n')
def test_table_of_votes_is_read_or_refused(table: bytes) -> None:
    try:
        made = cremad.votes_on(table, cremad.ACTORS)
    except ValueError:
        return
    cremad.majorities(made)


FILES = st.lists(
    st.fixed_dictionaries(
        {
            "key": st.sampled_from(["a.zip", "../a.zip"]),
            "size": st.sampled_from([5, "5", -5, 6]) | JSON,
            "checksum": st.sampled_from(["md5:", "md5:0", "sha256:0", "shake_128:0", "none:0", "0"]) | JSON,
        }
    )
    | JSON,
    max_size=3,
)


@examples(100)
@given(FILES.map(lambda found: {"files": found}) | JSON)
def test_any_answer_with_checksums_is_used_or_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: object
) -> None:
    monkeypatch.setattr(zenodo, "fetch", lambda files, folder, setting: [folder / file.path for file in files])
    (tmp_path / "record-7.json").write_text(json.dumps(listed))
    for name, known in zenodo.read_record("https://host/records/7/files/a.zip", tmp_path, "SETTING").items():
        file = RemoteFile(str(name), (), *known)
        try:
            downloads.verify(io.BytesIO(b"12345"), file)
        except downloads.WrongContent:
            continue
        assert file.size == 5


@pytest.fixture
def asked() -> Iterator[tuple[str, list[str]]]:
    """A server and the paths of the requests to it."""
    requests: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as host:
        threading.Thread(target=host.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{host.server_port}", requests
        host.shutdown()


@pytest.mark.parametrize(
    "clip",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}/a.ts\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {}/a.mp4\n",
        "ffconcat version 1.0\nfile '{}/a.mp4'\n",
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet'
        ' mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{}/a.mp4</BaseURL></Representation>'
        "</AdaptationSet></Period></MPD>",
        "rtsptext\n{}/a",
    ],
)
def test_clip_that_is_a_playlist_opens_no_other_file(asked: tuple[str, list[str]], tmp_path: Path, clip: str) -> None:
    host, requests = asked
    real = tmp_path / "real.wav"
    real.write_bytes(b"")
    for target in (host, real.parent.as_uri(), str(real.parent)):
        with pytest.raises(media.BrokenClip):
            media.probe(clip.format(target).encode())
    assert requests == []


# --- params.yaml and protocols

SMALL: dict[str, Any] = {
    "paper": ["demo"],
    "corpora": {
        "demo": {
            "kind": "demo",
            "title": "made",
            "demo": {"seed": 1, "actors": 6, "takes": 1},
            "shards": [0, 1],
            "faces": {"detector": "centre", "snippets": 2, "frames": 3, "size": 32},
            "audio": {"bands": 32, "fft": 1024},
            "spectrogram": {"segments": 2, "frames": 32},
            "protocols": {"kfold_3": [0, 1], "random_kfold_3": [0]},
            "variants": ["proposed", "late"],
            "network": {"video": {"weights": "none"}, "audio": {"width": 8}},
        },
        "voices": {
            "kind": "ravdess",
            "title": "voices",
            "actors": [1, 2, 3, 4, 5, 8, 9],
            "modalities": ["audio"],
            "audio": {"bands": 32, "fft": 1024},
            "protocols": {"luna_jimenez_2022_5cv": [0]},
            "network": {"modalities": ["audio"]},
            "variants": ["proposed"],
        },
    },
    "variants": {"proposed": {}, "late": {"network": {"fusion": "late_average"}}},
    "training": {"epochs": 3, "warmup_epochs": 1, "learning_rate": 0.001},
}


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value."""
    if path:
        yield path
    for key in tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield from places(tree[key], (*path, key))


NAMES = st.text(max_size=8) | st.sampled_from(
    ["../x", "../ravdess/luna_jimenez_2022_5cv", "luna_jimenez_2022_5cv/../emobox_6cv", "/", "/etc/passwd", "..", "", "~",
     "a\0", "a\n", "a\x1b[2J", "A", "x" * 150, "x" * 5000, "kfold_\u0663", "kfold_1", "kfold_999999999", "kfold_" + "9" * 5000,
     "random_", "random_random_kfold_3", "kfold_3/", "__proto__", "<<", "1", "{}", "$(touch x)", "; ls"]
)  # fmt: skip
VALUES = NAMES | JSON | st.sampled_from([float("inf"), -float("inf"), float("nan"), 2**62, 2**64, -1, 0, 10**400, [[]]])


def load(folder: Path, text: str | bytes) -> config.Params | None:
    """The loaded parameters; None if they are refused in one line."""
    (folder / "params.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    made = tried(lambda: config.load(folder / "params.yaml"))
    return None if isinstance(made, Refused) else made


def outputs(params: config.Params) -> Iterator[str]:
    """Every path that the stages write."""
    for name, section in params.corpora.items():
        for shard in section.shards:
            yield from (paths.raw(name, shard), paths.raw_record(name, shard))
            yield from (*paths.features(name, "faces", shard), *paths.features(name, "audio", shard))
        for protocol in section.protocols:
            yield from (*paths.splits(name, protocol), paths.splits_record(name, protocol))
        for protocol, variant, seed, folds in section.runs():
            for fold in folds:
                key = RunKey(name, protocol, variant, seed, fold)
                yield from (*key.trained, key.training_record, *key.scored, key.evaluation_record, key.checkpoint)
        yield from (paths.index(name), *paths.report(name))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("params")
    shutil.copytree(ROOT / "protocols", root / "protocols")
    shutil.copytree(ROOT / "corpora", root / "corpora")
    assert load(root, yaml.safe_dump(SMALL))
    return root


@examples(250)
@given(st.sampled_from(list(places(SMALL))), NAMES | VALUES, st.booleans())
@example(("corpora", "voices", "protocols", "luna_jimenez_2022_5cv"), "../ravdess/luna_jimenez_2022_5cv", True)
@example(("corpora", "demo", "audio", "bands"), 2**62, False)
@example(("corpora", "demo", "audio", "fft"), 2**62, False)
@example(("corpora", "demo", "audio", "fft"), 10**400, False)
@example(("training", "learning_rate"), float("inf"), False)
@example(("variants", "late"), "x" * 150, True)
def test_no_value_or_name_in_params_causes_a_traceback_or_escapes_the_folders(
    project: Path, path: tuple[Any, ...], value: Any, rename: bool
) -> None:
    tree = copy.deepcopy(SMALL)
    *above, last = path
    place = tree
    for key in above:
        place = place[key]
    if rename and isinstance(place, dict):
        place[value if isinstance(value, str) else json.dumps(value)] = place.pop(last)
    else:
        place[last] = value
    loaded = load(project, yaml.safe_dump(tree))
    if loaded is None:
        return
    for made in outputs(loaded):
        assert not leads_out(made)
        assert len(PurePosixPath(made).parts) <= 8
        assert max(map(len, PurePosixPath(made).parts)) < 200
    for name, section in loaded.corpora.items():
        for protocol in section.protocols:
            published = protocol_path(section.kind, protocol)
            assert published is None or published.parent == Path("protocols") / section.protocol_folder
        assert all(loaded.run(name, variant) for variant in section.variants)


@examples(200)
@given(st.binary(max_size=40) | st.text("{}[]&*!|>-:?#'\"%@,<=. ab01\n", max_size=40).map(str.encode))
@example(b"a: 2020-99-99")
@example(b"? [a]\n: b")
@example(b"a: !!timestamp x")
@example(b"a: !!bool x")
@example(b"&a [*a]")
@example(b"a: \xe9")
@example(b"[" * 1500)
@example(b'"a\\nb": 1\n"a\\nb": 2')
@example(b"a: 1:" + b"59:" * 3000 + b"1")
def test_no_bytes_in_params_cause_a_traceback(project: Path, content: bytes) -> None:
    assert load(project, content) is None


@pytest.mark.parametrize(
    "tagged",
    [
        "!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{}']]",
        "!!python/object/apply:os.system ['touch {}']",
        "!!python/object/new:os.system ['touch {}']",
        "!!python/name:os.system ''",
        "!!python/module:os ''",
        "!python/object/apply:os.system ['touch {}']",
    ],
)
def test_a_yaml_tag_executes_nothing(project: Path, tmp_path: Path, tagged: str) -> None:
    mark = tmp_path / "ran"
    assert load(project, f"{tagged.format(mark)}\n") is None
    assert load(project, yaml.safe_dump(SMALL) + f"loss: {tagged.format(mark)}\n") is None
    assert not mark.exists()


def test_yaml_aliases_cannot_exhaust_memory(project: Path) -> None:
    doubled = [f"a{number}: &a{number} [*a{number - 1}, *a{number - 1}]" for number in range(1, 60)]
    text = "\n".join(["a0: &a0 [x]", *doubled])
    assert load(project, text) is None
    indented = text.replace("\n", "\n      ")
    assert load(project, yaml.safe_dump(SMALL) + f"loss:\n      {indented}\n      margin: *a59\n") is None


TABLE = st.text("fold,partcest01379²٣ \n\r\"'\0\x1b-v", max_size=60)


@examples(200)
@given(st.binary(max_size=60) | TABLE.map(str.encode) | TABLE.map(lambda text: f"fold,part,actor\n{text}".encode()))
@example(b"fold,part,actor\n0,val,1\n")
@example("fold,part,actor\n²,test,1\n".encode())
@example(b"fold,part,actor\n" + b"9" * 5000 + b",test,1\n")
@example(b'fold,part,actor\n"' + b"1" * 200_000 + b'",test,1\n')
@example(b'fold,part,actor\n"1\n2",test,1\n')
def test_a_protocol_is_read_or_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "own.csv"
    file.write_bytes(content)
    read = tried(lambda: read_protocol(file), str(file))
    assert read
    assert isinstance(read, Refused) or all(parts["test"] for parts in read.values())


# --- models, checkpoints and pickles


@pytest.fixture(scope="module")
def model() -> bytes:
    """A model file as written by training."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.safetensors")
        described = {"emotions": ["happy", "sad"], "network": {"modalities": ["audio"]}}
        save_file({"classifier.bias": torch.zeros(2)}, file, {"emofuse": json.dumps(described)})
        return file.read_bytes()


DTYPES = ["F32", "F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "C64", "X", ""]
TENSORS = st.dictionaries(
    st.sampled_from(["conv1.weight", "fc.bias", "layer1.0.conv1.weight", "../x", "", "__metadata__"])
    | st.text(max_size=4),
    st.fixed_dictionaries(
        {},
        optional={
            "dtype": st.sampled_from(DTYPES) | JSON,
            "shape": st.lists(st.integers(0, 3) | st.sampled_from([-1, 2**40, 2**64]), max_size=5) | JSON,
            "data_offsets": st.lists(st.integers(-1, 40) | st.just(2**63), min_size=2, max_size=2) | JSON,
        },
    )
    | JSON,
    max_size=3,
)
WELL_FORMED = st.dictionaries(
    st.sampled_from(["conv1.weight", "fc.bias", "layer1.0.conv1.weight", "bn1.weight", "a"]),
    st.tuples(st.sampled_from(["F32", "F64", "I64", "U8", "BOOL"]), st.lists(st.integers(0, 3), max_size=5)),
    max_size=4,
)
SIZES = {"F32": 4, "F64": 8, "I64": 8, "U8": 1, "BOOL": 1}


def filled(tensors: dict[str, tuple[str, list[int]]]) -> bytes:
    """A well-formed safetensors file."""
    header, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + SIZES[dtype] * int(torch.tensor(shape).prod())
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    return headed(json.dumps(header).encode()) + b"\0" * end


def headed(header: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header


HEADERS = st.one_of(
    st.binary(max_size=40),
    st.builds(headed, TENSORS.map(lambda tree: json.dumps(tree).encode()) | st.binary(max_size=30)),
    st.builds(headed, st.just(b'{"a": 1}'), st.integers(0, 2**64 - 1)),
    st.builds(lambda header, data: headed(json.dumps(header).encode()) + data, TENSORS, st.binary(max_size=40)),
    st.builds(lambda text: headed(json.dumps({"__metadata__": {"emofuse": text}}).encode()), st.text(max_size=8)),
    WELL_FORMED.map(filled),
)


@examples(300)
@given(HEADERS)
@example(headed(b"", 2**63))
@example(headed(b"[" * 2000))
@example(headed(b'{"__metadata__": {"emofuse": "' + b"1" * 5000 + b'"}}'))
def test_an_arbitrary_header_is_not_a_model(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    try:
        _, described = read_model(file)
    except UserError:
        pass
    else:  # evaluation then compares it with params.yaml
        header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
        assert repr(described) == repr(json.loads(header["__metadata__"]["emofuse"]))  # NaN is not itself


@examples(100)
@given(st.data())
def test_a_truncated_model_is_refused(tmp_path: Path, model: bytes, data: st.DataObject) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(model)
    assert read_model(file)[1]["emotions"] == ["happy", "sad"]
    file.write_bytes(model[: data.draw(st.integers(0, len(model) - 1))])
    with pytest.raises(UserError, match="is not a model of this project"):
        read_model(file)


SOUND = config.Network.model_validate(
    {"modalities": ["audio"], "audio": {"backbone": "resnet10", "width": 8, "weights": "w.safetensors"}, "dimension": 8}
)


@pytest.fixture(scope="module")
def network() -> EmotionNetwork:
    return EmotionNetwork(SOUND, 4, {"audio": (2, 32, 32)})


@examples(150)
@given(HEADERS)
def test_an_arbitrary_header_is_not_a_pretrained_backbone(
    tmp_path: Path, network: EmotionNetwork, content: bytes
) -> None:
    file = tmp_path / "w.safetensors"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"w\.safetensors"):
        load_pretrained(network, SOUND, {"w.safetensors": file})


class Payload:
    """An object whose pickle creates a file when it is loaded unsafely."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.mark), "w")


def pickled(mark: Path, form: str) -> bytes:
    content = {"identity": Payload(mark), "state_dict": Payload(mark), "conv1.weight": Payload(mark)}
    buffer = io.BytesIO()
    if form == "pickle":
        pickle.dump(content, buffer)
    else:
        torch.save(content, buffer, _use_new_zipfile_serialization=form == "zip")
    return buffer.getvalue()


FORMS = pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])


@FORMS
def test_the_payload_works_if_loaded_unsafely(tmp_path: Path, form: str) -> None:
    content = pickled(tmp_path / "ran", form)
    if form == "pickle":
        pickle.loads(content)["identity"].close()
    else:
        torch.load(io.BytesIO(content), weights_only=False)["identity"].close()
    assert (tmp_path / "ran").exists()


@FORMS
def test_loading_a_checkpoint_executes_nothing(tmp_path: Path, form: str) -> None:
    make_corpus(tmp_path)
    checkpoint = tmp_path / run_key("a").checkpoint
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(pickled(tmp_path / "ran", form))
    with pytest.raises(
        UserError, match=r"a/seed-1/fold-0\.pt is damaged, or not a checkpoint of this training; delete it"
    ):
        trained(tmp_path, "a")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / run_key("a").model).exists()


class Part(torch.nn.Linear):
    """A part of a training, with its optimizer."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.optimizer = torch.optim.AdamW(self.parameters())
        self(torch.ones(1, 2)).sum().backward()
        self.optimizer.step()

    @property
    def parts(self) -> dict[str, torch.nn.Module | torch.optim.Optimizer]:
        return {"network": self, "optimizer": self.optimizer}


ROW = {"epoch": 1, "train_loss": 1.0, "val_loss": 1.0, "val_uar": 0.5}


def checkpoint_of(part: Part) -> dict[str, Any]:
    progress = {"history": [dict(ROW)], "kept": {"weight": torch.ones(2)}, "seconds": 1.0, "seconds_waiting": 0.0}
    states = {name: copy.deepcopy(each.state_dict()) for name, each in part.parts.items()}
    return {"identity": "same", "parts": states, "progress": progress}


CHANGES: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
    ("no parts", lambda saved: saved.pop("parts")),
    ("no progress", lambda saved: saved.pop("progress")),
    ("no identity", lambda saved: saved.pop("identity")),
    ("no optimizer", lambda saved: saved["parts"].pop("optimizer")),
    ("parts that are a number", lambda saved: saved.update(parts=1)),
    ("a state that is a list", lambda saved: saved["parts"].update(network=[1])),
    ("a weight less", lambda saved: saved["parts"]["network"].pop("bias")),
    ("a weight more", lambda saved: saved["parts"]["network"].update(more=torch.ones(1))),
    ("another shape", lambda saved: saved["parts"]["network"].update(bias=torch.ones(3))),
    ("8-bit weights", lambda saved: saved["parts"]["network"].update(bias=torch.ones(2).to(torch.float8_e5m2))),
    ("text", lambda saved: saved["parts"]["network"].update(bias="text")),
    ("other settings", lambda saved: saved["parts"]["optimizer"]["param_groups"][0].update(betas="x")),
    ("no settings", lambda saved: saved["parts"]["optimizer"].pop("param_groups")),
    ("other moments", lambda saved: saved["parts"]["optimizer"]["state"][0].update(exp_avg=torch.ones(5))),
    ("text as a moment", lambda saved: saved["parts"]["optimizer"]["state"][0].update(exp_avg="x")),
    ("unknown progress", lambda saved: saved["progress"].update(more=1)),
    ("history of text", lambda saved: saved["progress"].update(history="x")),
    ("an epoch without scores", lambda saved: saved["progress"]["history"][0].pop("val_uar")),
    ("scores that are text", lambda saved: saved["progress"]["history"][0].update(val_uar="x")),
    ("an epoch twice", lambda saved: saved["progress"].update(history=[dict(ROW), dict(ROW)])),
    ("weights that are text", lambda saved: saved["progress"].update(kept={"weight": "x"})),
    ("no weights", lambda saved: saved["progress"].update(kept={})),
    ("time that is text", lambda saved: saved["progress"].update(seconds="x")),
]


@pytest.mark.parametrize("change", [change for _, change in CHANGES], ids=[name for name, _ in CHANGES])
def test_unexpected_contents_of_a_checkpoint_are_one_line(
    tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    saved = checkpoint_of(Part())
    torch.save(saved, tmp_path / "c.pt")
    assert Checkpoint(tmp_path / "c.pt", "same").restore(Part().parts).history == [ROW]
    change(saved)
    torch.save(saved, tmp_path / "c.pt")
    with pytest.raises(UserError, match=r"c\.pt is damaged, or not a checkpoint of this training; delete it"):
        Checkpoint(tmp_path / "c.pt", "same").restore(Part().parts)


@pytest.mark.parametrize("content", [1, [1], "text", torch.ones(2), {}])
def test_other_objects_are_not_a_checkpoint(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(UserError, match="not a checkpoint of this training"):
        Checkpoint(tmp_path / "c.pt", "same").restore(Part().parts)


@pytest.mark.parametrize(
    "change",
    [
        {"weight": torch.ones(2, 2).to(torch.float8_e4m3fn)},
        {"weight": torch.ones(2, 2, dtype=torch.uint8)},
        {"weight": torch.ones(2, 2).half()},
        {"weight": torch.ones(2, 3)},
        {"more": torch.ones(1)},
        {"weight": None},
    ],
    ids=["float8", "uint8", "half", "shape", "more", "less"],
)
def test_a_model_with_other_numbers_than_its_network_is_one_line(
    tmp_path: Path, change: dict[str, torch.Tensor | None]
) -> None:
    network = torch.nn.Linear(2, 2)
    state = {name: value for name, value in {**network.state_dict(), **change}.items() if value is not None}
    with pytest.raises(UserError, match=r"m\.safetensors is not a model of this network"):
        load_model(tmp_path / "m.safetensors", state, network)  # type: ignore[arg-type]


@pytest.mark.parametrize("levels", [101, 100_000])
def test_a_deeply_nested_description_is_not_a_model(tmp_path: Path, levels: int) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "m.safetensors", {"emofuse": "[" * levels + "]" * levels})
    with pytest.raises(UserError, match=r"is not a model of this project \(it is nested too deeply\)"):
        read_model(tmp_path / "m.safetensors")


@FORMS
@pytest.mark.parametrize("name", ["w.pth", "w.pt"])
def test_loading_pretrained_weights_executes_nothing(
    tmp_path: Path, network: EmotionNetwork, form: str, name: str
) -> None:
    section = SOUND.model_copy(update={"audio": SOUND.audio.model_copy(update={"weights": name})})
    (tmp_path / name).write_bytes(pickled(tmp_path / "ran", form))
    made = tried(lambda: load_pretrained(network, section, {name: tmp_path / name}), name)
    assert isinstance(made, Refused)
    assert not (tmp_path / "ran").exists()


# Functions that may execute their input, by name, with the modules that they belong to (any, if empty).
UNSAFE = {
    "loads": ("pickle", "dill", "marshal", "cloudpickle"),
    "Unpickler": ("pickle",),
    "unsafe_load": ("yaml",),
    "full_load": ("yaml",),
    "load": ("pickle", "dill", "joblib", "marshal", "shelve", "cloudpickle", "yaml"),
    "read_pickle": ("pd", "pandas"),
    "system": ("os",),
    "popen": ("os",),
    "extractall": (),
    "unpack_archive": ("shutil",),
}
BUILTINS = ("eval", "exec", "compile", "__import__")


def unsafe_calls(text: str) -> Iterator[str]:
    """The calls in a module that could execute their input, with their lines."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module in ("pickle", "marshal", "dill", "joblib", "shelve"):
            yield f"line {node.lineno}: from {node.module}"
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        *owner, name = called.split(".")
        given_ = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        wrong = (
            (not owner and name in BUILTINS)
            or (name in UNSAFE and bool(owner) and (not UNSAFE[name] or owner[-1] in UNSAFE[name]))
            or (called == "torch.load" and given_.get("weights_only") != "True")
            or (name == "YAML" and given_.get("typ") != "'safe'")
            or given_.get("allow_pickle", "False") != "False"
            or given_.get("shell", "False") != "False"
            or (None in given_ and called in ("torch.load", "np.load"))
        )
        if wrong:
            yield f"line {node.lineno}: {called}"


@pytest.mark.parametrize(
    "call",
    ["torch.load(f)", "torch.load(f, weights_only=False)", "torch.load(f, **options)", "pickle.load(f)", "pickle.loads(b)",
     "from pickle import loads", "yaml.load(f)", "YAML().load(f)", "YAML(typ='unsafe')", "yaml.unsafe_load(f)", "eval(text)",
     "np.load(f, allow_pickle=True)", "pd.read_pickle(f)", "subprocess.run(c, shell=True)", "archive.extractall(d)"],
)  # fmt: skip
def test_unsafe_calls_are_detected(call: str) -> None:
    assert list(unsafe_calls(call))


def test_no_module_has_unsafe_calls() -> None:
    modules = sorted((ROOT / "src").rglob("*.py"))
    found = {str(path.relative_to(ROOT)): list(unsafe_calls(path.read_text(encoding="utf-8"))) for path in modules}
    assert len(found) > 50
    assert {name: calls for name, calls in found.items() if calls} == {}


# --- external predictions


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/own, with one protocol that has one fold of eight clips."""
    root = tmp_path_factory.mktemp("own")
    data = root / "data" / "own"
    write_clips(
        root, "own", "p", [(f"{actor}-{emotion}", actor, emotion) for actor in (1, 2) for emotion in RAVDESS[:4]]
    )
    write_csv(
        data / "splits/p/folds.csv",
        [{"fold": 0, "part": "test", "clip": row["clip"]} for row in read_csv(data / "splits/p/clips.csv")],
    )
    return data


HOSTILE = [
    "",
    "nan",
    "inf",
    "-1",
    "1e999",
    "1_0",
    "٣",
    "²",
    "=1+1",
    "../x",
    "a\nb",
    "\x1b[31m",
    "\0",
    "9" * 5000,
    "x" * 140_000,
]
CELLS = st.sampled_from(HOSTILE) | st.text(max_size=4)


@examples(200)
@given(st.data())
def test_a_table_of_predictions_is_scored_or_refused(scored: Path, data: st.DataObject) -> None:
    clips = [row["clip"] for row in read_csv(scored / "splits/p/clips.csv")]
    chances = [f"p_{emotion}" for emotion in RAVDESS]
    header = [
        "clip",
        *data.draw(st.sampled_from([["predicted"], chances, ["label", "fold"], ["predicted", "emotion"]])),
    ]
    rows = [[clip, *("0" if name == "fold" else clip.split("-")[1] if name[:2] != "p_" else
                     str(int(name[2:] == clip.split("-")[1])) for name in header[1:])] for clip in clips]  # fmt: skip
    if data.draw(st.booleans()):
        header.append(data.draw(st.sampled_from(["p_a\nb", "p_\x1b[2J", "p_a", "note", ""])))
        rows = [[*row, data.draw(st.sampled_from(HOSTILE))] for row in rows]
    for _ in range(data.draw(st.integers(0, 2))):
        row = data.draw(st.sampled_from([header, *rows]))
        row[data.draw(st.integers(0, len(row) - 1))] = data.draw(CELLS)
    with (scored / "given.csv").open("w", newline="", encoding="utf-8", errors="replace") as stream:
        csv.writer(stream).writerows([header, *rows])
    made = tried(lambda: external.score(scored / "given.csv", "own", "p", RAVDESS, scored.parents[1]), "given.csv")
    if not isinstance(made, Refused):
        assert made.confusion.sum() == len(clips)
        assert "\x1b" not in made.text()


# --- records

INDEX = paths.record(paths.index("demo"))
INPUT, OUTPUT = paths.raw("demo", 0), paths.index("demo")
STRANGE = [
    "",
    "/",
    "..",
    "../precious",
    "data/../../precious",
    "/dev/zero",
    "a\0b",
    "x" * 5000,
    "data",
    "\x1b[31m\n",
    "~",
]


def tables(known: str, value: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from([known, *STRANGE]) | st.text(max_size=4), value | JSON, max_size=3)


HASHES = st.just("0" * 64)
RECORDS = st.fixed_dictionaries(
    {
        "stage": st.sampled_from(["index", "download", "faces", "train", "report", "paper", ""]) | JSON,
        "key": st.sampled_from([{"corpus": "demo"}, {"corpus": "voices", "shard": 0}, {"stage": 1}, {"corpus": []}]) | JSON,
        "settings": st.dictionaries(st.text(max_size=4), st.dictionaries(st.text(max_size=4), JSON, max_size=2), max_size=2),
        "code": HASHES | JSON,
        "inputs": tables(INPUT, HASHES) | JSON,
        "outputs": tables(OUTPUT, HASHES) | JSON,
        "environment": st.dictionaries(st.text(max_size=4), JSON, max_size=2),
    },
    optional={"commit": JSON, "dirty": JSON, "details": st.fixed_dictionaries({"accepted": JSON}) | JSON, "x": JSON},
)  # fmt: skip


@pytest.fixture(scope="module")
def recorded(project: Path) -> tuple[config.Params, Path]:
    """The parameters above, an index, and a file of somebody else next to the folder."""
    (project / "params.yaml").write_text(yaml.safe_dump(SMALL))
    root = project / "clone"
    (root / "data/demo").mkdir(parents=True)
    (root / OUTPUT).write_text("clip\n")
    (project / "precious").write_text("somebody's")
    return config.load(project / "params.yaml"), root


def hashed(tree: dict[str, Any]) -> dict[str, Any]:
    """The record with its correct hash."""
    with tempfile.TemporaryDirectory() as folder:
        known = {name: value for name, value in tree.items() if name in Record.__dataclass_fields__}
        try:
            Record("record.json", **known).write(Path(folder))
            return {**tree, "hash": json.loads(Path(folder, "record.json").read_text())["hash"]}
        except (TypeError, ValueError):
            return {**tree, "hash": "0" * 64}


@examples(200)
@given(st.binary(max_size=40) | (JSON | RECORDS | RECORDS.map(hashed)).map(lambda tree: json.dumps(tree).encode()))
def test_a_record_is_read_or_refused(recorded: tuple[config.Params, Path], content: bytes) -> None:
    (recorded[1] / INDEX).write_bytes(content)
    read = tried(lambda: Record.read(recorded[1], INDEX), INDEX)
    assert isinstance(read, Refused) or read.hash == json.loads(content)["hash"]


MINIMAL = {"stage": "index", "key": {"corpus": "demo"}, "settings": {}, "code": "", "inputs": {}, "outputs": {}}


@examples(200)
@given(RECORDS.map(hashed))
@example(hashed({**MINIMAL, "inputs": {"a\0b": ""}}))
@example(hashed({**MINIMAL, "inputs": {"x" * 5000: ""}}))
@example(hashed({**MINIMAL, "inputs": {OUTPUT: ""}, "outputs": {OUTPUT: ""}}))
@example(hashed({**MINIMAL, "inputs": {INPUT: ""}, "details": {"accepted": 1}}))
@example(hashed({**MINIMAL, "stage": "faces", "key": {"corpus": "voices", "shard": 0}}))
def test_no_fabricated_record_crashes_the_chain_or_is_verified(
    recorded: tuple[config.Params, Path], tree: dict[str, Any]
) -> None:
    params, root = recorded
    (root / INDEX).write_text(json.dumps(tree))
    chain = Chain(params, root)
    found = tried(lambda: [chain.whole(record) for record in chain.records])
    assert isinstance(found, Refused) or State.VERIFIED not in {each.state for each in found}


@pytest.mark.parametrize("path", ["../precious", "data/../../precious", "{}/precious", "src/emofuse/cli.py", "data"])
def test_a_record_of_files_outside_the_results_is_refused(recorded: tuple[config.Params, Path], path: str) -> None:
    params, root = recorded
    (root / INDEX).write_text(json.dumps(hashed({**MINIMAL, "outputs": {path.format(root.parent): "0" * 64}})))
    with pytest.raises(UserError, match=r"index\.record\.json is not a valid record"):
        list(adopt(params, root))
    assert (root.parent / "precious").read_text() == "somebody's"


# --- the page


class Elements(HTMLParser):
    """The tags of a page, and the attributes that could execute something or link elsewhere."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.running: list[tuple[str, str | None]] = []
        self.scripts = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.scripts += tag == "script"
        self.running += [
            (name, value)
            for name, value in attrs
            if name.startswith("on") or (name in ("href", "src") and ":" in (value or "")) or name == "srcdoc"
        ]


def test_hostile_names_are_plain_text_on_the_page(tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>\"'><script>alert(2)</script><a href='javascript:alert(3)'>{{7*7}}{% raw %}"
    make_params(tmp_path)
    write_demo(tmp_path, variants=("proposed",))
    pages = []
    for text in ("plain", evil):
        loaded = changed(tmp_path / "params.yaml", {"title": text, "variants": ["proposed"]}, "demo")
        clips = tmp_path / paths.splits("demo", "kfold_3")[0]
        write_csv(clips, [row | {"reason": row["reason"] and text} for row in read_csv(clips)])
        key = RunKey("demo", "kfold_3", "proposed", 1, 0)
        settings_ = {"network": {text: text}}
        Record(
            key.training_record, "train", key.asdict(), settings_, text, {text: text}, {f"models/{text}": text}
        ).write(tmp_path)
        tried_out = {
            "config": text,
            "overrides": json.dumps(text),
            "fold": 0,
            "epochs": 9,
            "seconds": 7,
            "protocol": text,
            "seed": 1,
        }
        write_csv(tmp_path / "results/demo/search.csv", [{**tried_out, "war": 0.5, "uar": 0.5}])
        pages.append(quick("demo", loaded, tmp_path)[1])
    plain, hostile = map(Elements, pages)
    # title, reason, configuration, parameters, code, files
    assert pages[1].count("&lt;img src=x onerror=alert(1)&gt;") >= 6
    assert hostile.tags == plain.tags
    assert hostile.scripts == plain.scripts == 1
    assert hostile.running == plain.running
    assert "{{7*7}}{% raw %}" in pages[1]
