"""What systems stand on: claims, the lab, shared bases, arms, results, the catalogue's scan, the gallery."""
