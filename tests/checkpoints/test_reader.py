"""Weights, options and remembered sizes, from real checkpoints and from hand-made ones."""

from __future__ import annotations

import argparse
import collections
import enum
import json
import pathlib
from pathlib import Path

import pytest
import torch

from tests.checkpoints.conftest import ORACLES, oracle, oracle_checkpoints, same, saved
from wander.checkpoints.reader import Checkpoint, module_attributes, options, read, state_dict
from wander.checkpoints.reading.stubs import GlobalRef, Stub
from wander.errors import CheckpointError

CHECKPOINTS = oracle_checkpoints() or ["absent"]
LATE_FUSION = ["wander_late_fusion/e15_out4", "wander_late_fusion/e30_out1"]


class Mode(enum.Enum):
    FAST = "fast"


class Config:
    def __init__(self) -> None:
        self.path = pathlib.PurePosixPath("/runs/a")
        self.nested = argparse.Namespace(mode=Mode.FAST, dtype=torch.float16, device=torch.device("cuda:0"))
        self.kinds = {"a", "b"}
        self.loss = torch.nn.functional.relu
        self.itself = self


class Net(torch.nn.Module):
    """All ways of holding weights."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 3
        self.sizes = [1, (2,), 3]
        self.rates = (0.1, None)
        self.layers = torch.nn.ModuleList([torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)])
        self.factors = torch.nn.ParameterList([torch.zeros(2), torch.ones(1)])
        self.named = torch.nn.ParameterDict({"x": torch.full((2,), 5.0)})
        self.absent = None
        self.register_parameter("empty", None)
        self.scale = torch.nn.Parameter(torch.tensor(2.0))
        self.register_buffer("table", torch.arange(3))
        self.register_buffer("cache", torch.arange(4), persistent=False)
        self.tied = self.layers[0]


def written(path: Path, value: object, *, legacy: bool = False) -> Checkpoint:
    path.write_bytes(saved(value, legacy=legacy))
    return read(path)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_real_checkpoints(name: str) -> None:
    checkpoint = read(oracle(name))
    weights = state_dict(checkpoint)
    assert weights
    assert all(weight.device.type == "cpu" for weight in weights.values())
    assert not any(weight.requires_grad for weight in weights.values())
    try:
        expected = torch.load(checkpoint.path, map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001 - whatever torch refuses cannot be compared with
        assert "state_dict" not in Path(name).stem
        return
    assert same(checkpoint.root, expected)


@pytest.mark.parametrize("name", [name for name in CHECKPOINTS if "checkpoint-9" in name] or ["absent"])
def test_real_checkpoints_with_options(name: str) -> None:
    path = oracle(name)
    with torch.serialization.safe_globals([argparse.Namespace]):
        expected = torch.load(path, map_location="cpu", weights_only=True)
    checkpoint = read(path)
    assert same(state_dict(checkpoint), expected["model"])
    assert options(checkpoint) == vars(expected["args"])
    case = json.loads((path.parent / "case.json").read_text())
    assert case


@pytest.mark.parametrize("case", LATE_FUSION)
def test_whole_modules_hold_their_state_dict(case: str) -> None:
    whole, plain = read(oracle(f"{case}/whole_module.pt")), read(oracle(f"{case}/state_dict.pt"))
    assert same(state_dict(whole), state_dict(plain))
    base = state_dict(read(oracle(f"{case}/base_whole_module.pt")))
    assert all(
        same(base[name], state_dict(plain)[f"basemodel.{name}"])
        for name in base
        if name.startswith(("proj.", "encoders."))
    )


def test_a_whole_module_with_renamed_parts() -> None:
    """The state dict has the names of transformers 4 for the image tower, the whole module those of transformers 5."""
    folder = "wander_food_fusion/e24"
    whole = state_dict(read(oracle(f"{folder}/whole_module.pt")))
    plain = state_dict(read(oracle(f"{folder}/state_dict.pt")))
    tower = "basemodel.vision_encoder."
    assert len(whole) == len(plain)
    assert same(
        {name: weight for name, weight in whole.items() if not name.startswith(tower)},
        {name: weight for name, weight in plain.items() if not name.startswith(tower)},
    )
    values = [
        sorted(weight.numpy().tobytes() for name, weight in weights.items() if name.startswith(tower))
        for weights in (whole, plain)
    ]
    assert values[0] == values[1]
    assert not any(name.endswith(("position_ids", "token_type_ids")) for name in whole)


@pytest.mark.parametrize(("case", "heads", "layers"), [(LATE_FUSION[0], 3, 2), (LATE_FUSION[1], 5, 3)])
def test_whole_modules_remember_their_sizes(case: str, heads: int, layers: int) -> None:
    for name, prefix in (("whole_module.pt", "basemodel."), ("base_whole_module.pt", "")):
        found = module_attributes(read(oracle(f"{case}/{name}")))
        attention = [key for key in found if key.startswith(f"{prefix}encoders.") and key.endswith(".self_attn")]
        assert len(attention) == 3 * layers
        assert {found[key]["num_heads"] for key in attention} == {heads}
        assert {found[key]["__class__"] for key in attention} == {"MultiheadAttention"}
    assert found[""]["__class__"] == "Latefusion"


def test_food_modules_remember_their_sizes() -> None:
    found = module_attributes(read(oracle("wander_food_fusion/e24/whole_module.pt")))
    assert found["basemodel.vision_encoder.layers.0.attention"]["num_attention_heads"] == 4
    assert found["basemodel.text_encoder.encoder.layer.0.attention.self"]["num_attention_heads"] == 3


@pytest.mark.parametrize("name", ["seven_experts", "seven_experts_3_captions", "two_experts"])
def test_a_configuration_object_becomes_plain(name: str) -> None:
    checkpoint = read(oracle(f"mmt/{name}/trained_model.pth"))
    assert checkpoint.format == ("legacy" if name == "seven_experts" else "zip")
    found = options(checkpoint)
    assert json.loads(json.dumps(found))["_config"]["arch"]["args"]["vid_bert_params"]["num_attention_heads"] == 4  # type: ignore[index]
    assert isinstance(found["_save_dir"], str)
    assert found["_args"]["seed"] == 0  # type: ignore[index]


@pytest.mark.skipif(not ORACLES.exists(), reason=f"the reference data are not here: {ORACLES}")
def test_all_real_checkpoints_are_found() -> None:
    assert len(CHECKPOINTS) >= 29


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "module", "model_state_dict"])
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source:UserWarning")
def test_weights_of_a_module(wrapper: str | None, legacy: bool, tmp_path: Path) -> None:
    net = Net()
    for number, value in enumerate((net, net.state_dict(), torch.nn.DataParallel(net))):
        root = {wrapper: value, "epoch": 3} if wrapper else value
        checkpoint = written(tmp_path / f"{number}.pt", root, legacy=legacy)
        assert same(state_dict(checkpoint), dict(net.state_dict()))
    assert module_attributes(checkpoint)[""]["num_heads"] == 3


def test_attributes_of_a_module(tmp_path: Path) -> None:
    found = module_attributes(written(tmp_path / "net.pt", Net()))
    assert list(found) == ["", "layers", "layers.0", "layers.1", "factors", "named", "tied"]
    assert found[""] | {"training": True} == found[""]
    assert (found[""]["num_heads"], found[""]["rates"], found[""]["absent"]) == (3, (0.1, None), None)
    assert "sizes" not in found[""], "only flat lists are plain"
    assert found["layers.0"]["in_features"] == 2
    assert [found[path]["__class__"] for path in ("", "layers", "layers.0")] == ["Net", "ModuleList", "Linear"]
    assert module_attributes(written(tmp_path / "plain.pt", {"a": torch.zeros(1)})) == {}


def test_a_uniform_prefix_is_taken_off(tmp_path: Path) -> None:
    weight = torch.zeros(1)
    uniform = written(tmp_path / "a.pt", {"state_dict": {"module.a.weight": weight, "module.b": weight}})
    assert list(state_dict(uniform)) == ["a.weight", "b"]
    mixed = written(tmp_path / "b.pt", {"module.a": weight, "b": weight})
    assert list(state_dict(mixed)) == ["module.a", "b"]


def test_only_tensors_are_weights(tmp_path: Path) -> None:
    checkpoint = written(tmp_path / "a.pt", {"a": torch.zeros(1), "_extra_state": None, "steps": 3, 5: torch.zeros(1)})
    assert list(state_dict(checkpoint)) == ["a"]
    wrapped = written(tmp_path / "b.pt", {"model": {"name": "net"}, "state_dict": {"a": torch.ones(1)}})
    assert list(state_dict(wrapped)) == ["a"]


@pytest.mark.parametrize(
    ("root", "words"),
    [
        ({"epoch": 3, "optimizer": {"lr": 1}}, "no weights found; it holds the keys epoch, optimizer"),
        ({}, "it holds nothing"),
        ([1, 2], "it holds a list"),
        (argparse.Namespace(a=1), "an object of argparse.Namespace"),
        ({str(index): index for index in range(50)}, "10, 11, ..."),
        ({"best": torch.zeros(1), "encoder": {"a": torch.zeros(1)}}, "under encoder"),
        (torch.nn.Sequential(), "an object of torch.nn.modules.container.Sequential"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_missing_weights_are_told(root: object, words: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        state_dict(written(tmp_path / "a.pt", root))
    assert words in str(error.value)
    assert str(tmp_path) in str(error.value)


def module(**fields: object) -> Stub:
    return Stub("some.Module", state={"_parameters": {}, "_buffers": {}, "_modules": {}, **fields})


def test_modules_that_cannot_be_are_told() -> None:
    ring = module()
    ring.attributes["_modules"]["a"] = ring  # type: ignore[index]
    broken = module(_modules={"a": Stub("some.Thing")})
    lazy = module(_parameters={"weight": Stub("torch.nn.parameter.UninitializedParameter")})
    wide = module()
    for _ in range(30):
        wide = module(_modules={"a": wide, "b": wide})
    for root, words in (
        (ring, "contains itself"),
        (broken, "parameters table"),
        (lazy, "no tensor"),
        (wide, "more parts"),
    ):
        with pytest.raises(CheckpointError, match=words):
            state_dict(Checkpoint(Path("a.pt"), "zip", root))


def test_options_become_plain(tmp_path: Path) -> None:
    expected = {
        "path": "/runs/a",
        "nested": {"mode": "fast", "dtype": "torch.float16", "device": "cuda:0"},
        "kinds": ["a", "b"],
        "loss": "torch.nn.functional.relu",
        "itself": "...",
    }
    for key in ("args", "config", "opt"):
        assert options(written(tmp_path / "a.pt", {key: Config()})) == expected
    assert options(written(tmp_path / "b.pt", {"args": {"lr": 0.1}, "config": Config()})) == {"lr": 0.1}
    assert options(written(tmp_path / "c.pt", {"args": argparse.Namespace(), "opt": {"a": 1}})) == {"a": 1}
    assert options(written(tmp_path / "d.pt", {"model": {}})) == {}
    assert options(written(tmp_path / "e.pt", [1])) == {}


def test_options_of_classes_derived_from_containers() -> None:
    for stub, expected in (
        (Stub("easydict.EasyDict", mapping={"a": Stub("pathlib.WindowsPath", ("C:\\", "x"))}), {"a": "C:\\x"}),
        (
            Stub("some.Config", state={"a": Stub("some.List", items=[1]), "b": GlobalRef("some.run")}),
            {"a": [1], "b": "some.run"},
        ),
        (Stub("some.Config", state=({"a": 1}, {"b": Stub("some.Empty")})), {"a": 1, "b": "some.Empty"}),
        ({Stub("some.Kind", ("x",)): 1, (1, 2): 2}, {"x": 1, "(1, 2)": 2}),
    ):
        assert options(Checkpoint(Path("a.pt"), "zip", {"args": stub})) == expected


def test_options_are_bounded() -> None:
    laughs: object = []
    for _ in range(40):
        laughs = [laughs, laughs]
    with pytest.raises(CheckpointError, match="more than 100000 values"):
        options(Checkpoint(Path("a.pt"), "zip", {"args": {"a": laughs}}))
    tower: object = []
    for _ in range(400):
        tower = [tower]
    with pytest.raises(CheckpointError, match="nested"):
        options(Checkpoint(Path("a.pt"), "zip", {"args": {"a": tower}}))


def test_state_dicts_keep_their_order(tmp_path: Path) -> None:
    weights = collections.OrderedDict((name, torch.zeros(1)) for name in "cab")
    assert list(state_dict(written(tmp_path / "a.pt", weights))) == ["c", "a", "b"]
