"""What the reproduction of LocFT-BF is made of."""
