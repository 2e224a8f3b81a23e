"""What the reproduction of linearised fine-tuning is made of."""
