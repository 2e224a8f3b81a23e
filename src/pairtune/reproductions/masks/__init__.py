"""A small promptable segmentation model, its scenes and its pool, for merges that are measured on masks."""
