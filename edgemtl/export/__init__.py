"""Export: a collapsed network becomes a bundle."""

from edgemtl.export.bundle import Export, parse_export, write_bundle

__all__ = ["Export", "parse_export", "write_bundle"]
