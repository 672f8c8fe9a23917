"""The tabs of the page: one file for every task that can be shown, called as the task is."""

from demo.tabs.base import Tab
from wander.registry import Registry

tabs: Registry[Tab] = Registry("demo.tabs", Tab)

__all__ = ["Tab", "tabs"]
