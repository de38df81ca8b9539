"""The network, compared with NumPy implementations of its equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from emofuse import config
from emofuse.config import Network
from emofuse.models.attention import Gate, SelfAttention, attention
from emofuse.models.backbones import ResNet2d, ResNet3d
from emofuse.models.branches import AudioBranch, VideoBranch
from emofuse.models.fusion import CrossAttention, JointSelfAttention, LateAverage
from emofuse.models.network import EmotionNetwork

SMALL = {
    "video": {"backbone": "r3d_10", "width": 8},
    "audio": {"backbone": "resnet10", "width": 8},
    "dimension": 16,
    "heads": 4,
}
PARAMS = config.load(ROOT / "params.yaml")
VARIANTS = PARAMS.variants
CLIP = {"video": (3, 3, 4, 32, 32), "audio": (3, 24, 32)}  # the shapes of a clip
FORMS = ("none", "self_attention", "gate")
KINDS = ("spatial", "channel", "temporal", "audio_temporal")


def small(**changes: object) -> Network:
    return Network.model_validate(SMALL | changes)


def inputs(batch: int = 2) -> dict[str, torch.Tensor]:
    return {"video": torch.rand(batch, *CLIP["video"]), "audio": torch.randn(batch, *CLIP["audio"])}


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def randomise_norms(module: torch.nn.Module) -> None:
    """Random scales, shifts and statistics, so that no test depends on ones and zeros."""
    for part in module.modules():
        if isinstance(part, torch.nn.LayerNorm | torch.nn.BatchNorm1d | torch.nn.BatchNorm2d | torch.nn.BatchNorm3d):
            torch.nn.init.uniform_(part.weight, 0.5, 1.5)
            torch.nn.init.uniform_(part.bias, -0.5, 0.5)
        if isinstance(part, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d | torch.nn.BatchNorm3d):
            torch.nn.init.uniform_(part.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(part.running_var, 0.5, 1.5)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


def numpy_self_attention(attention: SelfAttention, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The equation, head by head: output and softmax weights for one clip (tokens, dimension)."""
    query, key, value, out = (
        layer.weight.detach().numpy().T for layer in (attention.query, attention.key, attention.value, attention.out)
    )
    normal = x
    if attention.residual:
        centred = x - x.mean(1, keepdims=True)
        normal = centred / np.sqrt((centred**2).mean(1, keepdims=True) + attention.norm.eps)
        normal = normal * attention.norm.weight.detach().numpy() + attention.norm.bias.detach().numpy()
    size = attention.head_dimension
    heads, weights = [], []
    for h in range(attention.heads):
        part = slice(h * size, (h + 1) * size)
        weights.append(softmax((normal @ query[:, part]) @ (normal @ key[:, part]).T / np.sqrt(size), 1))
        heads.append(weights[-1] @ (normal @ value[:, part]))
    attended = np.concatenate(heads, 1) @ out
    return x + attended if attention.residual else attended, np.stack(weights)


@settings(max_examples=20)
@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 4), st.booleans())
def test_self_attention_equals_its_equation(tokens: int, dimension: int, heads: int, residual: bool) -> None:
    attention = SelfAttention(dimension, heads, residual).double()
    randomise_norms(attention)
    x = torch.randn(2, tokens, dimension, dtype=torch.float64)
    outputs, weights = zip(*(numpy_self_attention(attention, clip) for clip in x.numpy()), strict=True)
    np.testing.assert_allclose(attention(x).detach().numpy(), outputs, atol=1e-8)
    np.testing.assert_allclose(attention.weights(x).detach().numpy(), weights, atol=1e-10)
    np.testing.assert_allclose(attention.weights(x).sum(-1).detach().numpy(), 1, atol=1e-12)


def test_self_attention_is_permutation_equivariant() -> None:
    attention = SelfAttention(12, 3, residual=True)
    x = torch.randn(2, 5, 12)
    order = torch.randperm(5)
    torch.testing.assert_close(attention(x[:, order]), attention(x)[:, order])


