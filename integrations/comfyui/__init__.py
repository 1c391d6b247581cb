"""c4d's nodes where ComfyUI looks for them; they are in the package (c4d/comfyui)."""

from c4d.comfyui.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
