"""What a merge leaves: a checkpoint, a delta or a PEFT folder, the files beside the weights, and the check of them."""
