"""From a model's name to a saved clip: load, generate, compare, write. The command line is a thin layer over this."""

from c4d.pipelines.arguments import call_arguments, effective
from c4d.pipelines.compare import run_interleaved
from c4d.pipelines.directory import locate
from c4d.pipelines.errors import GenerationError, InputError, OutputError
from c4d.pipelines.generate import Clip, Stepped, generate
from c4d.pipelines.job import produce
from c4d.pipelines.load import compile_blocks, load_pipeline, parse_dtype, parse_history_dtype
from c4d.pipelines.memory import memory_explained
from c4d.pipelines.modes import check_encoding, check_memory, encode_first
from c4d.pipelines.output import check_writable, exclusive_lock, numbered
from c4d.pipelines.ranks import check_ranks
from c4d.pipelines.request import Request
from c4d.pipelines.results import kept, results, write_index, write_manifest, write_manifest_together
from c4d.pipelines.settings import Settings
from c4d.pipelines.skeleton import base_pipeline, check_attention, check_method, skeleton
from c4d.pipelines.why import NAMES as PHASES

__all__ = [
    "PHASES",
    "Clip",
    "GenerationError",
    "InputError",
    "OutputError",
    "Request",
    "Settings",
    "Stepped",
    "base_pipeline",
    "call_arguments",
    "check_attention",
    "check_encoding",
    "check_memory",
    "check_method",
    "check_ranks",
    "check_writable",
    "compile_blocks",
    "effective",
    "encode_first",
    "exclusive_lock",
    "generate",
    "kept",
    "load_pipeline",
    "locate",
    "memory_explained",
    "numbered",
    "parse_dtype",
    "parse_history_dtype",
    "produce",
    "results",
    "run_interleaved",
    "skeleton",
    "write_index",
    "write_manifest",
    "write_manifest_together",
]
