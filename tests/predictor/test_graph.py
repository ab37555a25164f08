"""The network's graph: it answers as the modules do, and serves no other network, code or device."""

import dataclasses

import numpy as np
import onnx
import pytest
import torch
from paths import ROOT

from mlanet_lib.face_model import MorphableModel
from mlanet_lib.network import MLANet, checkpoint
from mlanet_lib.predictor import Predictor, graph
from mlanet_lib.predictor.graph import ENDING, GraphNetwork, find_graph, write_graph
from mlanet_lib.predictor.weights import ship


def a_network(model, seed, backbone="resnet10t", **options):
    """A network whose outputs are far from the mean face, and whose batch norms do something."""
    torch.manual_seed(seed)
    network = MLANet(model, backbone=backbone, image_size=32, width=8, pool=1, **options)
    with torch.no_grad():
        for head in network.heads.values():
            head.weight.normal_(0, 0.5)
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
        for step in network.feedback:
            step.say.normal_(0, 0.1)
    return network.eval()


@pytest.fixture(scope="module")
def network(toy_model):
    return a_network(toy_model, 0)


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("graphs")
    write_graph(network, folder / f"toy{ENDING}")
    return folder


def agree(one, other, images):
    with torch.no_grad():
        pairs = one.encode(images).as_tensors(), other.encode(images).as_tensors()
    for name, value in pairs[0].items():
        assert torch.allclose(value, pairs[1][name], rtol=1e-4, atol=1e-4 * float(value.abs().max())), name
    return pairs[0]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_graph_answers_as_the_modules_do(network, folder, count):
    fast = find_graph(network, [folder])
    found = agree(network, fast, torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(count)))
    assert float(found["identity"].abs().max()) > 0.1


def test_a_graph_serves_other_weights_of_its_architecture(toy_model, folder):
    other = a_network(toy_model, 1).to(memory_format=torch.channels_last)
    images = torch.rand(2, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    agree(other, find_graph(other, [folder]), images)


def test_what_ships_next_is_of_this_kind(toy_model, tmp_path):
    """EfficientNet-Lite with levels side by side."""
    network = a_network(toy_model, 2, "efficientnet_lite0", fusion="hierarchical_concatenate")
    write_graph(network, tmp_path / f"lite{ENDING}")
    agree(network, find_graph(network, [tmp_path]), torch.rand(3, 3, 32, 32))


def test_feedback_is_torchs_and_its_maps_are_the_graphs(network, toy_model, folder, tmp_path):
    fed = a_network(toy_model, 0, feedback=2)
    assert find_graph(fed, [folder]) is None  # a graph without the maps that feedback reads
    write_graph(fed, tmp_path / f"fed{ENDING}")
    fast, images = find_graph(fed, [tmp_path]), torch.rand(3, 3, 32, 32)
    found = agree(fed, fast, images)
    values = fast.encode(images).as_tensors().values()
    assert not any(value.requires_grad or value.is_inference() for value in values)  # a fit may start from them
    with torch.no_grad():
        read = fed.face_parameters(fed.read(images)[0])
        for step in fed.feedback:  # later weights than the graph's: the session has those of then
            step.say.zero_()
    assert float((found["expression"] - read.expression).abs().max()) > 0.01  # feedback did something
    assert torch.allclose(fast.encode(images).expression, read.expression, atol=1e-4)
    graph_of = onnx.load(tmp_path / f"fed{ENDING}", load_external_data=False).graph
    assert [output.name for output in graph_of.output] == [*fed.sizes, *(f"map {k}" for k in range(4))]
    read = {f"network.feedback.{k}.read.{level}" for k in range(2) for level in range(2)}
    used = {tensor.name.rsplit(".", 1)[0] for tensor in graph_of.initializer if "feedback" in tensor.name}
    assert used == read


def test_no_graph_for_another_network_or_other_code(network, toy_model, folder, tmp_path, monkeypatch):
    assert isinstance(find_graph(network, [tmp_path, folder]), GraphNetwork)
    assert find_graph(a_network(toy_model, 0, attention="se"), [folder]) is None
    (tmp_path / f"broken{ENDING}").write_bytes(b"no graph")
    assert find_graph(network, [tmp_path]) is None
    (tmp_path / "code.py").write_text("changed")
    monkeypatch.setattr(graph, "_CODE", (tmp_path / "code.py",))
    assert find_graph(network, [folder]) is None


def test_shipping_writes_the_graph_and_loading_finds_it(network, toy_model, tmp_path, monkeypatch):
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_text("")
    monkeypatch.setenv("MLANET_ROOT", str(tmp_path))
    toy_model.save(tmp_path / "data" / "face_models" / "toy.npz")
    stored = MorphableModel.load(tmp_path / "data" / "face_models" / "toy.npz")
    metadata = {
        "network": dataclasses.asdict(network.config),
        "face_model": {"name": "toy", "fingerprint": stored.fingerprint},
    }
    trained = tmp_path / "outputs" / "train" / "best.safetensors"
    checkpoint.save(trained, {f"network.{k}": v for k, v in network.state_dict().items()}, metadata)
    assert Predictor.load(trained).encoder is not None and not isinstance(Predictor.load(trained).encoder, GraphNetwork)
    ship()
    crops = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    for path in ("toy", trained):  # of one architecture: both are served
        predictor = Predictor.load(path)
        assert isinstance(predictor.encoder, GraphNetwork)
        images = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255
        agree(predictor.network, predictor.encoder, images)
        assert torch.equal(predictor.predict_crops(crops).identity, predictor.encoder.encode(images).identity)


def test_the_shipped_weights_are_run_by_their_graph():
    path = ROOT / "weights" / "ict.safetensors"
    if not path.with_suffix(ENDING).is_file():
        pytest.skip("the shipped weights have no graph here: dvc pull weights.dvc")
    model = MorphableModel.load(ROOT / "data" / "face_models" / "ict.npz")
    network, _ = checkpoint.load_network(path, model)
    fast = find_graph(network, [path.parent])
    stale = "the network's code has changed since the graph was made; torch serves until `make weights` writes it anew"
    assert fast is not None, stale
    agree(network, fast, torch.rand(2, 3, network.config.image_size, network.config.image_size))
