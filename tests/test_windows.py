"""Videos of any kind and length: windows get the same input as a clip of the corpus, and broken files a reason."""

from __future__ import annotations

import errno
import math
import os
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_audio import RATE

from emofuse.config import Audio, Faces, Network, Spectrogram
from emofuse.data.spectrograms import read_segments
from emofuse.features import faces, media
from emofuse.features.media import BrokenClip
from emofuse.inference import windows
from emofuse.inference.bundle import Bundle, Ensemble, Model

FILM = "ravdess_av/Actor_05/01-01-03-01-01-02-05.mp4"
OTHERS = ("ravdess_av/Actor_05/01-01-01-01-02-01-05.mp4", "cremad/VideoFlash/1001_DFA_ANG_XX.flv")
AUDIO = Audio(bands=32, fft=1024)
VIEW = Spectrogram(segments=3, frames=40)
FACES = Faces(body="mobilenet0.25", snippets=3, frames=4, size=64)


def bundle(section: Faces = FACES) -> Bundle:
    """A bundle of both modalities whose models are never used."""
    model = Model(fold=0, file="m", sha256="0", temperature=None, commit=None, made_from={})
    return Bundle(
        emofuse="0", corpus="acted", title="acted", kind="ravdess", protocol="kfold_2", seed=1, emotions=("sad", "happy"),
        window=2.0, longest=4.0, faces=section, audio=AUDIO, detector=None,
        ensembles=(Ensemble(variant="proposed", network=Network(), spectrogram=VIEW, models=(model,)),),
    )  # fmt: skip


def stored(sample: windows.Sample) -> dict[str, np.ndarray]:
    """The features of a sample, by modality."""
    sound = None if sample.sound is None else sample.sound.columns_TF
    return {name: array for name, array in (("video", sample.faces), ("audio", sound)) if array is not None}


def segments(sample: windows.Sample) -> np.ndarray:
    """The segments of a sample's sound."""
    assert sample.sound is not None
    return read_segments(sample.sound, VIEW)


def ffmpeg(*command: str | Path) -> None:
    subprocess.run([media.ffmpeg_binary(), "-v", "error", "-y", *map(str, command)], check=True)


@pytest.fixture(scope="session")
def detect(shared_data: Path) -> faces.Detect:
    found = faces.detector(FACES, shared_data / "weights" / "mobilenet0.25_Final.pth")
    assert found is not None
    return found


def concatenated(shared_data: Path, folder: Path, files: tuple[str, ...]) -> Path:
    """A long video: clips scaled to one size, one after the other."""
    listed = [part for file in files for part in ("-i", shared_data / file)]
    joined = "".join(f"[{n}:v]scale=640:360,fps=25[v{n}];[{n}:a]aresample=48000[a{n}];" for n in range(len(files)))
    joined += "".join(f"[v{n}][a{n}]" for n in range(len(files))) + f"concat=n={len(files)}:v=1:a=1[v][a]"
    ffmpeg(*listed, "-filter_complex", joined, "-map", "[v]", "-map", "[a]", folder / "long.mp4")
    return folder / "long.mp4"


@given(st.floats(0.3, 4000), st.floats(0.5, 10), st.floats(1, 3))
def test_windows_cover_exactly_the_video(duration: float, window: float, more: float) -> None:
    spans = windows.spans(duration, window, window * more)
    assert spans[0][0] == 0
    assert spans[-1][1] == pytest.approx(duration, abs=0.002)
    if duration <= window * more:
        assert spans == [(0, duration)]
        return
    for (start, end), (after, _) in pairwise(spans):
        assert end - start == pytest.approx(window, abs=0.002)
        assert start < after <= start + window * windows.STEP + 0.002


def test_the_frames_of_a_window_are_those_of_the_whole_file(shared_data: Path, tmp_path: Path) -> None:
    file = concatenated(shared_data, tmp_path, (FILM, *OTHERS))
    looks = [windows._times(start, start + 2, FACES) for start in np.arange(0, 6, 0.5).tolist()]
    for times, found in zip(looks, media.pictures(file, looks), strict=True):
        assert isinstance(found, media.Frames)
        shown = np.stack([picture.to_ndarray(format="rgb24") for picture in found.pictures])[found.shown]
        assert np.array_equal(shown, media.read_frames(file.read_bytes(), times))


