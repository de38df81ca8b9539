"""The demo corpus's voices: syllables made from a vocal cue, and the cue read back from the samples.

A voice is a sum of harmonics under three formants, cut into syllables. A cue sets the rhythm of the
syllables and how pitch and formants glide within them: all of it survives features that are normalised
band by band. Who the actor is changes pitch, timbre and level, never the rhythm or the glide.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SAMPLE_RATE = 16000  # Hz
_CONTROL = 100  # pitch, formants and level are set this many times a second


@dataclass(frozen=True)
class Tone:
    """How a voice moves."""

    rate: float  # syllables a second; 0 is one unbroken sound
    glide: float = 0.0  # octaves from a syllable's start to its end
    swing: float = 0.0  # octaves up and down, WAIL times a second
    pitch: float = 0.0  # octaves above the actor's own
    level: float = 0.0  # dB above the actor's own


WAIL = 2.6  # swings a second

CUES: dict[str, Tone] = {
    "even": Tone(4.2),
    "slow": Tone(2.1, pitch=-0.1, level=-3),
    "bursts": Tone(8.5, pitch=0.2, level=2),
    "swoop": Tone(2.1, glide=1.5),
    "hammer": Tone(4.2, glide=-1.5, level=3),
    "wail": Tone(0.0, swing=0.5, pitch=0.1),
}

# First three formants of an open and a middle vowel of an average man, Hz.
_VOWELS = np.array([[730, 1090, 2440], [640, 1250, 2460]], float)


@dataclass(frozen=True)
class Timbre:
    """What belongs to the actor."""

    pitch: float = 120.0  # Hz
    tract: float = 1.0  # all formants times this
    tilt: float = 1.0  # how fast the harmonics fade, 1: as 1 / frequency
    breath: float = 0.01  # noise beside the voice
    level: float = 0.12  # RMS of the loudest syllables, of full scale

    @classmethod
    def draw(cls, rng: np.random.Generator, female: bool) -> Timbre:
        """The timbre of one actor."""
        return cls(
            pitch=(205 if female else 115) * 2 ** rng.uniform(-0.2, 0.2),
            tract=(1.16 if female else 1.0) * rng.uniform(0.94, 1.06),
            tilt=rng.uniform(0.8, 1.3),
            breath=rng.uniform(0.004, 0.015),
            level=0.12 * 10 ** (rng.uniform(-4, 4) / 20),
        )


def render(cue: str, timbre: Timbre, rng: np.random.Generator, seconds: float) -> np.ndarray:
    """One take of an actor: float32 (samples,) in [-1, 1] at SAMPLE_RATE Hz."""
    tone = CUES[cue]
    times = np.arange(round(seconds * _CONTROL) + 2) / _CONTROL
    tempo = rng.uniform(0.93, 1.07)
    # Where in its syllable each moment is, 0 to 1, and which syllable it is.
    beats = times * tone.rate * tempo + rng.uniform(0, 1)
    syllable = beats.astype(int)
    within = beats - syllable
    octaves = tone.pitch + rng.uniform(-0.08, 0.08) + tone.glide * (np.clip(within / 0.75, 0, 1) - 0.5)
    octaves = octaves + tone.swing * np.sin(2 * np.pi * (WAIL * tempo * times + rng.uniform(0, 1)))
    vowels = _VOWELS[rng.integers(len(_VOWELS), size=syllable[-1] + 1)][syllable]
    stress = rng.uniform(-1, 1, syllable[-1] + 1)[syllable]
    # A syllable rises and falls over its first three quarters, then rests.
    shape = np.clip(np.minimum(within / 0.12, (0.75 - within) / 0.12), 0, 1)
    envelope = shape if tone.rate else np.ones_like(times)
    gain = envelope * 10 ** (stress / 20)
    # The mouth opens with a rising pitch: formants go half the way.
    formants = vowels * timbre.tract * 2.0 ** (0.5 * (octaves - tone.pitch))[:, None]

    samples = round(seconds * SAMPLE_RATE)
    at = np.arange(samples) / SAMPLE_RATE
    pitch = timbre.pitch * 2.0**octaves
    phase = 2 * np.pi * np.cumsum(np.interp(at, times, pitch)) / SAMPLE_RATE
    sound = np.zeros(samples)
    # The harmonics' sines as powers of the first one's: a product is cheaper than a sine.
    turn = np.exp(1j * phase)
    wave = np.ones_like(turn)
    for harmonic in range(1, int(0.45 * SAMPLE_RATE / pitch.min()) + 1):
        wave *= turn
        frequency = harmonic * pitch
        resonance = sum(
            weight / (1 + ((frequency - formants[:, i]) / width) ** 2)
            for i, (weight, width) in enumerate(((1.0, 90), (0.6, 120), (0.3, 160)))
        )
        # Near half the sample rate a harmonic fades out, before it would fold back.
        fade = np.clip((0.45 * SAMPLE_RATE - frequency) / 500, 0, 1)
        strength = gain * fade * (0.04 + resonance) / harmonic**timbre.tilt
        sound += np.interp(at, times, strength) * wave.imag
    loudest = np.interp(at, times, envelope) > 0.9
    sound *= timbre.level / np.sqrt(np.mean(sound[loudest] ** 2)) * 10 ** ((tone.level + rng.uniform(-2, 2)) / 20)
    sound += timbre.breath * timbre.level * rng.standard_normal(samples)
    return np.clip(sound, -1, 1).astype(np.float32)


def _spectrogram(samples: np.ndarray) -> np.ndarray:
    """Power (frames, frequencies) in windows of 32 ms every 10 ms."""
    window, hop = int(0.032 * SAMPLE_RATE), SAMPLE_RATE // _CONTROL
    cuts = np.lib.stride_tricks.sliding_window_view(samples.astype(float), window)[::hop]
    return np.abs(np.fft.rfft(cuts * np.hamming(window), axis=1)) ** 2


def read(samples: np.ndarray) -> str:
    """The cue of a clip, from its rhythm and its glides.

    `samples`: float (samples,) at SAMPLE_RATE Hz.
    """
    power = _spectrogram(samples)
    frequencies = np.linspace(0, SAMPLE_RATE / 2, power.shape[1])
    voiced = (frequencies > 80) & (frequencies < 4000)
    power, frequencies = power[:, voiced], frequencies[voiced]
    power = power + 1e-12  # silence has a spectrum too
    level = 10 * np.log10(power.sum(1))
    sounding = level > np.quantile(level, 0.9) - 14
    starts = np.flatnonzero(np.diff(sounding.astype(int)) == 1) + 1
    if len(starts) < 2:
        return "wail"
    rate = _CONTROL / float(np.median(np.diff(starts)))
    if rate > 6:
        return "bursts"

    # The glide of a syllable: how its spectrum moves on a scale of octaves, by the slope of its centre.
    centre = (power * np.log2(frequencies)).sum(1) / power.sum(1)
    slopes = []
    for start in starts:
        length = int(np.argmin(np.append(sounding[start:], False)))
        whole = start + length < len(sounding)
        if whole and length > 5:
            slopes.append(np.polyfit(np.arange(length) / length, centre[start : start + length], 1)[0])
    glide = float(np.median(slopes)) if slopes else 0.0
    if rate > 3:
        return "hammer" if glide < -0.35 else "even"
    return "swoop" if glide > 0.35 else "slow"
