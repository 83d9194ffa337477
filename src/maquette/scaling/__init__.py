"""The scaling station: what to train, before anything is spent."""
