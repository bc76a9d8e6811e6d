"""Export: a collapsed network becomes a bundle."""

from edgemtl.export.bundle import Export, parse_export, write_bundle
from edgemtl.export.precision import Lowering, Material

__all__ = ["Export", "Lowering", "Material", "parse_export", "write_bundle"]
