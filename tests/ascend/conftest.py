"""The tests in ``simulated`` import torch_npu and run in processes of their own, which test_simulated.py starts."""

import os

collect_ignore = [] if os.environ.get("C4D_SIM_DEVICES") else ["simulated"]
