"""What is merged: checkpoints, adapters and deltas, opened as sources of tensors and compared before anything runs."""
