"""Looking into a model while it generates: where its attention goes."""
