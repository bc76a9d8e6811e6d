"""Export: a collapsed network becomes a bundle.

``bundle`` does it, in this order. ``spec`` and ``targets`` say for whom, ``refusals`` and ``operators``
refuse what no such device runs. ``onnx`` cuts the network along its plan into fp32 files, and ``heads``
joins heads for ONNX Runtime. ``precision`` lowers the files, deciding once on the ``graph`` of all parts
(``calibrate``, ``equalize``, ``int8``, ``fp16``, ``budget``). ``siblings`` and ``upsampling`` rewrite what
ONNX Runtime would run slowly; for boards ``jetson`` and ``weak`` add the scripts of ``device/`` and what
they must tell TensorRT.
"""

from edgemtl.export.bundle import write_bundle
from edgemtl.export.precision import Lowering, Material
from edgemtl.export.spec import Export, parse_export

__all__ = ["Export", "Lowering", "Material", "parse_export", "write_bundle"]
