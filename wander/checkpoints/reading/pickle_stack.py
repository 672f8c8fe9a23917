"""The stack, marks and memo of a pickle, and the opcodes that only move plain values between them.

Knows nothing of classes, tensors or files. Every step checks that what it needs is there: damaged pickles ask for
anything.
"""

from __future__ import annotations

from collections.abc import Callable

from wander.checkpoints.reading import rebuild
from wander.checkpoints.reading.nesting import MAX_DEPTH, too_deep
from wander.checkpoints.reading.policy import shown
from wander.checkpoints.reading.stubs import Stub
from wander.errors import CheckpointError

_MAX_INTEGER_BITS = 512


class PickleStack:
    """Plain values under construction.

    Attributes:
        stack: the values since the last open mark.
        below: the stacks under the open marks.
        memo: values to which later opcodes may refer, by number.

    All methods raise `CheckpointError` where the pickle is damaged.
    """

    def __init__(self) -> None:
        self.stack: list[object] = []
        self.below: list[list[object]] = []
        self.memo: dict[int, object] = {}

    def whereabouts(self) -> str:
        """The text that was read last and is still in use: mostly the name of the tensor or attribute being built."""
        for stack in (self.stack, *reversed(self.below)):
            for value in reversed(stack[-4:]):
                if isinstance(value, str):
                    return f" (near {shown(value, 80)!r})"
        return ""

    def pop(self) -> object:
        """Takes the topmost value."""
        if not self.stack:
            raise CheckpointError("the pickle is damaged: it takes from an empty stack")
        return self.stack.pop()

    def top(self) -> object:
        """The topmost value, which stays."""
        if not self.stack:
            raise CheckpointError("the pickle is damaged: it needs something on an empty stack")
        return self.stack[-1]

    def pop_mark(self) -> list[object]:
        """Closes the last mark and takes the values since."""
        if not self.below:
            raise CheckpointError("the pickle is damaged: it closes what was never opened")
        items, self.stack = self.stack, self.below.pop()
        return items

    def mark(self, _: object) -> None:
        """Opens a mark."""
        if len(self.below) >= MAX_DEPTH:
            raise too_deep()
        self.below.append(self.stack)
        self.stack = []

    def push(self, value: object) -> None:
        """Puts a value on top."""
        if type(value) is int and value.bit_length() > _MAX_INTEGER_BITS:
            raise CheckpointError(f"the pickle holds an integer of more than {_MAX_INTEGER_BITS} bits; no model does")
        self.stack.append(value)

    def put(self, index: int) -> None:
        """Remembers the topmost value."""
        self.memo[index] = self.top()

    def get(self, index: int) -> None:
        """Puts a remembered value on top."""
        if index not in self.memo:
            raise CheckpointError("the pickle is damaged: it refers to something that it does not hold")
        self.stack.append(self.memo[index])

    def tuple_of(self, count: int) -> None:
        """Makes a tuple of the topmost values."""
        items = [self.pop() for _ in range(count)]
        self.stack.append(tuple(reversed(items)))

    def close(self, kind: Callable[[list[object]], object]) -> None:
        """Makes a container of the values since the last mark."""
        items = self.pop_mark()  # replaces the stack
        self.stack.append(kind(items))

    def close_dict(self) -> None:
        """Makes a dict of the keys and values since the last mark."""
        items = self.pop_mark()
        self.stack.append({})
        self.set_items(items)

    def discard(self) -> None:
        """Drops the topmost value, or the last mark if nothing is above it."""
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def discard_mark(self) -> None:
        """Drops the last mark and the values since."""
        self.pop_mark()

    def append(self, items: list[object]) -> None:
        """Adds to the list, or the stub of one, on top."""
        match self.top():
            case list(target):
                target.extend(items)
            case Stub() as stub:
                stub.items.extend(items)
            case _:
                raise CheckpointError("the pickle is damaged: it appends to something that is no list")

    def set_items(self, items: list[object]) -> None:
        """Sets keys and values, in turns, in the dict, or the stub of one, on top."""
        if len(items) % 2:
            raise CheckpointError("the pickle is damaged: a key without a value")
        match self.top():
            case dict(target):
                pass
            case Stub() as stub:
                target = stub.mapping
            case _:
                raise CheckpointError("the pickle is damaged: it sets keys of something that is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[rebuild.as_key(key)] = value

    def set_item(self) -> None:
        """Takes a value and its key and sets them in the dict below."""
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def add_items(self, items: list[object]) -> None:
        """Adds to the set on top."""
        match self.top():
            case set(target):
                target.update(map(rebuild.as_key, items))
            case _:
                raise CheckpointError("the pickle is damaged: it adds to something that is no set")
