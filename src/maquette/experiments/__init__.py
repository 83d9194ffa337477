"""What systems stand on: claims, the lab and its cached bases, arms, statistics, the catalogue's scan."""
