"""What the reproduction of FineTuneBench is made of."""
