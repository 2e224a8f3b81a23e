"""The two worlds of the GRASP reproduction, the arms, and what is measured of each."""
