"""The tasks: what a request means, what its tensors are, and what an answer says. One task per file; no torch."""

from wander.registry import Registry
from wander.tasks.base import Operation, Task

tasks: Registry[Task] = Registry("wander.tasks", Task)

__all__ = ["Operation", "Task", "tasks"]
