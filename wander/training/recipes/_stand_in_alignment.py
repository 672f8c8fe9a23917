"""Where the host of the proxy starts: words that are told apart, and features that agree with them.

From nothing, a text side and seven experts take long to find each other. Features are a linear matter of words here, so
an expert's first layer can be solved for: by least squares it gives for a caption what the text side gives for it. Both
transformers start as means, of a text's words and of what all experts of a video saw.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from wander.backbones._text_experts import GatedUnit
from wander.backbones.mmt import MMT

QUIET = 0.3
"""What an FFN adds to the stream at first, against what it would by default."""
LOUD = 3.0
"""How much more a token is the mean of all than itself."""
FAINT = 1e-3
"""Deviation of the video's position and type embeddings at first; a feature of length 1 is about 0.05."""
GATE = 0.1
"""Deviation of what goes into a gate at first: all are near one half."""
BATCH = 512


@torch.no_grad()
def start_words_(host: MMT, rarity: Tensor) -> None:
    """Every token its own random direction, the rare ones stronger; a text is at first the mean of its tokens.

    Args:
        rarity: (vocabulary), idf of every token.
    """
    host.vid_bert.init_()
    for table in (host.vid_bert.embeddings.position_embeddings, host.vid_bert.embeddings.token_type_embeddings):
        nn.init.normal_(table.weight, std=FAINT)
    for own in host.vid_bert.layers():
        _mean_(cast(Any, own.attention["self"]).value, cast(Any, own.attention["output"]).dense, own.output.dense)
    bert, width = host.txt_bert, host.config.text_width
    embeddings = bert.embeddings
    # The norm over a token would make all equally strong, but for the type embedding that they share.
    strength = rarity / rarity[rarity > 0].mean()
    nn.init.normal_(embeddings.word_embeddings.weight)
    embeddings.word_embeddings.weight.mul_(strength.clamp(min=GATE)[:, None])
    nn.init.zeros_(embeddings.position_embeddings.weight)
    nn.init.normal_(embeddings.token_type_embeddings.weight)
    for layer in bert.encoder.layer:
        _mean_(layer.attention.self.value, layer.attention.output.dense, layer.output.dense)
    shared = torch.randn(host.config.embed_dim, width) * width**-0.5  # one space, so that experts can be averaged
    for unit in units(host):
        unit.fc.weight.copy_(shared) if host.config.embed_dim != width else nn.init.eye_(unit.fc.weight)
        cast(nn.BatchNorm1d, unit.cg.batch_norm).weight.fill_(GATE)
    for weights in host.moe_fc_txt.values():
        nn.init.normal_(cast(nn.Linear, weights).weight, std=GATE * width**-0.5)
        nn.init.zeros_(cast(nn.Linear, weights).bias)


@torch.no_grad()
def align_(host: MMT, ids: Tensor, features: Mapping[str, Tensor], ridge: float) -> None:
    """Solves for `video_dim_reduce`, so that it gives for a caption's features what the gated unit's first layer gives.

    Args:
        ids: (N, L), the captions' tokens.
        features: expert -> (N, D_m), what stands for the captions.
        ridge: added to the features' mean square, as a share of it.
    """
    host.eval()
    states = torch.cat([host.text_state(part, (part != 0).long()) for part in ids.split(BATCH)])
    for name, unit in zip(host.config.experts, units(host), strict=True):
        unit.fc.bias.copy_(-unit.fc.weight @ states.mean(0))
        wanted, given = unit.fc(states), features[name]
        mean = given.mean(0)
        centred = given - mean
        square = centred.T @ centred
        square.diagonal().add_(ridge * square.diagonal().mean())
        solved = torch.linalg.solve(square, centred.T @ wanted)
        reduce: Any = cast(nn.ModuleDict, host.video_dim_reduce[name])["fc"]
        reduce.weight.copy_(solved.T)
        reduce.bias.copy_(wanted.mean(0) - mean @ solved)


def _mean_(value: nn.Linear, output: nn.Linear, ffn: nn.Linear) -> None:
    """Attention, which is nearly even at first, passes on the mean of what is there."""
    nn.init.eye_(value.weight)
    nn.init.eye_(output.weight)
    output.weight.mul_(LOUD)
    ffn.weight.mul_(QUIET)


def units(host: MMT) -> list[GatedUnit]:
    return [cast(GatedUnit, host.text_GU[name]) for name in host.config.experts]
