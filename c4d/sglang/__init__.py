"""Caching in SGLang's diffusion runtime: the plugin that it finds (``plugin.py``), and what hangs on its loop."""
