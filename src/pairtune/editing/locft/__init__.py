"""Facts edited into a model by fine-tuning one place of it; see `ways.py`."""
