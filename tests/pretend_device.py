"""A second device made of plain tensors: what meets must be there, as on a GPU.

`Far` holds an ordinary tensor and says it is on cuda:0; an operation on far and near tensors, or
`.numpy()` of a far one, raises as on a real GPU. Real numbers, so results are compared with the
CPU's. What it cannot show: kernels that differ, and speed.
"""

from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

FAR = torch.device("cuda", 0)
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}
"""Operations that take near indices to far tensors, as CUDA does."""


class Far(torch.Tensor):
    """A tensor on the pretended device."""

    inner: torch.Tensor
    device = property(lambda self: FAR)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "Far":
        return torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
        )

    def __init__(self, inner: torch.Tensor) -> None:
        self.inner = inner

    def numpy(self, *_: object, **__: object) -> Any:
        """As a tensor on a GPU."""
        raise TypeError("a far tensor is no array: use .cpu() first")

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = tree_leaves((args, kwargs))
        far = [one for one in leaves if isinstance(one, Far)]
        near = [
            one for one in leaves
            if isinstance(one, torch.Tensor) and not isinstance(one, Far) and one.dim()
        ]  # fmt: skip
        name = func._schema.name.split("::")[1]
        allowed = name == "copy_" or (name in INDEXED and isinstance(args[0], Far))
        if near and not allowed:
            raise RuntimeError(f"{name}: far and near tensors, {[tuple(n.shape) for n in near]}")
        out = func(*tree_map(near_of, args), **tree_map(near_of, kwargs or {}))
        if name.endswith("_") or not func._schema.returns:
            return args[0] if func._schema.returns else None
        known = {id(one.inner): one for one in far}
        return tree_map(lambda one: known.get(id(one)) or far_of(one), out)


class Pretending(TorchFunctionMode):
    """While open, "cuda" is the pretended device."""

    def __enter__(self) -> "Pretending":
        # Or a module keeps its near parameters and only their data is replaced.
        self._before = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch.__future__.set_overwrite_module_params_on_conversion(self._before)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        if name in ("cpu", "tolist"):
            return near_of(args[0]) if name == "cpu" else func(near_of(args[0]))
        if name == "to":
            return moved(func, args[0], args[1:], kwargs)
        if name == "backward":
            with self:  # own backward functions make tensors too
                engine = torch.autograd.Variable._execution_engine
                gradient = far_of(torch.ones_like(near_of(args[0])))
                return engine.run_backward(
                    (args[0],), (gradient,), False, False, (), True, accumulate_grad=True
                )
        if name == "new_tensor":
            found = func(near_of(args[0]), *args[1:], **kwargs)
            return far_of(found) if isinstance(args[0], Far) else found
        if name == "embedding_bag" and isinstance(args[0], Far) and args[0].dim() == 2:
            args, kwargs = bags(args, kwargs)
        device = device_of(kwargs.get("device"))
        if device is None or device.type != FAR.type:
            return func(*args, **kwargs)
        return tree_map(far_of, func(*tree_map(near_of, args), **kwargs | {"device": "cpu"}))


def moved(func: Any, tensor: torch.Tensor, asked: tuple, kwargs: dict[str, Any]) -> torch.Tensor:
    """``tensor.to(…)``: its dtype here, its device as pretended."""
    device = device_of(kwargs.pop("device", None))
    kwargs.pop("non_blocking", None)
    dtype = kwargs.pop("dtype", None)
    for one in asked:
        if isinstance(one, torch.Tensor):
            device, dtype = one.device, one.dtype
        elif isinstance(one, torch.dtype):
            dtype = one
        device = device_of(one) or device
    found = func(tensor, dtype) if dtype else tensor
    if device is None:
        return found
    return near_of(found) if device.type == "cpu" else far_of(found.detach())


def bags(args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """``embedding_bag`` of rows as one of bags with offsets; it would make them on a real GPU."""
    indices, weights = args[0], kwargs["per_sample_weights"]
    starts = torch.arange(0, indices.numel(), indices.shape[1])
    flat = {"offsets": Far(starts), "per_sample_weights": weights.reshape(-1)}
    return (indices.reshape(-1), *args[1:]), kwargs | flat


def device_of(asked: Any) -> torch.device | None:
    """The device that an argument names, if it names one."""
    if isinstance(asked, str) and asked.partition(":")[0] in ("cpu", "cuda"):
        return torch.device(asked)
    return asked if isinstance(asked, torch.device) else None


def near_of(one: Any) -> Any:
    """The plain tensor behind a far one; anything else as it is."""
    return one.inner if isinstance(one, Far) else one


def far_of(one: Any) -> Any:
    """A far tensor of a plain one; anything else as it is."""
    return Far(one) if isinstance(one, torch.Tensor) and not isinstance(one, Far) else one
