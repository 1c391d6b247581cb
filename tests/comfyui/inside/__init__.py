"""Tests inside ComfyUI's own engine, which is told to take the CPU before it looks for a device."""

import comfy.cli_args

comfy.cli_args.args.cpu = True
