"""What each extractor sees or hears, and how they are bound to the experts of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.extractors.making import video
from wander.errors import BundleError, InputError
from wander.extractors import VideoLimits, Watching
from wander.extractors._clip import RATE, Clip
from wander.extractors.base import ExtractorConfig
from wander.extractors.frame_colours import FrameColours
from wander.extractors.frame_motion import WAYS, FrameMotion, motion
from wander.extractors.huggingface_frames import HuggingFaceConfig, HuggingFaceFrames
from wander.extractors.onnx_frames import OnnxConfig, OnnxFrames
from wander.extractors.sound_logmel import BANDS, SoundLogmel, mel_bands

HERE = Path("nowhere")
FOUR = {
    "colours": {"kind": "frame_colours"},
    "gradients": {"kind": "frame_gradients"},
    "motion": {"kind": "frame-motion"},
    "sound": {"kind": "sound_logmel"},
}
ONNX: dict[str, Any] = {"file": "rgb.onnx", "input": "pixels", "output": "means", "dimension": 3, "size": (8, 8)}


def watching(declared: dict[str, dict[str, Any]], folder: Path = HERE, **options: Any) -> Watching:
    return Watching(declared, folder, VideoLimits(), **options)


def clip_of(pictures: np.ndarray[Any, Any], step: float = 1.0) -> Clip:
    return Clip(pictures, np.arange(len(pictures)) * step, np.zeros(0, np.float32))


def test_an_expert_that_finds_nothing_is_left_out() -> None:
    look = watching(FOUR)
    assert set(look(video(20, tone=440))) == set(FOUR)
    assert set(look(video(20))) == {"colours", "gradients", "motion"}
    assert set(look(video(1))) == {"colours", "gradients"}
    assert set(look(video(0, tone=440))) == {"sound"}


def test_a_file_in_which_no_expert_finds_anything_is_refused() -> None:
    with pytest.raises(InputError, match=r"gives 1 pictures .* none of the experts \(motion\)"):
        watching({"motion": FOUR["motion"]})(video(1))
    with pytest.raises(InputError, match="no moving pictures"):
        watching({"motion": FOUR["motion"]})(video(0, tone=440))
    with pytest.raises(InputError, match="sound"):
        watching({"sound": FOUR["sound"]})(video(20))


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({}, "extractors.rgb.kind"),
        ({"kind": "crystal_ball"}, "extractors.rgb.kind: 'crystal_ball' is none of"),
        ({"kind": "frame_colours", "step": 0}, "extractors.rgb.step"),
        ({"kind": "frame_colours", "size": 3}, "extractors.rgb.size"),
        (
            {"kind": "onnx_frames", "file": "../x.onnx", "input": "a", "output": "b", "dimension": 3},
            "extractors.rgb.file",
        ),
        ({"kind": "onnx_frames", "file": "x.onnx", "input": "a", "output": "b", "dimension": 3}, "not in the bundle"),
    ],
)
def test_what_cannot_be_bound_is_named(declared: dict[str, Any], words: str) -> None:
    with pytest.raises(BundleError, match=words):
        watching({"rgb": declared})


def test_colours_are_counted_where_they_are() -> None:
    picture = np.zeros((1, 64, 64, 3), np.uint8)
    picture[:, :32] = (255, 0, 0)
    found = FrameColours(ExtractorConfig(), HERE)(clip_of(picture))
    assert found is not None
    whole, *quarters = found.rows[0].reshape(5, -1) ** 2
    assert sorted(whole[whole > 0].round(3)) == [0.5, 0.5]
    red = int(quarters[0].argmax())
    assert red == quarters[1].argmax() != quarters[2].argmax()
    np.testing.assert_allclose([q.sum() for q in quarters], 0.25, rtol=1e-5)


@pytest.mark.parametrize(("axis", "shift", "way"), [(2, 3, 0), (1, 3, WAYS // 4), (2, -3, WAYS // 2)])
def test_motion_has_a_direction(axis: int, shift: int, way: int) -> None:
    """A soft spot that moves right, down or left, by what its edges do across themselves."""
    y, x = np.mgrid[:64, :64]
    spot = np.exp(-((x - 32) ** 2 + (y - 32) ** 2) / 60).astype(np.float32)
    pair = np.stack([spot, np.roll(spot, shift, axis - 1)])
    ways = (motion(pair)[0, 16:].reshape(16, WAYS) ** 2).sum(0)
    assert ways.argmax() == way


def test_no_change_is_no_motion() -> None:
    found = FrameMotion(FrameMotion.Config(), HERE)(clip_of(np.full((3, 64, 64, 3), 90, np.uint8)))
    assert found is not None
    assert not found.rows.any()
    np.testing.assert_allclose(found.times, [0.5, 1.5])


def test_a_tone_is_heard_in_its_band() -> None:
    time = np.arange(2 * RATE) / RATE
    for hertz in (300, 1000, 4000):
        sound = np.sin(2 * np.pi * hertz * time).astype(np.float32)
        found = SoundLogmel(SoundLogmel.Config(), HERE)(Clip(np.zeros((0, 1, 1, 3), np.uint8), np.zeros(0), sound))
        assert found is not None
        band = int(found.rows[:, :BANDS].mean(0).argmax())
        assert mel_bands()[round(hertz * 512 / RATE), band] > 0


def onnx_graph(folder: Path) -> None:
    """The mean of each channel, as a graph."""
    import onnx
    from onnx import TensorProto, helper

    node = helper.make_node("ReduceMean", ["pixels", "axes"], ["means"], keepdims=0)
    axes = helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3])
    graph = helper.make_graph(
        [node],
        "means",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("means", TensorProto.FLOAT, ["batch", 3])],
        [axes],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / "rgb.onnx")


def test_a_graph_of_ones_own_sees_pictures(tmp_path: Path) -> None:
    onnx_graph(tmp_path)
    plain = {**ONNX, "mean": (0, 0, 0), "std": (1, 1, 1), "step": 1}
    extractor = OnnxFrames(OnnxConfig.model_validate(plain), tmp_path)
    pictures = np.broadcast_to(np.arange(20, dtype=np.uint8)[:, None, None, None], (20, 12, 12, 3)) * 10
    found = extractor(clip_of(np.ascontiguousarray(pictures)))
    assert found is not None
    np.testing.assert_allclose(found.rows, np.repeat(np.arange(20)[:, None] * 10 / 255, 3, 1), atol=1e-3)
    with pytest.raises(BundleError, match="not those of its signature"):
        OnnxFrames(OnnxConfig.model_validate({**ONNX, "input": "pictures"}), tmp_path)
    assert set(watching({"rgb": {"kind": "onnx_frames", **ONNX}}, tmp_path)(video(12))) == {"rgb"}


def test_a_model_folder_of_transformers_sees_pictures(tmp_path: Path) -> None:
    """A tiny ViT with random weights; a server leaves its expert out."""
    torch = pytest.importorskip("torch")
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ViTModel(ViTConfig(**sizes, image_size=32, patch_size=16)).save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    declared = {"rgb": {"kind": "huggingface_frames", "folder": "vit"}}
    assert watching(declared, tmp_path).bound == {}
    found = watching(declared, tmp_path, serving=False)(video(20))["rgb"]
    assert found.rows.shape == (4, 16)
    assert np.isfinite(found.rows).all()
    with pytest.raises(BundleError, match="no model folder"):
        HuggingFaceFrames(HuggingFaceConfig(folder="elsewhere"), tmp_path)
