"""One thread a worker: the suite runs two workers, and tiny models only lose time on more."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if not os.environ.get("C4D_TEST_DEVICE"):
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is first imported, by whichever test that is

import torch

torch.set_num_threads(1)
