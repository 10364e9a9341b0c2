"""The number formats of torch's storages and dtypes by their names in a pickle: safetensors' name, and bytes an element."""

from __future__ import annotations

from collections.abc import Mapping

DTYPES: Mapping[str, tuple[str, int]] = {
    "FloatStorage": ("F32", 4), "DoubleStorage": ("F64", 8), "HalfStorage": ("F16", 2), "BFloat16Storage": ("BF16", 2),
    "LongStorage": ("I64", 8), "IntStorage": ("I32", 4), "ShortStorage": ("I16", 2), "CharStorage": ("I8", 1),
    "ByteStorage": ("U8", 1), "BoolStorage": ("BOOL", 1), "UntypedStorage": ("U8", 1),
    "float8_e4m3fn": ("F8_E4M3", 1), "float8_e5m2": ("F8_E5M2", 1), "bfloat16": ("BF16", 2), "uint8": ("U8", 1),
    "uint16": ("U16", 2), "uint32": ("U32", 4), "uint64": ("U64", 8), "float8_e4m3fnuz": ("F8_E4M3FNUZ", 1),
    "float8_e5m2fnuz": ("F8_E5M2FNUZ", 1), "float8_e8m0fnu": ("F8_E8M0", 1), "complex64": ("C64", 8),
    "ComplexFloatStorage": ("C64", 8), "ComplexDoubleStorage": ("C128", 16), "complex128": ("C128", 16),
    "complex32": ("C32", 4), "float32": ("F32", 4), "float16": ("F16", 2), "float64": ("F64", 8),
    "int8": ("I8", 1), "int16": ("I16", 2), "int32": ("I32", 4), "int64": ("I64", 8), "bool": ("BOOL", 1),
}  # fmt: skip
