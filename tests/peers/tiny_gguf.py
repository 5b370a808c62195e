"""A small GGUF file with every type of value and every readable type of tensor, and what the `gguf` package reads in it.

    python tiny_gguf.py [--out FOLDER]

Writes tiny.gguf and tiny.json: the metadata, and for each tensor its shape, type, place, and its numbers as the bits of
f32. Blocks are random bits, their scales any finite half. One tensor is of a type that is not readable.
"""
import argparse
import json
import pathlib
from importlib.metadata import version

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Q
from gguf import GGUFValueType as V

VALUES = {
    "tiny.u8": (V.UINT8, 200),
    "tiny.i8": (V.INT8, -100),
    "tiny.u16": (V.UINT16, 60000),
    "tiny.i16": (V.INT16, -30000),
    "tiny.u32": (V.UINT32, 4000000000),
    "tiny.i32": (V.INT32, -2000000000),
    "tiny.u64": (V.UINT64, 1 << 63),
    "tiny.i64": (V.INT64, -(1 << 62)),
    "tiny.f32": (V.FLOAT32, 0.1),
    "tiny.f64": (V.FLOAT64, 0.1),
    "tiny.yes": (V.BOOL, True),
    "tiny.no": (V.BOOL, False),
    "tiny.string": (V.STRING, "naïve 你好 😀\n"),
    "tiny.empty": (V.STRING, ""),
}
ARRAYS = {
    "tiny.i32s": (V.INT32, [-3, 0, 1 << 30]),
    "tiny.f32s": (V.FLOAT32, [0.5, -1.25, 3.0]),
    "tiny.u8s": (V.UINT8, [0, 255]),
    "tiny.strings": (V.STRING, ["a", "", "é😀", "long " * 9]),
}
# name: type, shape with the length of a row last
TENSORS = {
    "single": (Q.F32, [3, 5]),
    "half": (Q.F16, [2, 2, 9]),
    "brain": (Q.BF16, [17]),
    "q8": (Q.Q8_0, [3, 64]),
    "q4": (Q.Q4_0, [2, 96]),
    "q4m": (Q.Q4_1, [5, 32]),
    "q5": (Q.Q5_0, [2, 64]),
    "q5m": (Q.Q5_1, [3, 32]),
    "q4k": (Q.Q4_K, [2, 256]),
    "q5k": (Q.Q5_K, [1, 512]),
    "q6k": (Q.Q6_K, [2, 256]),
    "unreadable": (Q.Q2_K, [1, 256]),
}
# Where the upper bytes of a block's halves are.
HALVES = {Q.Q4_1: (1, 3), Q.Q5_1: (1, 3), Q.Q4_K: (1, 3), Q.Q5_K: (1, 3), Q.Q6_K: (209,)}


def blocks(rng, kind, count):
    """`count` random blocks whose scales are finite."""
    size = gguf.GGML_QUANT_SIZES[kind][1]
    data = rng.integers(0, 256, (count, size), np.uint8)
    if kind in (Q.F32, Q.BF16, Q.F16):
        data[:, -1] &= 0xBF  # clears the top bit of the exponent: finite, and no larger than 2
    else:
        for at in HALVES.get(kind, (1,)):
            data[:, at] &= 0xBF
    return data


if __name__ == "__main__":
    here = pathlib.Path(__file__).resolve().parents[2]
    args = argparse.ArgumentParser()
    args.add_argument("--out", type=pathlib.Path, default=here / "crates/regard-models/tests/data")
    args = args.parse_args()

    rng = np.random.default_rng(20)
    path = args.out / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "tiny")
    for key, (kind, value) in VALUES.items():
        writer.add_key_value(key, value, kind)
    for key, (kind, value) in ARRAYS.items():
        writer.add_key_value(key, value, V.ARRAY, kind)
    for name, (kind, shape) in TENSORS.items():
        per, size = gguf.GGML_QUANT_SIZES[kind]
        data = blocks(rng, kind, int(np.prod(shape)) // per)
        writer.add_tensor(name, data.reshape(*shape[:-1], shape[-1] // per * size), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    reader = gguf.GGUFReader(path)
    tensors = {}
    for t in reader.tensors:
        entry = {"type": t.tensor_type.name, "dims": t.shape.tolist(), "offset": int(t.data_offset), "bytes": int(t.n_bytes)}
        if t.name != "unreadable":
            numbers = gguf.dequantize(t.data, t.tensor_type).astype(np.float32, copy=False)
            entry["bits"] = numbers.reshape(-1).view(np.uint32).tolist()
        tensors[t.name] = entry
    values = {key: value for key, (_, value) in (VALUES | ARRAYS).items()}
    body = {"programs": {"gguf": version("gguf")}, "values": values, "tensors": tensors}
    (args.out / "tiny.json").write_text(json.dumps(body, ensure_ascii=False) + "\n")
