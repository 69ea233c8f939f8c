"""Kernels: pure functions on tensors, both directions side by side; they import torch and nothing else."""
