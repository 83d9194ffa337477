"""The base of systems: claims, the lab, shared models, arms, results, the catalogue and the gallery."""
