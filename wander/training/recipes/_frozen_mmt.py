"""What learns over a frozen MMT, what it is given, and the loss that it is given it for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wander.backbones.mmt import MMT
from wander.training.loop import Examples
from wander.training.recipes._stand_in_corpus import Watching

CHUNK = 256


class Adapted(nn.Module):
    """What learns over a frozen host: its adapter, if it has one, and the weights of the experts.

    Takes what the frozen parts give: BERT's token 0 (B, W), the text's vectors (B, M, E), and the video transformer's
    outputs (B, M, 1 + T, E).
    """

    def __init__(self, host: MMT) -> None:
        super().__init__()
        self.adapter = host.adapter
        self.weights = host.moe_fc_txt
        self._host = (host,)  # not as a part: nothing else of it is to be trained

    def forward(self, state: Tensor, vectors: Tensor, hidden: Tensor) -> Tensor:
        """To both vectors (B, 2·M·E)."""
        (host,) = self._host
        query = vectors * host.text_weights(state)[:, :, None]
        return torch.cat([query.flatten(1), host.vectors(hidden).flatten(1)], 1)


@torch.no_grad()
def frozen(watching: Watching, examples: Examples) -> Examples:
    """What the frozen parts of the host make of the examples: the inputs of `Adapted`."""
    host = watching.host
    count = len(host.config.experts)
    made: list[tuple[Tensor, ...]] = []
    for rows in torch.arange(len(examples)).split(CHUNK):
        ids, hands = examples.rows(rows).inputs
        state = host.text_state(ids, (ids != 0).long())
        inputs = watching.video(hands)
        tokens = host.tokens(inputs[:count], inputs[count : 2 * count])
        made.append((state, host.text_vectors(state), host.hidden(tokens, *inputs[2 * count :])))
    return Examples(tuple(torch.cat(parts) for parts in zip(*made, strict=True)), examples.targets)


def contrastive(temperature: float) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of both vectors (B, 2·M·E) and of videos' numbers (B): in a batch each finds the other, both ways.

    Another pair of the same video counts neither for nor against.
    """

    def loss(vectors: Tensor, owners: Tensor) -> Tensor:
        query, video = vectors.chunk(2, 1)
        same = (owners[:, None] == owners) & ~torch.eye(len(owners), dtype=torch.bool)
        scores = (query @ video.T / temperature).masked_fill(same, -torch.inf)
        own = torch.arange(len(owners))
        return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2

    return loss
