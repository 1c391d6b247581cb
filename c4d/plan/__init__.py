"""What a model, a method and a number of devices take, before any of them is there: run on tensors without numbers."""
