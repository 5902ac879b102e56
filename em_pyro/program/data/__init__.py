"""What a model is given: arrays and frames become tensors, and observed values and weights are checked."""
