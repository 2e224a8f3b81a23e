"""The experiments of the reproduction `likelihood-ratio-ood`, one file each."""
