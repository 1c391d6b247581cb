"""Measurements on an accelerator: kernels, bandwidth, attention, and loops of real-size transformers.

``bench/gpu.sh`` runs it; bench/accelerator/README.md says how.
"""
