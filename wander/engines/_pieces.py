"""A graph cut in pieces that can run at the same time: its branches, which meet late, and what follows them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import onnx
from onnx import ModelProto, NodeProto, ValueInfoProto, helper
from onnx.shape_inference import infer_shapes

from wander.errors import BundleError

SMALL = 0.05
"""Of all nodes. What has fewer is no branch, and runs with what reads it."""
WINDOW = 0.1
"""How far from its middle, as a share of its nodes, a branch may be cut in order to be cut where it is thin."""


@dataclass(frozen=True)
class Piece:
    """Attributes:

    model: of these nodes alone. Weights in files of their own are still named, and not read.
    inputs, outputs: its tensors by name, of which some are those of the graph.
    ahead: nodes on the longest way from here to the end of the graph, its own among them.
    """

    model: ModelProto
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    ahead: int


@dataclass
class _Part:
    """Nodes by their places in the graph, in its order, and the inputs of the graph that they depend on."""

    nodes: list[int]
    roots: frozenset[str]
    reads: set[int] = field(default_factory=set)


def cut(model: ModelProto, workers: int) -> list[Piece]:
    """Pieces for so many workers, the one with the longest way ahead first; one alone if the graph has no branches.

    Nodes that depend on the same inputs of the graph are a branch. If the branches do not share out evenly (three for
    two workers), each is cut again, as often as makes it even. The graph must be in topological order, as ONNX wants.

    Raises BundleError for a graph that does not hold together.
    """
    nodes = list(model.graph.node)
    weights = {one.name for one in model.graph.initializer}
    ends = {one.name for one in model.graph.output}
    parts = _branches(nodes, {one.name for one in model.graph.input} - weights, ends)
    if workers < 2 or not ends <= {name for part in parts for at in part.nodes for name in nodes[at].output}:
        parts = []  # nobody to share with, or an output that depends on no input, or is one
    large = [part for part in parts if len(part.nodes) >= SMALL * len(nodes)]
    side_by_side = [part for part in large if not any(other.roots < part.roots for other in large)]
    if len(side_by_side) > workers:
        times = workers // math.gcd(len(side_by_side), workers)
        parts = [chunk for part in parts for chunk in (_chunks(part, nodes, times) if part in side_by_side else [part])]
    return _pieces(model, nodes, parts)


def _read(node: NodeProto) -> list[str]:
    """The tensors that a node reads, those of its inner graphs among them."""
    inner = [
        name
        for attribute in node.attribute
        for graph in (attribute.g, *attribute.graphs)
        for one in graph.node
        for name in _read(one)
    ]
    return [name for name in (*node.input, *inner) if name]


def _branches(nodes: Sequence[NodeProto], inputs: Iterable[str], ends: set[str]) -> list[_Part]:
    """Nodes by the inputs of the graph that they depend on; those that depend on none are left out."""
    roots: dict[str, frozenset[str]] = {name: frozenset([name]) for name in inputs}
    groups: dict[frozenset[str], list[int]] = defaultdict(list)
    readers: dict[frozenset[str], set[frozenset[str]]] = defaultdict(set)
    for place, node in enumerate(nodes):
        sources = {roots[name] for name in _read(node) if roots.get(name)}
        root = frozenset[str]().union(*sources)
        roots.update(dict.fromkeys(node.output, root))
        if root:
            groups[root].append(place)
            for source in sources:
                readers[source].add(root)
    answers = {roots[name] for name in ends if name in roots}
    for root in sorted(groups, key=len):  # those that read come after those that are read
        others = readers[root] - {root}
        if len(groups[root]) < SMALL * len(nodes) and len(others) == 1 and root not in answers:
            (reader,) = others
            groups[reader] = sorted(groups[reader] + groups.pop(root))
            for known in readers.values():
                if root in known:
                    known.remove(root)
                    known.add(reader)
    return [_Part(places, root) for root, places in groups.items()]


def _chunks(part: _Part, nodes: Sequence[NodeProto], times: int) -> list[_Part]:
    """A part cut in equal numbers of nodes, nearly, each cut where the fewest tensors cross it."""
    made = {name: at for at, place in enumerate(part.nodes) for name in nodes[place].output if name}
    last = dict.fromkeys(made, -1)
    for at, place in enumerate(part.nodes):
        last.update({name: at for name in _read(nodes[place]) if name in made})
    count, reach = len(part.nodes), int(WINDOW * len(part.nodes))
    crossing = [0] * (count + 1)
    for name, at in made.items():
        for between in range(at + 1, last[name] + 1):
            crossing[between] += 1
    if count < 2 * times:
        return [part]
    middles = [count * number // times for number in range(1, times)]
    cuts = set()
    for middle in middles:
        near = range(max(1, middle - reach), min(count, middle + reach + 1))
        cuts.add(min(near, key=lambda at: (crossing[at], abs(at - middle))))
    return [_Part(part.nodes[start:end], part.roots) for start, end in pairwise([0, *sorted(cuts), count])]


def _pieces(model: ModelProto, nodes: Sequence[NodeProto], parts: list[_Part]) -> list[Piece]:
    graph = model.graph
    if len(parts) < 2:
        names = tuple(one.name for one in graph.input), tuple(one.name for one in graph.output)
        return [Piece(model, *names, len(nodes))]
    owner = {name: number for number, part in enumerate(parts) for at in part.nodes for name in nodes[at].output}
    ends = {one.name for one in graph.output}
    crossing: set[str] = set()
    for number, part in enumerate(parts):
        for name in {name for at in part.nodes for name in _read(nodes[at])}:
            if name in owner and owner[name] != number:
                part.reads.add(owner[name])
                crossing.add(name)
    known = _types(model, crossing)
    ahead = _ahead(parts)
    pieces = []
    for number, part in enumerate(parts):
        places = sorted({*part.nodes, *_constants(nodes, part.nodes, owner)})
        own = [nodes[at] for at in places]
        made = {name for node in own for name in node.output}
        read = {name for node in own for name in _read(node)} - made
        weights = [one for one in graph.initializer if one.name in read]
        inputs = sorted(read & known.keys() - {one.name for one in weights})
        outputs = sorted(name for name in made if name in ends or (owner.get(name) == number and name in crossing))
        if not outputs:  # nobody reads what these make
            continue
        first, last = ([known[name] for name in names] for names in (inputs, outputs))
        alone = helper.make_graph(own, f"piece {number}", first, last, weights)
        piece = ModelProto(ir_version=model.ir_version, graph=alone, opset_import=model.opset_import)
        piece.functions.extend(model.functions)
        pieces.append(Piece(piece, tuple(inputs), tuple(outputs), ahead[number]))
    return sorted(pieces, key=lambda one: -one.ahead)


def _types(model: ModelProto, names: set[str]) -> dict[str, ValueInfoProto]:
    """What the graph's own tensors and those of these names are."""
    try:
        inferred = infer_shapes(model).graph if names else model.graph
    except (onnx.shape_inference.InferenceError, ValueError) as error:
        raise BundleError(f"the graph's types do not fit each other: {error}") from error
    found = {one.name: one for one in (*inferred.value_info, *inferred.input, *inferred.output)}
    if unknown := sorted(names - found.keys()):
        raise BundleError(f"the type of {unknown[0]} cannot be inferred, so that the graph cannot be cut there")
    return found


def _constants(nodes: Sequence[NodeProto], places: Sequence[int], owner: dict[str, int]) -> set[int]:
    """The nodes that depend on no input and that these need: every piece has its own."""
    free = {name: at for at, node in enumerate(nodes) for name in node.output if name not in owner}
    found: set[int] = set()
    waiting = list(places)
    while waiting:
        needed = {free[name] for name in _read(nodes[waiting.pop()]) if name in free} - found
        found |= needed
        waiting.extend(needed)
    return found


def _ahead(parts: Sequence[_Part]) -> list[int]:
    """For every part, the nodes on the longest way from its start to the end."""
    readers = [[other for other, part in enumerate(parts) if number in part.reads] for number in range(len(parts))]
    known: dict[int, int] = {}

    def longest(number: int) -> int:
        if number not in known:
            known[number] = len(parts[number].nodes) + max(map(longest, readers[number]), default=0)
        return known[number]

    return [longest(number) for number in range(len(parts))]
