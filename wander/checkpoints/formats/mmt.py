"""MMT as its authors' training saves it: `state_dict` beside a pickled configuration. There is no adapter in it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from wander.backbones._mmt_sizes import PUBLISHED, MMTConfig, MMTHead
from wander.backbones.mmt import MMT
from wander.checkpoints.folder import Description, load_strictly
from wander.checkpoints.formats.base import Converted, Format, Known, count, provenance
from wander.checkpoints.reader import Checkpoint, options
from wander.errors import CheckpointError

POSITIONS = "vid_bert.embeddings.position_embeddings.weight"
TYPES = "vid_bert.embeddings.token_type_embeddings.weight"
WORDS = "txt_bert.embeddings.word_embeddings.weight"
REDUCE = re.compile(r"video_dim_reduce\.(\w+)\.fc\.weight$")
IGNORED = re.compile(
    r"(vid|txt)_bert\.pooler\.dense\.(weight|bias)$"  # read by nothing
    r"|txt_bert\.embeddings\.position_ids$"  # 0, 1, 2, ..: stored by early releases of the transformers package
)
BERT_BASE, BERT_BASE_HEADS = (768, 12), 12
"""Width and number of layers of the published text side, and its heads."""
TOKENS = 30
"""Feature tokens of an expert and tokens of a text, in all published configurations."""
SUPPORTED: dict[str, tuple[object, ...]] = {
    "txt_agg": ("bertftn", "bertfrz", "bertftncls", "bertfrzcls"),
    "txt_pro": ("gbn",),
    "txt_wgh": ("emb",),
    "vid_inp": ("both",),
    "vid_cont": ("bert",),
    "vid_wgh": ("none",),
    "pos_enc": ("tint",),
    "out_tok": ("mxp",),
    "normalize_experts": (True,),
}
"""Options of the architecture and the values that are computed here: those of all published configurations."""
TOKENIZER = "tokenizer.json"


class MMTFormat(Format):
    """Sizes come from the weights; heads, and whether missing experts count, from the run's configuration beside them.

    Without it, `--config` has to say `video_heads` and `text_heads` (for a text side that is no BERT-base), or be the
    run's own configuration file. It may say `token_types` of experts that are not the published ones, and
    `keep_missing_modalities`, which is a way of comparing rather than a fact, and so may differ from the run's.
    Texts are taken as words if `assets` name a `tokenizer.json` of bert-base-cased, or else as token ids only.
    """

    @classmethod
    def recognises(cls, names: Collection[str]) -> bool:
        return {POSITIONS, TYPES, WORDS} <= set(names) and any(REDUCE.match(name) for name in names)

    @classmethod
    def convert(cls, checkpoint: Checkpoint, tensors: Mapping[str, Tensor], given: Mapping[str, Any]) -> Converted:
        # The released code calls the gated units `text_gu`, the published checkpoints `text_GU`.
        weights = {
            re.sub(r"^text_gu\.", "text_GU.", name): value for name, value in tensors.items() if not IGNORED.match(name)
        }
        run = run_configuration(checkpoint, given)
        config = host_config(weights, run, given)
        host = MMT.build(config, None, MMTHead())
        trained = {name: value for name, value in weights.items() if host.is_adapted(name)}
        load_strictly(host, trained, {name: value for name, value in weights.items() if name not in trained})
        about = Description(
            task=given.get("task", "text_video"),
            preprocessing=given.get("preprocessing", preprocessing(config, run, given)),
            provenance=provenance(checkpoint, given),
        )
        return Converted(host, MMTHead().model_dump(), about)


def run_configuration(checkpoint: Checkpoint, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The run's configuration, stored or given; empty if there is none.

    Raises CheckpointError for an architecture that is not computed here.
    """
    stored = options(checkpoint).get("_config")
    run = stored if isinstance(stored, Mapping) else given if "arch" in given else {}
    for name, allowed in SUPPORTED.items():
        value = architecture(run).get(name, allowed[0])
        if value not in allowed:
            wanted = " or ".join(repr(one) for one in allowed)
            raise CheckpointError(f"{name} is {value!r}; only {wanted}, as published, is computed here")
    return run


