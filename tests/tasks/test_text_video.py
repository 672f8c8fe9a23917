"""Text-video: what an item may be, what its tensors are, what is said of a wrong one, and how scores are made."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.extractors.making import video
from tests.extractors.test_extractors import onnx_graph
from tests.serving.schema import problems
from tests.tasks.test_texts import IDS, VOCABULARY
from wander.errors import BundleError, InputError, TooLarge
from wander.manifest import BackboneRef, Graph, Manifest
from wander.signature import Signature, TensorSpec
from wander.tasks import tasks
from wander.tasks._experts import UNKNOWN, draw
from wander.tasks._texts import bert_tokenizer_json
from wander.tasks.base import Task
from wander.tasks.text_video import TextVideo, similarities

WIDTHS = {"rgb": 3, "speech": 2}
TOKENS, EMBED = 4, 5
WORDS = {"kind": "bert", "max_length": 6, "pad": False, "lower_case": True, "max_words": 6, "sentence": True}


def spec(name: str, dtype: Any, *dims: int | str) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, dims=("batch", *dims))


def manifest(**preprocessing: Any) -> Manifest:
    number = len(WIDTHS)
    video = (
        *(spec(f"features_{name}", "float32", TOKENS, width) for name, width in WIDTHS.items()),
        *(spec(f"maximum_{name}", "float32", width) for name, width in WIDTHS.items()),
        *(spec(name, "int64", number, TOKENS) for name in ("positions", "mask")),
    )
    text = tuple(spec(name, "int64", "tokens") for name in ("input_ids", "attention_mask"))
    ends = {
        "text": (text, ("text_embedding", "text_weights")),
        "video": (video, ("video_embedding", "availability")),
    }
    graphs = {
        name: Graph(
            file=f"{name}.onnx",
            signature=Signature(
                inputs=inputs,
                outputs=(spec(vector, "float32", number * EMBED), spec(other, "float32", number)),
            ),
            max_batch_size=2,
        )
        for name, (inputs, (vector, other)) in ends.items()
    }
    return Manifest(
        task="text_video",
        graphs=graphs,
        preprocessing={"vocabulary": len(IDS), "max_tokens": 6, **preprocessing},
        adapter={"kind": "wander"},
        backbone=BackboneRef(kind="mmt", id="x", sha256=""),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("bundle")
    (where / "tokenizer.json").write_text(bert_tokenizer_json(VOCABULARY, lower_case=False), "utf-8")
    return where


@pytest.fixture(scope="module")
def task(folder: Path) -> Task:
    return tasks.get("text-video")(manifest(text=WORDS), folder)


@pytest.fixture(scope="module")
def without_words() -> Task:
    return tasks.get("text-video")(manifest(), Path("nowhere"))


RGB = [[1.0, -2.0, 3.0], [4.0, -5.0, 0.5]]
VIDEO: dict[str, Any] = {"experts": {"rgb": {"features": RGB, "times": [2.9, -1]}}}


def tensors(task: Task, video: Any) -> dict[str, Any]:
    return task.operation("embed").preprocess({"video": video})["video"]


def test_an_item_goes_to_the_graphs_that_it_needs(task: Task) -> None:
    for operation, item, graphs in (
        ("score", {"text": "the cat", "video": VIDEO}, {"text", "video"}),
        ("score", {"token_ids": [2, 9, 3], "video": VIDEO}, {"text", "video"}),
        ("embed", {"text": "the cat", "video": None}, {"text"}),
        ("embed", {"token_ids": [2, 9, 3]}, {"text"}),
        ("embed", {"video": VIDEO}, {"video"}),
    ):
        calls = task.operation(operation).preprocess(item)
        assert set(calls) == graphs
        for graph, arrays in calls.items():
            signature = task.manifest.graphs[graph].signature
            assert signature.check({name: value[None] for name, value in arrays.items()}) == 1


def test_features_are_padded_and_a_missing_expert_is_zeros(task: Task) -> None:
    arrays = tensors(task, VIDEO)
    np.testing.assert_array_equal(arrays["features_rgb"], [*RGB, [0] * 3, [0] * 3])
    np.testing.assert_array_equal(arrays["maximum_rgb"], [4, -2, 3])
    np.testing.assert_array_equal(arrays["mask"], [[1, 1, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(arrays["positions"], [[2, 0, 1, 1], [1] * 4])
    assert not arrays["features_speech"].any()
    assert not arrays["maximum_speech"].any()
    for same in ({"experts": {**VIDEO["experts"], "speech": None}}, {"experts": {"rgb": _arrays()}}):
        for name, value in tensors(task, same).items():
            np.testing.assert_array_equal(value, arrays[name])
    assert not tensors(task, {"experts": {}})["mask"].any()


def _arrays() -> dict[str, Any]:
    return {"features": np.array(RGB), "times": np.array([2.9, -1], np.float32), "maximum": None}


def test_a_time_that_is_not_known_has_its_own_position(task: Task) -> None:
    for times in ({}, {"times": None}):
        arrays = tensors(task, {"experts": {"rgb": {"features": RGB, **times}}})
        assert (arrays["positions"] == UNKNOWN).all()


def test_of_too_many_rows_some_are_drawn_but_the_maximum_is_that_of_all(task: Task) -> None:
    rows = np.arange(30.0).reshape(10, 3)
    arrays = tensors(task, {"experts": {"rgb": {"features": rows.tolist(), "times": np.arange(10).tolist()}}})
    # As numpy's RandomState(0) draws 4 of 10.
    kept = [2, 4, 8, 9]
    np.testing.assert_array_equal(draw(10, 4), kept)
    np.testing.assert_array_equal(arrays["features_rgb"], rows[kept])
    np.testing.assert_array_equal(arrays["positions"][0], kept)
    np.testing.assert_array_equal(arrays["maximum_rgb"], rows[9])
    np.testing.assert_array_equal(draw(4, 4), range(4))


def test_the_maximum_may_be_brought(task: Task) -> None:
    arrays = tensors(task, {"experts": {"rgb": {"features": RGB, "maximum": [7, 8, 9]}}})
    np.testing.assert_array_equal(arrays["maximum_rgb"], [7, 8, 9])


def test_words_are_read_without_case_as_a_sentence(task: Task) -> None:
    embed = task.operation("embed").preprocess
    ids = [IDS[token] for token in ("[CLS]", "the", "cat", ".", "[SEP]")]
    for text in ("the cat", " THE  Cat.", "The cát"):
        found = embed({"text": text})["text"]
        np.testing.assert_array_equal(found["input_ids"], ids)
        assert found["attention_mask"].all()
    long = embed({"text": "the " * 50})["text"]["input_ids"]
    assert len(long) == 6
    assert long[-1] == IDS["[SEP]"]


@pytest.mark.parametrize(
    ("operation", "item", "field"),
    [
        ("score", {"text": "the cat"}, "video"),
        ("score", {"video": VIDEO}, "text"),
        ("score", {"text": "a", "token_ids": [2, 3], "video": VIDEO}, "text"),
        ("score", {"text": "a", "video": VIDEO, "top_k": 1}, "top_k"),
        ("embed", {}, "text"),
        ("embed", {"text": "a", "video": VIDEO}, "text"),
        ("embed", {"text": 7}, "text"),
        ("embed", {"text": " "}, "text"),
        ("embed", {"token_ids": []}, "token_ids"),
        ("embed", {"token_ids": [0] * 7}, "token_ids"),
        ("embed", {"token_ids": [2, len(IDS)]}, "token_ids"),
        ("embed", {"token_ids": [-1]}, "token_ids"),
        ("embed", {"token_ids": [2.5]}, "token_ids"),
        ("embed", {"token_ids": [[2], [3, 4]]}, "token_ids"),
        ("embed", {"token_ids": "2 3"}, "token_ids"),
        ("embed", {"token_ids": [2**70]}, "token_ids"),
        ("embed", {"token_ids": [True]}, "token_ids"),
    ],
)
def test_a_wrong_item_names_its_field(task: Task, operation: str, item: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        task.operation(operation).preprocess(item)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("video", "field"),
    [
        (7, "video"),
        ([], "video"),
        ({}, "video.experts"),
        ({"experts": [1]}, "video.experts"),
        ({"experts": {}, "url": "http://x"}, "video.url"),
        ({"experts": {"smell": {}}}, "video.experts.smell"),
        ({"experts": {7: {}}}, "video.experts.7"),
        ({"experts": {"rgb": [[1, 2, 3]]}}, "video.experts.rgb"),
        ({"experts": {"rgb": {}}}, "video.experts.rgb"),
        ({"experts": {"rgb": {"features": RGB, "time": [1]}}}, "video.experts.rgb.time"),
        ({"experts": {"rgb": {"features": []}}}, "video.experts.rgb.features"),
        ({"experts": {"rgb": {"features": [1, 2, 3]}}}, "video.experts.rgb.features"),
        ({"experts": {"rgb": {"features": [[1, 2]]}}}, "video.experts.rgb.features"),
        ({"experts": {"rgb": {"features": [[1, 2, 3], [1]]}}}, "video.experts.rgb.features"),
        ({"experts": {"rgb": {"features": [["a", "b", "c"]]}}}, "video.experts.rgb.features"),
        ({"experts": {"rgb": {"features": [[1, 2, float("nan")]]}}}, "video.experts.rgb.features"),
        ({"experts": {"rgb": {"features": [[1, 2, 1e39]]}}}, "video.experts.rgb.features"),
        ({"experts": {"rgb": {"features": RGB, "times": [1]}}}, "video.experts.rgb.times"),
        ({"experts": {"rgb": {"features": RGB, "times": [[1], [2]]}}}, "video.experts.rgb.times"),
        ({"experts": {"rgb": {"features": RGB, "times": [1, float("inf")]}}}, "video.experts.rgb.times"),
        ({"experts": {"rgb": {"features": RGB, "maximum": [1]}}}, "video.experts.rgb.maximum"),
    ],
)
def test_a_wrong_video_names_its_field(task: Task, video: Any, field: str) -> None:
    with pytest.raises(InputError) as caught:
        tensors(task, video)
    assert caught.value.field == field


def test_more_rows_than_the_manifest_allows_are_refused(folder: Path) -> None:
    few = tasks.get("text_video")(manifest(max_features=3), folder)
    with pytest.raises(InputError, match="1 to 3 rows"):
        tensors(few, {"experts": {"rgb": {"features": [[1, 2, 3]] * 4}}})


@settings(max_examples=50, deadline=None)
@given(times=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=4))
def test_positions_are_whole_seconds_whatever_the_time(times: list[float]) -> None:
    few = TextVideo(manifest(), Path("nowhere"))
    rows = [[0.0, 0.0, 0.0]] * len(times)
    found = tensors(few, {"experts": {"rgb": {"features": rows, "times": times}}})["positions"][0]
    for time, position in zip(times, found, strict=False):
        assert position == int(min(max(time, 0), 1e6))


def outputs(seed: int = 0, there: tuple[float, float] = (1, 0), size: float = 1.0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    weights = random.dirichlet([1, 1]).astype(np.float32)
    text, video = (random.normal(size=(2, EMBED)).astype(np.float32) * np.float32(size) for _ in range(2))
    return {
        "text": {"text_embedding": (text * weights[:, None]).reshape(-1), "text_weights": weights},
        "video": {"video_embedding": video.reshape(-1), "availability": np.array(there, np.float32)},
    }


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("there", [(1, 1), (1, 0), (0, 0)])
def test_a_score_is_the_sum_of_what_its_experts_say(folder: Path, keep: bool, there: tuple[float, float]) -> None:
    bound = tasks.get("text_video")(manifest(keep_missing_modalities=keep), folder)
    found = outputs(there=there)
    text, video = found["text"], found["video"]
    answer = bound.operation("score").postprocess({}, found)
    assert json.loads(json.dumps(answer, allow_nan=False)) == answer
    experts = answer["experts"]
    assert [experts[name]["available"] for name in WIDTHS] == [bool(one) for one in there]
    assert sum(e["weight"] * e["similarity"] for e in experts.values()) == pytest.approx(answer["score"], abs=1e-12)
    total = sum(experts[name]["weight"] for name in WIDTHS)
    assert total == pytest.approx(1 if keep or any(there) else 0, abs=1e-6)
    t = text["text_embedding"].reshape(2, -1) / text["text_weights"][:, None]
    cosines = (t * video["video_embedding"].reshape(2, -1)).sum(1)
    np.testing.assert_allclose([experts[name]["similarity"] for name in WIDTHS], cosines, rtol=1e-5)
    weights = text["text_weights"] * (np.ones(2) if keep else np.array(there))
    expected = (weights * cosines).sum() / weights.sum() if weights.any() else 0.0
    assert answer["score"] == pytest.approx(expected, rel=1e-5)


def test_scores_of_many_are_those_of_each() -> None:
    rows = [outputs(seed, there) for seed, there in enumerate([(1, 1), (0, 1), (0, 0), (1, 0)])]
    arrays = [
        np.stack([row[graph][name] for row in rows])
        for graph, name in (
            ("text", "text_embedding"),
            ("text", "text_weights"),
            ("video", "video_embedding"),
            ("video", "availability"),
        )
    ]
    for keep in (True, False):
        together = similarities(*arrays, keep_missing=keep)
        for i in range(4):
            for j in range(4):
                alone = similarities(
                    *(a[k : k + 1] for a, k in zip(arrays, (i, i, j, j), strict=True)), keep_missing=keep
                )
                assert together[i, j] == pytest.approx(float(alone[0, 0]), abs=1e-15)
    assert (similarities(*arrays, keep_missing=False)[:, 2] == 0).all()


def test_an_embedding_says_what_it_is(task: Task) -> None:
    found = outputs()
    text = task.operation("embed").postprocess({}, {"text": found["text"]})
    video = task.operation("embed").postprocess({}, {"video": found["video"]})
    assert (text["modality"], video["modality"]) == ("text", "video")
    assert set(text["weights"]) == set(WIDTHS)
    assert video["available"] == {"rgb": True, "speech": False}
    assert len(text["embedding"]) == len(video["embedding"]) == 2 * EMBED
    score = task.operation("score").postprocess({}, found)["score"]
    assert np.dot(text["embedding"], video["embedding"]) == pytest.approx(score, abs=1e-12)


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e30, 3e37])
def test_answers_to_extreme_outputs_are_json(task: Task, size: float) -> None:
    found = outputs(size=size)
    json.dumps(task.operation("score").postprocess({}, found), allow_nan=False)


@pytest.mark.parametrize("words", [True, False])
def test_the_example_can_be_sent(words: bool, task: Task, without_words: Task) -> None:
    bound = task if words else without_words
    score = bound.operation("score")
    item = {"token_ids": [IDS[t] for t in ("[CLS]", "the", "cat", ".", "[SEP]")], "video": VIDEO}
    calls = score.preprocess(item)
    example = bound.example(calls)
    assert json.loads(json.dumps(example, allow_nan=False)) == example
    assert problems(score.schema(), example) == []
    again = score.preprocess(example)
    np.testing.assert_array_equal(again["text"]["input_ids"], calls["text"]["input_ids"])
    np.testing.assert_array_equal(again["video"]["features_rgb"], calls["video"]["features_rgb"])
    assert ("text" in example) == words


@pytest.mark.parametrize("operation", ["score", "embed"])
def test_the_schema_is_a_closed_object(task: Task, operation: str) -> None:
    schema = task.operation(operation).schema()
    json.dumps(schema, allow_nan=False)
    item: dict[str, Any] = {"video": VIDEO} | ({"text": "the cat"} if operation == "score" else {})
    assert problems(schema, item) == []
    assert problems(schema, {**item, "more": 1})
    assert problems(schema, {})
    for wrong in ({"experts": {"smell": {}}}, {"experts": {"rgb": {}}}, {"experts": {"rgb": {"features": [[1]]}}}):
        assert problems(schema, {**item, "video": wrong})


def test_a_model_without_a_tokenizer_says_so(without_words: Task) -> None:
    with pytest.raises(InputError, match=r"no tokenizer; send token_ids") as caught:
        without_words.operation("embed").preprocess({"text": "the cat"})
    assert caught.value.field == "text"
    assert "text" not in without_words.operation("score").schema()["properties"]


def test_what_two_embeddings_say_is_the_score(task: Task, folder: Path) -> None:
    """The product of the vectors, over that of what divides it where missing experts are left out."""
    dropping = tasks.get("text_video")(manifest(keep_missing_modalities=False), folder)
    found = outputs()
    for bound in (task, dropping):
        embed = bound.operation("embed")
        text, video = (embed.postprocess({}, {side: found[side]}) for side in ("text", "video"))
        product = np.dot(text["embedding"], video["embedding"])
        divisors = bound.divisor(text), bound.divisor(video)
        assert [len(one) for one in divisors] == ([0, 0] if bound is task else [2, 2])
        score = product if bound is task else product / np.dot(*divisors)
        assert score == pytest.approx(bound.operation("score").postprocess({}, found)["score"], abs=1e-6)


@pytest.mark.parametrize(
    ("preprocessing", "complaint"),
    [
        ({"text": {"kind": "beit3", "max_length": 8}}, "preprocessing.text"),
        ({"text": {**WORDS, "file": "absent.json"}}, r"absent\.json"),
        ({"vocabulary": None}, "vocabulary"),
        ({"vocabulary": 3, "text": WORDS}, "tokenizer has"),
        ({"more": 1}, "more"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(folder: Path, preprocessing: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BundleError, match=complaint):
        tasks.get("text_video")(manifest(**preprocessing), folder)


@pytest.mark.parametrize("change", ["no video", "no features", "odd width", "more inputs", "free length"])
def test_graphs_that_do_not_fit_are_refused(change: str) -> None:
    whole = manifest()
    graphs = copy.deepcopy(whole.graphs)
    inputs = list(graphs["video"].signature.inputs)
    if change == "no features":
        inputs = inputs[-2:]
    elif change == "odd width":
        inputs[2] = spec("maximum_rgb", "float32", 4)
    elif change == "more inputs":
        inputs.append(spec("more", "float32", 1))
    elif change == "free length":
        inputs[0] = spec("features_rgb", "float32", "rows", 3)
    signature = graphs["video"].signature.model_copy(update={"inputs": tuple(inputs)})
    graphs["video"] = graphs["video"].model_copy(update={"signature": signature})
    if change == "no video":
        del graphs["video"]
    with pytest.raises(BundleError, match="text_video"):
        tasks.get("text_video")(whole.model_copy(update={"graphs": graphs}), Path("nowhere"))


EXTRACTED = {"rgb": {"kind": "onnx_frames", "file": "rgb.onnx", "input": "pixels", "output": "means", "dimension": 3}}


@pytest.fixture
def watching(folder: Path) -> Task:
    """Its expert rgb is the mean colour of a picture; nothing makes speech."""
    onnx_graph(folder)
    declared = {"rgb": {**EXTRACTED["rgb"], "size": [8, 8], "step": 1}}
    return tasks.get("text_video")(manifest(text=WORDS, extractors=declared), folder)


def test_a_file_is_watched_by_the_experts_that_can(watching: Task) -> None:
    arrays = tensors(watching, video(40, fps=10))
    assert arrays["mask"].tolist() == [[1, 1, 1, 1], [0, 0, 0, 0]]
    assert arrays["positions"][0].tolist() == [2, 3, 4, 5]
    assert arrays["features_rgb"].any(axis=1).all()
    assert not arrays["features_speech"].any()
    np.testing.assert_array_equal(tensors(watching, VIDEO)["features_rgb"][:2], RGB)


@pytest.mark.parametrize("value", [b"", b"none", "text", 7])
def test_what_is_no_video_names_the_field(watching: Task, value: object) -> None:
    with pytest.raises(InputError) as caught:
        tensors(watching, value)
    assert caught.value.field == "video"


def test_limits_of_the_manifest_hold(folder: Path) -> None:
    onnx_graph(folder)
    declared = {"rgb": {**EXTRACTED["rgb"], "size": [8, 8]}}
    short = tasks.get("text_video")(manifest(extractors=declared, video={"max_seconds": 1}), folder)
    with pytest.raises(TooLarge, match="2 seconds long"):
        tensors(short, video(20, fps=10))


def test_a_model_without_extractors_says_what_to_send(task: Task) -> None:
    with pytest.raises(InputError, match=r"rgb, speech.*features") as caught:
        tensors(task, video(5))
    assert caught.value.field == "video"


@pytest.mark.parametrize(
    ("extractors", "words"),
    [
        ({"smell": {"kind": "frame_colours"}}, "names smell"),
        ({"rgb": {"kind": "frame_colours"}}, "makes 900 numbers a row, the graph takes 3"),
        ({"rgb": {"kind": "crystal_ball"}}, r"preprocessing\.extractors\.rgb\.kind"),
    ],
)
def test_extractors_that_do_not_fit_are_a_broken_bundle(folder: Path, extractors: Any, words: str) -> None:
    with pytest.raises(BundleError, match=words):
        tasks.get("text_video")(manifest(extractors=extractors), folder)
