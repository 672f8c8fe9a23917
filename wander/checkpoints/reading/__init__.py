"""How a checkpoint file is read without running anything in it. `wander.checkpoints.reader` stands on this."""
