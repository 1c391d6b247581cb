"""Measurements on an accelerator: kernels, bandwidth, attention, clips, ranks, and loops of real-size transformers.

``bench/gpu.sh`` and ``bench/npu.sh`` run it; bench/accelerator/README.md says how.
"""
