"""Names of element types in catalogues, and what numpy and PyTorch call them."""

from __future__ import annotations

import numpy as np

from ._errors import Error

NUMPY = {
    "f64": "<f8",
    "f32": "<f4",
    "f16": "<f2",
    # numpy has no bfloat16: its bits come as they are.
    "bf16": "<u2",
    "i64": "<i8",
    "i32": "<i4",
    "i16": "<i2",
    "i8": "|i1",
    "u64": "<u8",
    "u32": "<u4",
    "u16": "<u2",
    "u8": "|u1",
    "bool": "|b1",
}


def dtype_of(name: str) -> np.dtype:
    """The numpy type of a catalogue's name."""
    try:
        return np.dtype(NUMPY[name])
    except KeyError:
        raise Error(f"{name!r} is no element type; expected one of {', '.join(NUMPY)}") from None


def name_of(dtype: np.dtype) -> str:
    """The catalogue's name of a numpy type."""
    for name, code in NUMPY.items():
        if name != "bf16" and np.dtype(code) == dtype:
            return name
    raise Error(f"arrays of {dtype} cannot be offered; expected one of {', '.join(NUMPY)}")


def as_array(value: object) -> tuple[np.ndarray, str]:
    """A numpy array over what was given, and the name of its element type. PyTorch tensors are
    taken from the CPU without a copy, bfloat16 among them."""
    if type(value).__module__.split(".")[0] == "torch":
        tensor = value.detach().cpu().contiguous()  # type: ignore[attr-defined]
        if str(tensor.dtype) == "torch.bfloat16":
            import torch

            return tensor.view(torch.int16).numpy().view(np.uint16), "bf16"
        value = tensor.numpy()
    array = np.asarray(value)
    little = array.dtype.newbyteorder("<")
    array = array.astype(little, copy=False)
    # ascontiguousarray would give a scalar a dimension.
    return array if array.flags.c_contiguous else array.copy(order="C"), name_of(little)


def to_torch(array: np.ndarray, name: str):
    """A PyTorch tensor over the same memory."""
    import torch

    if not array.flags.writeable:
        # PyTorch knows no read-only memory: another process's stays as it is.
        array = array.copy()
    if name == "bf16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
