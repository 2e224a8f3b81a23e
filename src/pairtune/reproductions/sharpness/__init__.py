"""What the reproduction `clip-sharpness` is made of: images, a small vision transformer, measures, correlations."""
