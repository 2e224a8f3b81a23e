"""Repair a pair: change facts that it says, take out what it should not lean on."""
