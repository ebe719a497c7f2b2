"""Batch pipeline for LLM /messages calls."""

__version__ = "0.1.0"
