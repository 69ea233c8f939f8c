"""Save and load: a JSON specification and a safetensors file, checked to the last byte. No pickle.

A run folder holds ``config.json`` (specification, table of tensors with their SHA-256, metadata, digest) and
``model.safetensors`` (weights, and the digest of the config they belong to). Two files cannot be replaced in one step, so
``save`` goes through a third: (1) the new weights appear as ``model.next.safetensors``; (2) ``config.json`` is replaced,
which is the moment of truth; (3) the weights take their final name. ``load`` takes whichever weights carry the digest of
the config it read, so a process killed at any point, or a reader in the middle of it, finds a whole model: the old one
before (2), the new one after.
"""

from bijectory.io.api import load, load_metadata, save
from bijectory.io.card import describe, model_card

__all__ = [
    "describe",
    "load",
    "load_metadata",
    "model_card",
    "save",
]
