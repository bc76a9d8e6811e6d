"""edgemtl: train, collapse, export, verify and measure multitask networks for edge devices."""

__version__ = "0.1.0"
