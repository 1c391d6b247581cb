"""Caching in ComfyUI: what hangs on its models (``sampling.py``), where its samplers stand (``steps.py``), nodes."""