@settings(max_examples=20)
@given(st.integers(2, 6), st.integers(1, 5), st.booleans(), st.booleans())
def test_gates_equal_their_equations(tokens: int, dimension: int, relu: bool, training: bool) -> None:
    gate = Gate(tokens, dimension, relu).double().train(training)
    randomise_norms(gate)
    x = torch.randn(3, tokens, dimension, dtype=torch.float64)
    norm, mix = gate.norm, gate.mix.weight.detach().numpy()
    scores = np.einsum("bnd,d->bn", x.numpy(), gate.squeeze.weight.detach().numpy()[0])
    mean, variance = norm.running_mean.numpy().copy(), norm.running_var.numpy().copy()
    if training:  # over the batch and the tokens, which share one channel
        mean, variance = scores.mean(), scores.var()
    scores = (scores - mean) / np.sqrt(variance + norm.eps) * norm.weight.item() + norm.bias.item()
    scores = np.tanh(scores) @ mix.T
    factors = np.maximum(scores + 1, 0) if relu else tokens * softmax(scores, 1)
    np.testing.assert_allclose(gate(x).detach().numpy(), x.numpy() * factors[:, :, None], atol=1e-10)
    gate.eval() if not training else gate.train()
    np.testing.assert_allclose(gate.weights(x).detach().numpy(), factors, atol=1e-10)
    if not relu:
        np.testing.assert_allclose(factors.sum(1), tokens)


@pytest.mark.parametrize("relu", [False, True])
def test_gates_depend_on_the_position_of_tokens(relu: bool) -> None:
    gate = Gate(5, 4, relu).eval()
    x = torch.randn(2, 5, 4)
    order = torch.tensor([1, 2, 3, 4, 0])
    assert not torch.allclose(gate(x[:, order]), gate(x)[:, order], atol=1e-3)


def test_each_form_of_attention_is_the_configured_one() -> None:
    kinds = [type(attention(form, small(), 5, 8)) for form in FORMS]
    assert kinds == [torch.nn.Identity, SelfAttention, Gate]


def test_cross_attention_equals_its_equation() -> None:
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


def test_self_attention_fusion_attends_over_both_modalities_and_pairs_them_by_moment() -> None:
    fusion = JointSelfAttention(6, 2, residual=True).double()
    randomise_norms(fusion)
    audio, video = torch.randn(2, 1, 4, 6, dtype=torch.float64)
    joined, weights = numpy_self_attention(fusion, np.concatenate([audio[0].numpy(), video[0].numpy()]))
    expected = [np.concatenate([joined[moment], joined[4 + moment]]) for moment in range(4)]
    np.testing.assert_allclose(fusion(audio, video)[0].detach().numpy(), expected, atol=1e-10)
    np.testing.assert_allclose(fusion.weights(audio, video)[0].detach().numpy(), weights, atol=1e-10)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(2, 5))