def architecture(run: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the run's configuration says of the model."""
    return section(section(run, "arch"), "args")


def section(of: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of a configuration, empty if it is not there. Raises CheckpointError if it is something else."""
    found = of.get(name) or {}
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{name} in the run's configuration must be an object, not {found!r}")
    return found


def loader(run: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the run's configuration says of its first training data."""
    sets = run.get("train_sets")
    args = section(sets[0], "args") if isinstance(sets, list) and sets and isinstance(sets[0], Mapping) else {}
    mix = args.get("mix")
    return mix[0] if isinstance(mix, list) and mix and isinstance(mix[0], Mapping) else {}


def host_config(weights: Mapping[str, Tensor], run: Mapping[str, Any], given: Mapping[str, Any]) -> MMTConfig:
    """Raises CheckpointError that names what is unknown."""
    experts = [found[1] for name in weights if (found := REDUCE.match(name))]
    facts: dict[str, Any] = {
        "experts": experts,
        "feature_dims": [side(weights, f"video_dim_reduce.{name}.fc.weight", 1) for name in experts],
        "embed_dim": side(weights, POSITIONS, 1),
        "layers": count(weights, "vid_bert.encoder.layer.{}.intermediate.dense.weight"),
        "ffn_dim": side(weights, "vid_bert.encoder.layer.0.intermediate.dense.weight", 0),
        "positions": side(weights, POSITIONS, 0),
        "type_vocab": side(weights, TYPES, 0),
        "text_width": side(weights, WORDS, 1),
    }
    text: dict[str, Any] = {
        "layers": count(weights, "txt_bert.encoder.layer.{}.intermediate.dense.weight"),
        "intermediate": side(weights, "txt_bert.encoder.layer.0.intermediate.dense.weight", 0),
        "vocab": side(weights, WORDS, 0),
        "max_positions": side(weights, "txt_bert.embeddings.position_embeddings.weight", 0),
        "type_vocab": side(weights, "txt_bert.embeddings.token_type_embeddings.weight", 0),
    }
    told = facts | remembered(run)
    known = Known({**usual(experts, told, text["layers"]), **said(experts, given)}, told)
    options = {name: known[name] for name in ("token_types", "tokens")}
    heads, text["heads"] = known["video_heads"], known["text_heads"]
    return MMTConfig.model_validate({**facts, **options, "num_heads": heads, "text": text})


def remembered(run: Mapping[str, Any]) -> dict[str, Any]:
    """What only the run's configuration tells."""
    found = {
        "video_heads": section(architecture(run), "vid_bert_params").get("num_attention_heads"),
        "text_heads": section(architecture(run), "txt_bert_params").get("num_attention_heads"),
        "tokens": loader(run).get("max_expert_tokens"),
    }
    return {name: value for name, value in found.items() if value is not None}


def usual(experts: list[str], facts: Mapping[str, Any], text_layers: int) -> dict[str, Any]:
    """What all published models have, as far as it is no fact of this one."""
    found: dict[str, Any] = {"tokens": TOKENS}
    if all(name in PUBLISHED for name in experts):
        found["token_types"] = [PUBLISHED[name][1] for name in experts]
    if (facts["text_width"], text_layers) == BERT_BASE:
        found["text_heads"] = BERT_BASE_HEADS
    return {name: value for name, value in found.items() if name not in facts}


def said(experts: list[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """What the user says; some of it may have the names of a model's `case.json`."""
    # In the run's own configuration file `experts` is something else than their names.
    found = {name: v for name, v in given.items() if name != "experts" or isinstance(v, list)}
    if isinstance(types := given.get("token_type_ids"), Mapping) and all(name in types for name in experts):
        found["token_types"] = [types[name] for name in experts]
    if isinstance(text := given.get("text_bert"), Mapping) and "num_attention_heads" in text:
        found["text_heads"] = text["num_attention_heads"]
    if "tokens_per_expert" in given:
        found["tokens"] = given["tokens_per_expert"]
    return found


def preprocessing(config: MMTConfig, run: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What the released data loader does with words: no case, a sentence of them, cut. And if missing experts count."""
    words = min(loader(run).get("max_text_words", given.get("max_text_words", TOKENS)), config.text.max_positions)
    kept = given.get("keep_missing_modalities", architecture(run).get("keep_missing_modalities", True))
    text = {
        "kind": "bert",
        "file": TOKENIZER,
        "max_length": words,
        "pad": False,
        "lower_case": True,
        "max_words": words,
        "sentence": True,
    }
    return {
        "vocabulary": config.text.vocab,
        "max_tokens": words,
        "text": text if TOKENIZER in given.get("assets", {}) else None,
        "keep_missing_modalities": kept,
    }


def side(weights: Mapping[str, Tensor], name: str, axis: int) -> int:
    """A side of a matrix. Raises CheckpointError if it is missing or no matrix."""
    if name not in weights or weights[name].ndim != 2:
        raise CheckpointError(f"{name} is missing, or is no matrix")
    return weights[name].shape[axis]


plugin = MMTFormat