def test_the_sound_of_a_window_is_that_of_the_whole_file(shared_data: Path, tmp_path: Path) -> None:
    file = concatenated(shared_data, tmp_path, (FILM, *OTHERS))
    whole = media.read_audio(file, RATE)
    spans = [(start, start + 2) for start in np.arange(0, 6, 0.5).tolist()]
    for (start, end), sound in zip(spans, media.sounds(file, spans, RATE), strict=True):
        assert isinstance(sound, np.ndarray)
        same = whole[round(start * RATE) : round(end * RATE)]
        assert len(sound) == len(same)
        # The resampler restarts with each window, up to one sample off.
        assert np.corrcoef(sound, same)[0, 1] > 0.98


def test_a_clip_is_one_window_and_a_long_video_has_several(
    shared_data: Path, tmp_path: Path, detect: faces.Detect
) -> None:
    (clip,) = windows.samples(shared_data / FILM, bundle(), detect)
    assert (clip.place.start, clip.place.end) == (0, round(media.probe(shared_data / FILM).duration, 3))
    assert {name: array.dtype for name, array in stored(clip).items()} == {"video": np.uint8, "audio": np.float16}
    file = concatenated(shared_data, tmp_path, (FILM, *OTHERS))
    long = list(windows.samples(file, bundle(), detect))
    assert len(long) == len(windows.spans(round(media.probe(file).duration, 3), 2.0, 4.0)) > 5
    assert {sample.place.face for sample in long} <= {1, 2, 3}


def test_two_faces_are_separated_and_each_looks_as_it_does_alone(
    shared_data: Path, tmp_path: Path, detect: faces.Detect
) -> None:
    left, right = (shared_data / OTHERS[1], shared_data / FILM)
    ffmpeg(
        *("-i", left, "-i", right, "-filter_complex"),
        "[0:v]scale=480:360,fps=25[l];[1:v]scale=640:360,fps=25[r];[l][r]hstack=shortest=1[v]",
        *("-map", "[v]", "-map", "1:a", "-c:v", "libx264", "-crf", "12", "-t", "2.2", tmp_path / "two.mp4"),
    )
    samples = list(windows.samples(tmp_path / "two.mp4", bundle(), detect))
    assert sorted(sample.place.face for sample in samples if sample.place.face) == [1, 2]
    places = sorted(sample.place.box[0] for sample in samples if sample.place.box)
    assert places[0] < 480 / 1120 < places[1]
    by_place = sorted(samples, key=lambda sample: sample.place.box or ())
    assert np.array_equal(stored(by_place[0])["audio"], stored(by_place[1])["audio"])
    for side, sample in zip(("0:0:480:360", "480:0:640:360"), by_place, strict=True):
        x, y, width, height = side.split(":")
        ffmpeg(
            *("-i", tmp_path / "two.mp4", "-vf", f"crop={width}:{height}:{x}:{y}", "-c:v", "libx264", "-crf", "1"),
            tmp_path / f"{x}.mp4",
        )
        (alone,) = windows.samples(tmp_path / f"{x}.mp4", bundle(), detect)
        difference = np.abs(stored(alone)["video"].astype(int) - stored(sample)["video"]).mean()
        assert difference < 8, "the same face at a slightly different scale"


def test_a_person_keeps_their_number_across_windows(tmp_path: Path) -> None:
    people = windows._People()

    def track(x: float, start: float) -> faces.Track:
        times = np.array([start, start + 1, start + 2])
        return faces.Track(times, np.array([[x, 10, x + 20, 30, 0.9]] * 3))

    assert people.names([track(0, 0), track(100, 0)], 0) == [1, 2]
    assert people.names([track(103, 1), track(2, 1)], 1) == [2, 1]
    assert people.names([track(50, 2)], 2) == [3]
    assert people.names([track(2, 3), track(50, 3), track(100, 3)], 3) == [1, 3, 2]


Conversion = Callable[[Path, Path], None]


def variable(film: Path, output: Path) -> None:
    """Frames that are shown for 40 or 120 ms."""
    ffmpeg("-i", film, "-vf", "select='not(mod(n,2))+lt(mod(n,9),4)'", "-fps_mode", "vfr", output)


