"""pairtune: fine-tuned models as pairs of a base and a delta."""
