"""A delta moved to another version of its base (`pair.py`), also straight into a checkpoint (`merged.py`)."""
