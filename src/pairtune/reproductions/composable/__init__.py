"""The made language, the base that knows it badly, and the arms of the composable sparse tuning reproduction."""
