"""The search for a merge: methods and coefficients by layer, chosen on a few rows of a task (`loop.py`)."""
