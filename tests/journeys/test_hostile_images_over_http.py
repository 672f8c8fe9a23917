"""Every hostile picture at the door of a real server: the answer that its kind deserves, and a server that stays up."""

from __future__ import annotations

import httpx
import pytest
import torch

from export.compose import compose
from export.options import Options
from export.pipeline import export
from serving.protocols.base import STATUS
from tests.journeys.conftest import Start
from tests.tasks.hostile_images import hostile_images
from wander.backbones.bert_vit import BertViT
from wander.checkpoints import folder
from wander.tasks._texts import bert_tokenizer_json

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{number}" for number in range(15))]


@pytest.fixture(scope="module")
def client(serve: Start, tmp_path_factory: pytest.TempPathFactory) -> httpx.Client:
    """A tiny food model with random weights."""
    work = tmp_path_factory.mktemp("food")
    torch.manual_seed(0)
    config, adapter, head = BertViT.example()
    host = BertViT.build(config, adapter, head)
    size = config.vit.image_size
    about = folder.Description(
        task="food",
        labels=("a", "b", "c"),
        preprocessing={"image": {"size": [size, size]}, "text": {"kind": "bert", "max_length": config.text_length}},
        provenance={"weights": "random"},
    )
    tokenizer = bert_tokenizer_json("\n".join(WORDS) + "\n", lower_case=True).encode()
    folder.save(host, head.model_dump(), about, work / "checkpoint", "random", {"tokenizer.json": tokenizer})
    export(compose(work / "checkpoint"), work / "models" / "food", Options(max_batch_size=2))
    return serve(work / "models", "--max-body-bytes", str(64 << 20))


def test_every_picture_gets_its_answer_and_the_server_stays_up(client: httpx.Client) -> None:
    cases = hostile_images()
    assert len(cases) >= 40
    wrong = []
    for case in cases:
        reply = client.post("/v1/food", files={"image": ("x", case.data)}, data={"text": "word1 word2"})
        expected = 200 if case.expected == "ok" else STATUS[case.expected]
        if reply.status_code != expected:
            wrong.append(f"{case.name}: {reply.status_code} for {expected}: {reply.text[:200]}")
        elif expected != 200 and reply.json()["field"] != "image":
            wrong.append(f"{case.name}: the field is not named: {reply.text[:200]}")
    assert not wrong, "\n".join(wrong)
    assert client.get("/readyz").status_code == 200


def test_a_whole_picture_is_answered_after_all_that(client: httpx.Client) -> None:
    good = next(case for case in hostile_images() if case.expected == "ok")
    reply = client.post("/v1/food", files={"image": ("x", good.data)}, data={"text": "word1", "top_k": "2"})
    assert [set(entry) for entry in reply.raise_for_status().json()["labels"]] == [{"label", "probability"}] * 2
