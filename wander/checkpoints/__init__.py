"""Reading checkpoints safely, our adapter folder, and conversion of checkpoints in their authors' formats."""
