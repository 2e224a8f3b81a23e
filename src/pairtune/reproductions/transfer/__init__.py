"""What the reproduction of fine-tuning transfer is made of."""
