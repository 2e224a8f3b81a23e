"""What the reproduction of CorDA is made of."""