def test_late_average_scores_are_log_mean_probabilities(audio_size: int, video_size: int, emotions: int) -> None:
    late = LateAverage(audio_size, video_size, emotions).double()
    audio, video = (5 * torch.randn(3, size, dtype=torch.float64) for size in (audio_size, video_size))
    scores = late(torch.cat([audio, video], 1))
    expected = np.zeros((3, emotions))
    for classifier, vectors in ((late.audio, audio), (late.video, video)):
        logits = vectors.numpy() @ classifier.weight.detach().numpy().T + classifier.bias.detach().numpy()
        expected += softmax(logits, 1) / 2
    np.testing.assert_allclose(scores.exp().detach().numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(scores.softmax(1).detach().numpy(), expected, atol=1e-12)


def test_the_video_branch_attends_over_positions_then_channels_then_snippets() -> None:
    branch = VideoBranch(small(attention=dict.fromkeys(KINDS, "gate")), snippets=3, face_size=32).double().eval()
    randomise_norms(branch)
    faces = inputs()["video"].double()
    with torch.no_grad():
        maps = branch.trunk((faces.flatten(0, 1) - branch.mean) / branch.std).mean(2).flatten(2)
        spatial = branch.spatial.weights(maps.transpose(1, 2))
        maps = maps * spatial[:, None, :]
        maps = maps * branch.channel.weights(maps)[:, :, None]
        snippets = branch.project(maps.mean(2)).unflatten(0, (2, 3))
        expected = snippets * branch.temporal.weights(snippets)[:, :, None]
        torch.testing.assert_close(branch(faces), expected)


def test_backbones_of_width_64_equal_torchvisions() -> None:
    from torchvision.models import resnet18
    from torchvision.models.video import r3d_18

    reference = r3d_18().eval()
    ours = ResNet3d("r3d_18", 64).eval()
    ours.load_state_dict({k: v for k, v in reference.state_dict().items() if not k.startswith("fc.")})
    clip = torch.randn(1, 3, 4, 32, 32)
    torch.testing.assert_close(reference.fc(ours(clip).mean((2, 3, 4))), reference(clip))

    flat = resnet18().eval()
    grey = ResNet2d("resnet18", 64).eval()
    state = {k: v for k, v in flat.state_dict().items() if not k.startswith("fc.")}
    state["conv1.weight"] = state["conv1.weight"].sum(1, keepdim=True)
    grey.load_state_dict(state)
    image = torch.randn(1, 1, 40, 40)
    expected = flat(image.expand(-1, 3, -1, -1))
    torch.testing.assert_close(flat.fc(grey(image).mean((2, 3))), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("backbone", ["r3d_10", "r3d_18", "r3d_50", "r3d_101"])
@pytest.mark.parametrize("width", [1, 2])
def test_channels_and_positions_describe_the_last_feature_map(backbone: str, width: int) -> None:
    backbone_3d = ResNet3d(backbone, width).eval()
    for size in (17, 32, 48, 112):
        maps = backbone_3d(torch.zeros(1, 3, 2, size, size))
        assert maps.shape[1] == backbone_3d.channels
        assert maps.shape[3] * maps.shape[4] == backbone_3d.positions(size)


def test_published_sizes_have_the_published_positions_and_channels() -> None:
    assert [ResNet3d("r3d_18", 64).positions(size) for size in (112, 256)] == [7 * 7, 16 * 16]
    deep = ResNet3d("r3d_50", 64)
    assert [deep.positions(size) for size in (112, 256)] == [4 * 4, 8 * 8]
    assert deep.channels == 2048


def test_faces_are_normalised_as_the_published_weights_expect() -> None:
    from torchvision.models.video import R3D_18_Weights

    torchvisions = R3D_18_Weights.KINETICS400_V1.transforms()
    kinetics = ([0.4345, 0.4051, 0.3775], [0.2768, 0.2713, 0.2737])  # mean.py of kenshohara/3D-ResNets-PyTorch
    for backbone, (mean, std) in (("r3d_18", (torchvisions.mean, torchvisions.std)), ("r3d_50", kinetics)):
        branch = VideoBranch(small(video={"backbone": backbone, "width": 2}), snippets=1, face_size=32)
        received: list[torch.Tensor] = []
        branch.trunk.register_forward_pre_hook(lambda _, arguments, received=received: received.append(arguments[0]))
        colours_CT = torch.tensor(mean)[:, None] + torch.tensor(std)[:, None] * torch.tensor([0.0, 1.0])
        branch.eval()(colours_CT.view(1, 1, 3, 2, 1, 1).expand(-1, -1, -1, -1, 32, 32))
        torch.testing.assert_close(received[0][:, :, 0], torch.zeros(1, 3, 32, 32))
        torch.testing.assert_close(received[0][:, :, 1], torch.ones(1, 3, 32, 32))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("pooling", ["flatten", "mean"])
def test_all_variants_compute_scores_and_train_all_weights(variant: str, pooling: str) -> None:
    base = PARAMS.proposed.model_copy(
        update={"network": small(pooling=pooling), "spectrogram": config.Spectrogram(segments=3)}
    )
    run = config.overridden(base, VARIANTS[variant].model_dump(), variant)
    section, view = run.network, run.spectrogram
    shapes = {"video": CLIP["video"], "audio": (view.segments, 24, view.frames)}
    network = EmotionNetwork(section, 5, shapes)
    scores, embeddings = network({name: torch.rand(2, *shapes[name]) for name in section.modalities})
    assert scores.shape == (2, 5)
    assert embeddings.shape == (2, network.embedding_size)
    pooled = [shapes[name][0] if section.pooling == "flatten" else 1 for name in section.modalities]
    assert network.embedding_size == section.dimension * sum(pooled)
    scores.square().sum().backward()
    assert all(parameter.grad.any() for parameter in network.parameters())
    names = {name for name, _ in network.named_children()}
    assert {"video", "audio"} & names == set(section.modalities)


@pytest.mark.parametrize("pooling", ["flatten", "mean"])
def test_modalities_that_are_averaged_may_have_different_numbers_of_moments(pooling: str) -> None:
    shapes = CLIP | {"audio": (2, 24, 50)}
    network = EmotionNetwork(small(fusion="late_average", pooling=pooling), 5, shapes).eval()
    clips = {name: torch.rand(2, *shape) for name, shape in shapes.items()}
    scores, embeddings = network(clips)
    expected, vectors = torch.zeros(2, 5), []
    for branch, classifier in ((network.audio, network.classifier.audio), (network.video, network.classifier.video)):
        moments = branch(clips["audio" if branch is network.audio else "video"])
        vectors.append(moments.flatten(1) if pooling == "flatten" else moments.mean(1))
        expected += classifier(vectors[-1]).softmax(1) / 2
    torch.testing.assert_close(scores.softmax(1), expected)
    torch.testing.assert_close(embeddings, torch.cat(vectors, 1))


@pytest.mark.parametrize("dimension", [64, 16])
def test_vectors_are_projected_only_to_another_dimension(dimension: int) -> None:
    network = EmotionNetwork(small(dimension=dimension), 5, CLIP)  # both backbones have 64 channels
    projections = {name for name, _ in network.named_parameters() if ".project." in name}
    assert bool(projections) == (dimension != 64)


def test_plain_audio_is_torchvisions_resnet_with_mean_and_a_linear_classifier() -> None:
    from torchvision.models import resnet18

    wide = {"network": {"audio": {"width": 64}, "dimension": 512}}  # torchvision has no other width
    run = config.overridden(config.overridden(PARAMS.proposed, VARIANTS["plain_audio"].model_dump(), ""), wide, "")
    assert (run.spectrogram.segments, run.network.dropout) == (1, 0.0)
    network = EmotionNetwork(run.network, 5, {"audio": (1, 24, 40)})
    randomise_norms(network)
    reference = resnet18(num_classes=5)
    state = {
        name.removeprefix("audio.trunk.").replace("classifier.", "fc."): value.clone()
        for name, value in network.state_dict().items()
    }
    state["conv1.weight"] = state["conv1.weight"].expand(-1, 3, -1, -1) / 3
    reference.load_state_dict(state)  # strict: there is nothing else in the network
    segments = torch.randn(3, 1, 24, 40)
    for training in (False, True):
        scores, embeddings = network.train(training)({"audio": segments})
        expected = reference.train(training)(segments.expand(-1, 3, -1, -1))
        torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-4)
    assert embeddings.shape == (3, 512)


@pytest.mark.parametrize("backbone", ["r3d_50", "r3d_101"])
def test_networks_with_bottlenecks_train(backbone: str) -> None:
    section = small(video={"backbone": backbone, "width": 2}, modalities=["video"])
    network = EmotionNetwork(section, 5, {"video": (3, 3, 4, 48, 48)})
    scores, _ = network({"video": torch.rand(2, 3, 3, 4, 48, 48)})
    scores.square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")


def stage_of(name: str) -> int:
    """The index of the stage that a weight of a backbone belongs to."""
    first = name.split(".")[0]
    return STAGES.index(first) if first in STAGES else 0  # the stem of the 2D network is conv1 and bn1


@pytest.mark.parametrize("frozen", range(6))
@pytest.mark.parametrize("modality", ["video", "audio"])
def test_an_optimizer_step_changes_only_the_stages_that_are_not_frozen(modality: str, frozen: int) -> None:
    section = small(modalities=[modality], **{modality: SMALL[modality] | {"weights": "some.pth", "frozen": frozen}})
    network = EmotionNetwork(section, 5, CLIP)
    trunk = network.get_submodule(modality).trunk
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    scores, _ = network({modality: inputs()[modality]})
    scores.square().sum().backward()
    torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.1).step()
    for name, value in trunk.state_dict().items():
        assert torch.equal(value, before[name]) == (stage_of(name) < frozen), name
    for name, parameter in trunk.named_parameters():
        assert parameter.requires_grad == (stage_of(name) >= frozen), name
    network.eval().train()
    for name, module in trunk.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm3d):
            assert module.training == (stage_of(name) >= frozen), name


