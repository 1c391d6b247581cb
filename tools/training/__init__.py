"""What the recipes of the bundled models share: optimisation, finished stages, the command, a pipeline's folder."""
