"""Torch M-steps: climb `Q` by Newton, L-BFGS or Adam, block by block."""
