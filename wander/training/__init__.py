"""The papers' recipes, small: data sets as items of a task, a training loop, and what is done with both."""
