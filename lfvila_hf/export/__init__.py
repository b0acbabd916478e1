# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""LF-VILA outside of PyTorch: both towers as ONNX or OpenVINO graphs in one folder.

`lfvila-hf export` (or `lfvila_hf.export.exporting.export_model`) writes the folder, `ExportedLFVila.from_pretrained`
opens it. Needs `pip install 'lfvila_hf[onnx]'` or `'lfvila_hf[openvino]'`; docs/export.md is the guide.
"""

from __future__ import annotations

from lfvila_hf.export.exported_model import ExportedLFVila

__all__ = ["ExportedLFVila"]
