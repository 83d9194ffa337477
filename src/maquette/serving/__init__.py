"""The serving station: use a trained model."""
