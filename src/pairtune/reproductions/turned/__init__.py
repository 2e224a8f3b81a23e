"""What the reproduction `equitune` is made of: upright and turned digits."""
