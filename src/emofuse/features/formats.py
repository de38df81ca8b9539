"""What FFmpeg may open, and what a file's own structure says about its length."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

# Containers of clips. FFmpeg's other formats include lists of files and addresses, which a clip must not open.
CONTAINERS = "mov,matroska,webm,avi,flv,mpeg,mpegts,asf,dv,wav,w64,aiff,au,caf,mp3,aac,amr,flac,ogg"
# The same for people.
CONTAINER_NAMES = (
    "mp4, mov, 3gp, mkv, webm, avi, flv, mpeg, ts, wmv, dv, wav, aiff, au, caf, mp3, m4a, aac, amr, flac, ogg"
)

# Decoders, by FFmpeg's names: what cameras, phones, browsers and editors write. FFmpeg has hundreds of others, for games
# and other rarities, in which most of its vulnerabilities are found.
VIDEO_CODECS = (
    "h264 hevc av1 libdav1d libaom-av1 vp6 vp6a vp6f vp8 vp9 libvpx libvpx-vp9 theora mpeg1video mpeg2video "
    "mpeg4 h263 flv msmpeg4v1 msmpeg4v2 msmpeg4 wmv1 wmv2 wmv3 vc1 mjpeg dvvideo prores dnxhd cfhd huffyuv "
    "ffvhuff ffv1 utvideo v210 rawvideo"
)
AUDIO_CODECS = (
    "aac aac_latm mp1 mp1float mp2 mp2float mp3 mp3float ac3 eac3 opus libopus vorbis libvorbis speex "
    "libspeex flac alac amrnb amrwb libopencore_amrnb libopencore_amrwb wmav1 wmav2 wmapro wmalossless "
    "wmavoice nellymoser gsm gsm_ms adpcm_ms adpcm_ima_wav adpcm_ima_qt adpcm_swf g722 g726 pcm_alaw "
    "pcm_mulaw pcm_u8 pcm_s8 pcm_s16le pcm_s16be pcm_s24le pcm_s24be pcm_s32le pcm_s32be "
    "pcm_u16le pcm_u16be pcm_u24le pcm_u24be pcm_u32le pcm_u32be pcm_f32le pcm_f32be pcm_f64le pcm_f64be "
    "pcm_bluray pcm_dvd"
)
CODECS = frozenset(f"{VIDEO_CODECS} {AUDIO_CODECS}".split())

# Sizes from which a 32-bit length is a placeholder, by a program that wrote to a pipe or was stopped.
PLACEHOLDER = 0x7FFF0000


# Formats whose content is evenly spread over the file, by FFmpeg's names. FFmpeg itself adapts the duration of some of
# them to the size of the file.
EVEN = ("wav", "w64", "aiff", "au", "caf", "avi", "asf")


def stated_size(data: bytes | mmap.mmap) -> int:
    """The size in bytes that a file needs at least according to its own structure; 0 if it states nothing.

    A placeholder for an unknown length, and a length in seconds alone, state nothing.
    """
    return max(_ends(data), default=0)


def flac_samples(header: bytes | None) -> int:
    """The number of samples that a FLAC file's header (STREAMINFO) states; 0 if it is unknown."""
    return int.from_bytes(header[13:18], "big") & (1 << 36) - 1 if header and len(header) >= 18 else 0