@pytest.mark.parametrize("frozen", [0, 1, 5])
def test_frozen_stages_build_no_graph(frozen: int) -> None:
    section = small(video=SMALL["video"] | {"weights": "some.pth", "frozen": frozen})
    network = EmotionNetwork(section, 5, CLIP)
    faces = torch.randn(2, 3, 4, 32, 32, requires_grad=True)
    maps = network.video.trunk(faces)
    assert maps.requires_grad == (frozen < 5)
    if maps.requires_grad:
        maps.sum().backward()
    assert (faces.grad is not None) == (frozen == 0)


SHAPES = {
    "self_attention": {
        "video.spatial": (6, 4, 4, 4),
        "video.channel": (6, 4, 64, 64),
        "video.temporal": (2, 4, 3, 3),
        "audio.temporal": (2, 4, 3, 3),
    },
    "gate": {"video.spatial": (6, 4), "video.channel": (6, 64), "video.temporal": (2, 3), "audio.temporal": (2, 3)},
    "none": {},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("fusion", ["cross_attention", "self_attention", "concat", "late_average"])
def test_attention_weights_have_their_shapes_and_change_no_state(form: str, fusion: str) -> None:
    network = EmotionNetwork(small(attention=dict.fromkeys(KINDS, form), fusion=fusion), 5, CLIP)
    network.train()
    clips = inputs()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    weights = network.attention_weights(clips)
    assert network.training
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    found = weights.pop("fusion", None)
    assert {name: tuple(value.shape) for name, value in weights.items()} == SHAPES[form]
    if fusion == "cross_attention":
        assert [tuple(value.shape) for value in found] == [(2, 3, 3)] * 2
    elif fusion == "self_attention":
        assert tuple(found.shape) == (2, 4, 6, 6)
    else:
        assert found is None
    assert not any(value.requires_grad for value in weights.values())

    network.eval()
    before = network(clips)
    again = network.attention_weights(clips)
    assert not network.training
    assert all(torch.equal(again[name], value) for name, value in weights.items())
    assert all(torch.equal(x, y) for x, y in zip(network(clips), before, strict=True))


def test_gates_within_a_snippet_have_mean_one_and_those_over_time_do_not() -> None:
    network = EmotionNetwork(small(attention=dict.fromkeys(KINDS, "gate"), fusion="concat"), 5, CLIP)
    for name, weights in network.attention_weights(inputs()).items():
        mean_is_one = torch.allclose(weights.mean(1), torch.ones(len(weights)), atol=1e-5)
        assert mean_is_one == (name in ("video.spatial", "video.channel"))


def test_attention_weights_are_those_in_use() -> None:
    section = small(modalities=["audio"], attention={"audio_temporal": "gate"})
    network = EmotionNetwork(section, 5, CLIP).eval()
    randomise_norms(network)
    segments = inputs()["audio"]
    weights = network.attention_weights({"audio": segments})["audio.temporal"]
    ungated = AudioBranch(small(attention={"audio_temporal": "none"}), 3).eval()
    ungated.load_state_dict(network.audio.state_dict(), strict=False)
    torch.testing.assert_close(network.audio(segments), ungated(segments) * weights[:, :, None])


def test_attention_weights_restore_the_network_after_an_error() -> None:
    network = EmotionNetwork(small(), 5, CLIP).train()
    with pytest.raises(KeyError):
        network.attention_weights({"audio": inputs()["audio"]})
    assert network.training
    assert not any(module._forward_pre_hooks for module in network.modules())
