"""GRASP: find the direction that tuning on narrow data also learns, and tune again without it (`pairtune scrub`)."""
