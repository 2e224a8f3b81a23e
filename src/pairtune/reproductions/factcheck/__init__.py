"""The made world and the arms of the REFLEX reproduction."""