def _ends(data: bytes | mmap.mmap) -> Iterator[int]:
    """Where the elements of a file end that state their length in bytes."""
    head = bytes(data[:64])
    if head[4:8] in (b"ftyp", b"styp", b"moov", b"mdat", b"wide", b"free", b"skip"):  # mp4
        yield from _boxes(data)
    elif head[:4] in (b"RIFF", b"RIFX", b"RF64", b"FORM"):  # wav, avi, aiff
        yield from _chunks(data, "little" if head[:4] in (b"RIFF", b"RF64") else "big")
    elif head[:4] == b"caff":
        position = 8
        while position + 12 <= len(data):
            length = int.from_bytes(data[position + 4 : position + 12], "big", signed=True)
            if length < 0:
                return
            position += 12 + length
            yield position
    elif head[:4] == b".snd":  # au
        begin, length = _number(head[4:8]), _number(head[8:12])
        if length < PLACEHOLDER:
            yield begin + length
    elif head[:4] == b"\x1a\x45\xdf\xa3":  # mkv, webm
        start, header = _ebml(data, 4)
        start, segment = _ebml(data, start + (header or 0) + 4)  # after the segment's name of 4 bytes
        if segment is not None:
            yield start + segment
    elif head[:3] == b"FLV" and len(data) > 15:
        # Each tag is followed by its size. Without a duration, the file is a recording that was stopped.
        last = _number(data[-4:])
        start = len(data) - 4 - last
        whole = last >= 11 and start >= 9 and _number(data[start + 1 : start + 4]) + 11 == last
        duration = data.find(b"\0\x08duration\0", 0, 1 << 16)
        if not whole and duration >= 0 and any(data[duration + 11 : duration + 19]):
            yield len(data) + 1
    elif head[:4] == b"\x30\x26\xb2\x75":  # wmv
        start = data.find(b"\xa1\xdc\xab\x8c\x47\xa9\xcf\x11", 0, 1 << 16)
        if start >= 0 and data[start + 88 : start + 89] != b"\x01":  # unless it is a live stream
            yield int.from_bytes(data[start + 40 : start + 48], "little")
    elif head[:4] == b"riff":  # w64
        start = data.find(b"data\xf3\xac\xd3\x11", 0, 1 << 16)
        length = int.from_bytes(data[start + 16 : start + 24], "little")
        if start >= 0 and length < 1 << 62:
            yield start + length
    else:
        yield from _xing(data)


def _number(field: bytes) -> int:
    return int.from_bytes(field, "big")


def _boxes(data: bytes | mmap.mmap) -> Iterator[int]:
    """The ends of an mp4 file's boxes with content; what other programs append to a file is not a box."""
    position = 0
    while position + 8 <= len(data):
        length, kind = _number(data[position : position + 4]), bytes(data[position + 4 : position + 8])
        if length == 1:
            length = _number(data[position + 8 : position + 16])
        if length < 8:  # 0: up to the end of the file
            return
        position += length
        if kind in (b"moov", b"moof", b"mdat"):
            yield position


def _chunks(data: bytes | mmap.mmap, order: str) -> Iterator[int]:
    """The ends of the chunks with content of a RIFF or IFF file."""
    position, long = 12, PLACEHOLDER
    while position + 8 <= len(data):
        kind = bytes(data[position : position + 4])
        length = int.from_bytes(data[position + 4 : position + 8], order)  # type: ignore[arg-type]
        if kind == b"ds64":
            long = int.from_bytes(data[position + 16 : position + 24], "little")
        if kind == b"data" and length == 0xFFFFFFFF and 0 < long != PLACEHOLDER:
            length = long
        elif length >= PLACEHOLDER:
            return
        if kind in (b"data", b"SSND") or data[position + 8 : position + 12] == b"movi":
            yield position + 8 + length
        position += 8 + length + length % 2


def _ebml(data: bytes | mmap.mmap, position: int) -> tuple[int, int | None]:
    """Where the content of an EBML element starts whose length is at `position`, and the length, None if unknown."""
    if position >= len(data) or not data[position]:
        return position, None
    width = 9 - data[position].bit_length()
    length = _number(data[position : position + width]) & (1 << 7 * width) - 1
    return position + width, None if length == (1 << 7 * width) - 1 else length


def _xing(data: bytes | mmap.mmap) -> Iterator[int]:
    """The end of an MP3 file whose first frame states its length in bytes."""
    start = 0
    if data[:3] == b"ID3":
        start = 10 + sum(byte << 7 * (3 - place) for place, byte in enumerate(data[6:10]))
    frame = bytes(data[start : start + 64])
    if len(frame) > 60 and frame[0] == 0xFF and frame[1] & 0xE0 == 0xE0:
        tag = max(frame.find(b"Xing"), frame.find(b"Info"))
        if tag > 0 and frame[tag + 7] & 2:
            field = tag + 8 + 4 * (frame[tag + 7] & 1)
            yield start + _number(frame[field : field + 4])
