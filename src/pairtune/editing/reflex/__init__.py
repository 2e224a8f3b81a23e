"""REFLEX: what a base and its variant disagree on, as directions that steer the variant (arXiv 2511.20233)."""
