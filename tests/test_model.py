"""The network against plain NumPy written from the equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emofuse.model.attention import SelfAttention
from emofuse.model.audio import Trunk as AudioTrunk
from emofuse.model.fusion import CrossAttention
from emofuse.model.network import EmotionNetwork
from emofuse.model.visual import Trunk as VideoTrunk
from emofuse.model.visual import positions
from emofuse.params import Network

SMALL = Network.model_validate(
    {
        "video": {"layers": [1, 1, 1, 1], "width": 8},
        "audio": {"layers": [1, 1, 1, 1], "width": 8},
        "dimension": 16,
        "heads": 4,
    }
)


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@settings(max_examples=20)
@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 4))
def test_self_attention_is_its_equation(tokens: int, dimension: int, heads: int) -> None:
    attention = SelfAttention(dimension, heads, residual=False).double()
    x = torch.randn(2, tokens, dimension, dtype=torch.float64)
    query, key, value, out = (
        layer.weight.detach().numpy().T for layer in (attention.query, attention.key, attention.value, attention.out)
    )
    size = attention.head_dimension
    expected = np.zeros((2, tokens, dimension))
    for b, clip in enumerate(x.numpy()):
        head_outputs = []
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            weights = softmax((clip @ query[:, part]) @ (clip @ key[:, part]).T / np.sqrt(size), 1)
            head_outputs.append(weights @ (clip @ value[:, part]))
        expected[b] = np.concatenate(head_outputs, 1) @ out
    np.testing.assert_allclose(attention(x).detach().numpy(), expected, atol=1e-10)


def test_self_attention_permutes_with_its_tokens_and_its_weights_sum_to_one() -> None:
    attention = SelfAttention(12, 3, residual=True)
    x = torch.randn(2, 5, 12)
    order = torch.randperm(5)
    torch.testing.assert_close(attention(x[:, order]), attention(x)[:, order])
    torch.testing.assert_close(attention.weights(x).sum(-1), torch.ones(2, 3, 5))


def test_cross_attention_is_its_equation() -> None:
    fusion = CrossAttention(6).double()
    audio, video = torch.randn(2, 1, 4, 6, dtype=torch.float64)
    a, v, w = audio[0].numpy(), video[0].numpy(), fusion.weight.detach().numpy()
    correlation = (a @ w) @ v.T
    audio_weights, video_weights = softmax(correlation, 0), softmax(correlation.T, 0)
    a_hat = np.stack([sum(audio_weights[i, j] * a[i] for i in range(4)) for j in range(4)])
    v_hat = np.stack([sum(video_weights[j, i] * v[j] for j in range(4)) for i in range(4)])
    expected = np.concatenate([np.tanh(a + a_hat), np.tanh(v + v_hat)], 1)
    np.testing.assert_allclose(fusion(audio, video)[0].detach().numpy(), expected, atol=1e-12)
    for weights in fusion.weights(audio, video):
        torch.testing.assert_close(weights.sum(1), torch.ones(1, 4, dtype=torch.float64))


def test_the_trunks_at_full_width_are_torchvisions() -> None:
    from torchvision.models import resnet18
    from torchvision.models.video import r3d_18

    reference = r3d_18().eval()
    ours = VideoTrunk([2, 2, 2, 2], 64).eval()
    ours.load_state_dict({k: v for k, v in reference.state_dict().items() if not k.startswith("fc.")})
    clip = torch.randn(1, 3, 4, 32, 32)
    torch.testing.assert_close(reference.fc(ours(clip).mean((2, 3, 4))), reference(clip))

    flat = resnet18().eval()
    grey = AudioTrunk([2, 2, 2, 2], 64).eval()
    state = {k: v for k, v in flat.state_dict().items() if not k.startswith("fc.")}
    state["conv1.weight"] = state["conv1.weight"].sum(1, keepdim=True)
    grey.load_state_dict(state)
    picture = torch.randn(1, 1, 40, 40)
    expected = flat(picture.expand(-1, 3, -1, -1))
    torch.testing.assert_close(flat.fc(grey(picture).mean((2, 3))), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [32, 48, 112])
def test_the_positions_are_those_of_the_last_map(size: int) -> None:
    maps = VideoTrunk([1, 1, 1, 1], 8)(torch.zeros(1, 3, 2, size, size))
    assert maps.shape[3] * maps.shape[4] == positions(size)


@pytest.mark.parametrize("fusion", ["cross_attention", "concat"])
@pytest.mark.parametrize("pooling", ["flatten", "mean"])
@pytest.mark.parametrize("modalities", [["video", "audio"], ["audio"], ["video"]])
def test_every_variant_gives_scores_and_trains_all_its_weights(
    fusion: str, pooling: str, modalities: list[str]
) -> None:
    section = SMALL.model_copy(update={"fusion": fusion, "pooling": pooling, "modalities": modalities})
    network = EmotionNetwork(section, emotions=5, moments=3, face_size=32)
    inputs = {"video": torch.rand(2, 3, 3, 4, 32, 32), "audio": torch.randn(2, 3, 24, 32)}
    scores, embeddings = network({name: inputs[name] for name in modalities})
    assert scores.shape == (2, 5)
    assert embeddings.shape == (2, network.embedding_size)
    scores.square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    names = {name.split(".")[0] for name, _ in network.named_children()}
    assert {"video", "audio"} & names == set(modalities)
