"""The launch kit for multi-GPU supervised fine-tuning."""

__version__ = "0.1.0"
