"""One side of one transfer, whoever connected."""
