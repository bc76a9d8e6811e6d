"""Export: a collapsed network becomes a bundle."""

from edgemtl.export.bundle import write_bundle
from edgemtl.export.precision import Lowering, Material
from edgemtl.export.spec import Export, parse_export

__all__ = ["Export", "Lowering", "Material", "parse_export", "write_bundle"]