GOOD: dict[str, Conversion] = {
    "one frame a second": lambda film, output: ffmpeg("-i", film, "-r", "1", "-t", "3", output),
    "8K": lambda film, output: ffmpeg(
        "-i", film, "-vf", "scale=7680:4320,fps=4", "-preset", "ultrafast", "-c:a", "copy", "-t", "1.5", output
    ),
    "held upright": lambda film, output: ffmpeg("-display_rotation", "90", "-i", film, "-c", "copy", output),
    "variable frame rate": variable,
    "5.1 sound": lambda film, output: ffmpeg("-i", film, "-c:v", "copy", "-ac", "6", output),
    "webm": lambda film, output: ffmpeg(
        "-i", film, "-vf", "scale=320:-2", "-deadline", "realtime", output.with_suffix(".webm")
    ),
}


@pytest.mark.parametrize("kind", GOOD)
def test_files_from_phones_and_editors_are_usable(
    shared_data: Path, tmp_path: Path, detect: faces.Detect, kind: str
) -> None:
    film = shared_data / FILM
    output = tmp_path / "output.mp4"
    if kind == "held upright":  # phones store the frames rotated
        ffmpeg("-i", film, "-vf", "transpose=clock", "-c:a", "copy", tmp_path / "lying.mp4")
        film = tmp_path / "lying.mp4"
    GOOD[kind](film, output)
    (file,) = tmp_path.glob("output.*")
    (sample,) = windows.samples(file, bundle(), detect)
    assert sample.modalities == {"video", "audio"}, sample.place.missing
    (original,) = windows.samples(shared_data / FILM, bundle(), detect)
    assert sample.place.box is not None
    assert original.place.box is not None
    assert faces.overlap(np.array(sample.place.box), np.array(original.place.box)) > 0.7
    if kind == "8K":
        frames = next(media.pictures(file, [[0.1]], windows.LARGEST))
        assert isinstance(frames, media.Frames)
        assert (frames.width, frames.height) == (1280, 720)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"This is no video.\n" * 99, "cannot be decoded"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/hostname\n", "cannot be decoded"),
        (b"ffconcat version 1.0\nfile /etc/hostname\n", "cannot be decoded"),
        (None, "No such file or directory"),
        ("folder", "Is a directory"),
        ("cut", "truncated"),
        ("blink", "too short"),
    ],
    ids=["empty", "text", "playlist", "list of files", "missing", "a folder", "cut off", "too short"],
)
def test_a_file_that_is_not_a_video_has_a_reason(
    shared_data: Path, tmp_path: Path, content: bytes | str | None, reason: str
) -> None:
    file = tmp_path / "given.mp4"
    film = (shared_data / FILM).read_bytes()
    if content == "folder":
        file.mkdir()
    elif content == "cut":
        file.write_bytes(film[: len(film) * 2 // 3])
    elif content == "blink":
        ffmpeg("-i", shared_data / FILM, "-t", "0.1", file)
    elif isinstance(content, bytes):
        file.write_bytes(content)
    with pytest.raises(media.BrokenClip, match=reason):
        list(windows.samples(file, bundle(), None))


def test_an_unreadable_file_has_a_reason(shared_data: Path, tmp_path: Path) -> None:
    file = tmp_path / "private.mp4"
    file.write_bytes((shared_data / FILM).read_bytes())
    file.chmod(0)
    own = os.geteuid()
    if own == 0:
        os.seteuid(65534)  # nobody
    try:
        with pytest.raises(media.BrokenClip, match="cannot be read: Permission denied"):
            list(windows.samples(file, bundle(), None))
    finally:
        os.seteuid(own)


def test_a_file_system_that_fails_is_a_reason(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object, **__: object) -> None:
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(media.mmap, "mmap", failing)
    with pytest.raises(media.BrokenClip, match="cannot be read: No such device"):
        list(windows.samples(shared_data / FILM, bundle(), None))


def test_damage_affects_only_the_windows_around_it(shared_data: Path, tmp_path: Path, detect: faces.Detect) -> None:
    """Frames are lost from the damage up to the next key frame."""
    long = concatenated(shared_data, tmp_path, (FILM, *OTHERS))
    ffmpeg("-i", long, "-c:v", "mpeg4", "-g", "12", "-q:v", "4", "-c:a", "pcm_s16le", tmp_path / "long.mkv")
    packets = []
    with av.open(str(tmp_path / "long.mkv")) as container:
        for packet in container.demux(container.streams.video[0]):
            if packet.pos is not None and packet.pts is not None and packet.size:
                packets.append((float(packet.pts * packet.time_base), packet.pos, packet.size))
    content = bytearray((tmp_path / "long.mkv").read_bytes())
    damaged = [each for each in packets if 4.0 < each[0] < 4.3]
    for _, position, size in damaged:
        content[position + 16 : position + size] = bytes(size - 16)
    (tmp_path / "damaged.mkv").write_bytes(content)
    clean = list(windows.samples(tmp_path / "long.mkv", bundle(), detect))
    after = list(windows.samples(tmp_path / "damaged.mkv", bundle(), detect))
    for before, now in zip(clean, after, strict=True):
        touched = now.place.start < 5.0 and now.place.end > 3.9
        if not touched:
            assert all(np.array_equal(stored(before)[name], stored(now)[name]) for name in ("audio", "video"))
    assert [sample for sample in after if "video" in sample.place.missing]


def test_a_window_without_sound_or_face_has_the_reason(shared_data: Path, tmp_path: Path, detect: faces.Detect) -> None:
    film = shared_data / FILM
    ffmpeg("-i", film, "-an", "-c", "copy", tmp_path / "silent.mp4")
    ffmpeg("-i", film, "-vn", tmp_path / "voice.wav")
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        "testsrc=d=3",
        "-i",
        film,
        "-map",
        "0:v",
        "-map",
        "1:a",
        "-shortest",
        tmp_path / "chart.mp4",
    )
    found = {
        name: list(windows.samples(tmp_path / name, bundle(), detect))
        for name in ("silent.mp4", "voice.wav", "chart.mp4")
    }
    assert [(s.modalities, s.place.missing) for s in found["silent.mp4"]] == [({"video"}, {"audio": "no sound track"})]
    assert [(s.modalities, s.place.missing) for s in found["voice.wav"]] == [({"audio"}, {"video": "no video track"})]
    ((chart),) = found["chart.mp4"]
    assert chart.modalities == {"audio"}
    assert chart.place.missing["video"].startswith("no face")


def test_cover_art_is_not_a_video_track(shared_data: Path, tmp_path: Path) -> None:
    cover = shared_data / "faces/Actor_01.png"
    voice = shared_data / "ravdess_speech_16k/Actor_01/03-01-03-01-01-01-01.flac"
    ffmpeg(
        *("-i", voice, "-i", cover, "-map", "0:a", "-map", "1:v", "-c:v", "mjpeg"),
        *("-disposition:v", "attached_pic"),
        tmp_path / "song.mp3",
    )
    assert not media.probe(tmp_path / "song.mp3").video
    assert len(media.read_audio(tmp_path / "song.mp3", RATE)) > RATE
    assert math.isfinite(media.probe(tmp_path / "song.mp3").duration)


@pytest.mark.parametrize("name", ["apac2.mp4", "longmeta.flv", "overflow.flv", "still_end.mp4", "webrtc_resize.webm"])
def test_awkward_videos_are_like_the_original(shared_data: Path, detect: faces.Detect, name: str) -> None:
    (sample,) = windows.samples(shared_data / "awkward" / name, bundle(), detect)
    (original,) = windows.samples(shared_data / FILM, bundle(), detect)
    assert sample.place.missing == {}
    assert sample.place.end == pytest.approx(original.place.end, abs=0.02)
    assert sample.place.box is not None
    assert original.place.box is not None
    assert faces.overlap(np.array(sample.place.box), np.array(original.place.box)) > 0.9
    found, expected = (stored(each)["video"].astype(float) for each in (sample, original))
    still = slice(2 if name == "still_end.mp4" else 3)  # its last second is held
    assert np.corrcoef(found[still].ravel(), expected[still].ravel())[0, 1] > 0.95


@pytest.mark.parametrize("name", ["quietstart.aac", "quietstart.mp3", "float_int16scale.wav", "memo.amr", "memo.caf"])
def test_recordings_of_any_length_and_scale_have_windows(shared_data: Path, tmp_path: Path, name: str) -> None:
    file = shared_data / "awkward" / name
    if name.startswith("memo"):
        file = tmp_path / name
        codec = ("libopencore_amrnb", "-ar", "8000") if name.endswith("amr") else ("alac", "-ar", "48000")
        ffmpeg("-i", shared_data / FILM, "-vn", "-ac", "1", "-c:a", *codec, file)
    samples = list(windows.samples(file, bundle(), None))
    assert len(samples) == len(windows.spans(media.probe(file).duration, 2.0, 4.0))
    assert {tuple(sample.place.missing.items()) for sample in samples[-2:]} == {(("video", "no video track"),)}
    assert all(segments(sample).std() > 0.5 for sample in samples[-2:])


def test_a_codec_that_is_not_read_is_a_reason(shared_data: Path, tmp_path: Path) -> None:
    ffmpeg(
        "-i", shared_data / FILM, "-t", "1", "-vf", "scale=160:90", "-c:v", "qtrle", "-c:a", "aac", tmp_path / "a.mov"
    )
    (sample,) = windows.samples(tmp_path / "a.mov", bundle(), None)
    assert sample.modalities == {"audio"}
    assert "the codec of its video is qtrle, which is not read; convert it" in sample.place.missing["video"]
    ffmpeg("-i", tmp_path / "a.mov", "-an", "-c", "copy", tmp_path / "b.mov")
    with pytest.raises(
        BrokenClip, match=r"codec of its video is qtrle, which is not read; convert it .*; no sound track"
    ):
        list(windows.samples(tmp_path / "b.mov", bundle(), None))


CHANGES = {
    "wide pixels": ("-vf", "scale=480:360,setsar=4/3"),
    "blank for a moment": ("-vf", "drawbox=c=black:t=fill:enable='between(t,3.4,3.7)'"),
    "held": ("-vf", "select='lt(t,4.4)+gt(t,5.4)'", "-fps_mode", "vfr"),
    "loud": ("-af", "volume=30", "-c:a", "pcm_f32le"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_windows_of_a_changed_video_are_like_those_of_the_original(
    shared_data: Path, tmp_path: Path, detect: faces.Detect, kind: str
) -> None:
    long = concatenated(shared_data, tmp_path, (FILM, OTHERS[0]))
    ffmpeg("-i", long, "-crf", "15", *CHANGES[kind], tmp_path / "changed.mkv")
    before = list(windows.samples(long, bundle(), detect))
    after = list(windows.samples(tmp_path / "changed.mkv", bundle(), detect))
    assert len(before) == len(after) > 4
    for original, changed in zip(before, after, strict=True):
        assert changed.place.missing == {}
        assert changed.place.box is not None
        assert original.place.box is not None
        assert faces.overlap(np.array(changed.place.box), np.array(original.place.box)) > 0.85
        video, expected = (stored(each)["video"].astype(float) for each in (changed, original))
        assert video.std((2, 3, 4)).min() > 20  # no frame is blank
        alike = [np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.9 for a, b in zip(video, expected, strict=True)]
        assert sum(alike) >= (3 if kind in ("wide pixels", "loud") else 1)
        sound, expected = (segments(each).astype(float) for each in (changed, original))
        assert np.corrcoef(sound.ravel(), expected.ravel())[0, 1] > 0.95


def test_a_window_that_is_mostly_blank_has_the_reason(shared_data: Path, tmp_path: Path, detect: faces.Detect) -> None:
    long = concatenated(shared_data, tmp_path, (FILM, OTHERS[0]))
    ffmpeg("-i", long, "-vf", "drawbox=c=black:t=fill:enable='between(t,3,5)'", tmp_path / "changed.mp4")
    for searched, reason in ((detect, "no face: in "), (None, "no picture: in ")):
        samples = list(windows.samples(tmp_path / "changed.mp4", bundle(), searched))
        missing = {sample.place.start: sample.place.missing.get("video", "") for sample in samples}
        blank = [min(end, 5) - max(start, 3) for start, end in ((s.place.start, s.place.end) for s in samples)]
        for overlap, why in zip(blank, missing.values(), strict=True):
            if overlap > 0.8:
                assert why.startswith(reason)
            elif overlap < 0.3:
                assert why == ""
        assert max(blank) > 1.5
