"""Which base to tune: scores of frozen features that say, before anything is tuned, how well it will go."""
