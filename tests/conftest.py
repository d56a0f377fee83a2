"""Shared by all tests: one thread each, since they run side by side."""

import torch

torch.set_num_threads(1)
