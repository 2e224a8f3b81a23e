"""What the reproduction of stable fine-tuning is made of: the optimizer of the old code, and spreads over seeds."""
