"""The recipes: how the adapter of a task is trained. One task a file, under the task's name."""

from wander.registry import Registry
from wander.training.recipes.base import Notify, Recipe, RecipeSettings, Trained

recipes: Registry[Recipe] = Registry("wander.training.recipes", Recipe)

__all__ = ["Notify", "Recipe", "RecipeSettings", "Trained", "recipes"]
