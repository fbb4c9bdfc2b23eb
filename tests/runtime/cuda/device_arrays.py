"""Checked on a real GPU: arrays of numpy, PyTorch, CuPy and JAX in and out, of every element type. See device.py."""

from __future__ import annotations

import numpy as np

from temper.builder import build_plan
from temper.config import BuildConfig
from temper.errors import TemperError
from temper.plan.format import Plan
from temper.runtime.engine import Engine
from tests.runtime.cuda.checks import check, inputs, model, same


@check
def numpy_arrays(plan: Plan) -> str:
    import onnxruntime

    peer = onnxruntime.InferenceSession(model(), providers=["CPUExecutionProvider"])
    engine = Engine(plan)
    for batch in (1, 3):
        want = peer.run(None, {"x": inputs(batch)})[0]
        # six products in a row, of operands that drop bits after the 10th (TF32)
        np.testing.assert_allclose(engine(inputs(batch)), want, atol=float(abs(want).max()) * 6 * 2**-10)
    turned = np.asfortranarray(inputs(3))
    same(engine(turned), engine(inputs(3)))  # host arrays are made contiguous
    return "equal to ONNX Runtime within TF32"


@check
def torch_arrays(plan: Plan) -> str:
    import torch

    engine = Engine(plan)
    want = engine(inputs(3))
    x = torch.from_numpy(inputs(3)).cuda()
    y = engine(x)
    same(torch.from_dlpack(y).cpu(), want)
    out = torch.empty(3, 16, device="cuda")
    assert engine(x, out=out) is out
    same(out.cpu(), want)
    same(engine(x[:, :, :, :].clone()[1:], out=out[1:]).cpu(), want[1:])  # parts of arrays
    odd = torch.empty(3 * 8 * 256 + 1, device="cuda")[1:].view(3, 8, 16, 16)
    odd.copy_(x)
    same(engine(odd).numpy(), want)  # misaligned: copied
    for bad, words in ((x.half(), "dtype"), (x.permute(0, 1, 3, 2), "contiguous"), (x.cpu(), "not on a GPU")):
        try:
            engine(bad)
        except TemperError as e:
            assert "'x'" in str(e) and words in str(e), e
        else:
            raise AssertionError(words)
    return "in, out, parts, misaligned, wrong ones named"


class Shown:
    """An array of the GPU as its __cuda_array_interface__ shows it, changed in places."""

    def __init__(self, owner: object, **changed: object) -> None:
        self._owner = owner
        self.__cuda_array_interface__ = {**owner.__cuda_array_interface__, **changed}  # type: ignore[attr-defined]


@check
def odd_arrays(plan: Plan) -> str:
    """What a caller may give by mistake, or by right: every one is used, or refused with its name and what to do."""
    import cupy
    import torch

    engine = Engine(plan)
    want = engine(inputs(3))
    x = torch.from_numpy(inputs(3)).cuda()
    locked = inputs(3)
    locked.flags.writeable = False
    good = {
        "read-only numpy": locked,
        "a view of numpy": np.ascontiguousarray(np.swapaxes(inputs(3), 1, 3)).swapaxes(1, 3),
        "read-only on the GPU": Shown(x, data=(x.data_ptr(), True)),
        "strides of axes of one element": torch.as_strided(x[:1], (1, 8, 16, 16), (7, 256, 16, 1)),
        "strides that say nothing": Shown(x, strides=(8192, 1024, 64, 4)),
        "pinned": torch.from_numpy(inputs(3)).pin_memory().numpy(),
    }
    for a in good.values():
        got = np.asarray(engine(a))
        same(got, want[: len(got)])
    out = np.empty((3, 16), np.float32)
    assert engine(x, out=out) is out
    same(out, want)
    out[:] = 0
    assert engine({"x": x}, out={"y": out}) is out
    same(out, want)
    free = cupy.empty((3, 16), np.float32)
    assert engine(x, out=[free]) is free
    same(free.get(), want)
    needs = torch.nn.Parameter(x.clone())
    bad = [
        (x.requires_grad_(False).to(memory_format=torch.channels_last), "not contiguous"),
        (x[::2], "not contiguous"),
        (x.expand(3, 8, 16, 16)[:, :, :, ::2], "not contiguous"),
        (needs, "cannot be shared"),
        (x.int(), "dtype int32, expected float32"),
        (x.bfloat16(), "dtype bfloat16, expected float32"),
        (x.to(torch.complex64), "dtype complex64"),
        (x.cpu(), "not on a GPU"),
        (x[0], "rank 3 instead of 4"),
        (x[:0], "no profile of this plan holds N = 0"),
        (inputs(3)[:0], "no profile of this plan holds N = 0"),
        (cupy.asarray(x).astype(np.float16), "dtype float16"),
        (Shown(x, mask=x), "has a mask"),
        (Shown(x, stream=0, version=3), "names stream 0"),
        (inputs(3).astype(">f4"), "dtype >f4"),
        (inputs(3).tolist(), "is a list"),
        (None, "is a NoneType"),
    ]
    for a, words in bad:
        try:
            engine(a)
        except TemperError as e:
            assert "'x'" in str(e) or "profile" in words, e
            assert words in str(e), (words, e)
        else:
            raise AssertionError(f"taken: {words}")
    frozen = np.empty((3, 16), np.float32)
    frozen.flags.writeable = False
    wrong = [
        (Shown(cupy.empty((3, 16), np.float32), data=(free.data.ptr, True)), "is read-only"),
        (frozen, "read-only"),
        (torch.empty(3, 16), "not on a GPU"),
        (torch.empty(2, 16, device="cuda"), "has shape (2, 16), expected (3, 16)"),
        (torch.empty(16, 3, device="cuda").t(), "not contiguous"),
        (x.view(-1)[:48].view(3, 16), "shares memory with 'x'"),
    ]
    for out, words in wrong:
        try:
            engine(x, out=out)
        except TemperError as e:
            assert words in str(e), (words, e)
        else:
            raise AssertionError(f"written to: {words}")
    same(engine(x).numpy(), want)  # nothing of that has harmed the engine
    return f"{len(good) + 3} used, {len(bad) + len(wrong)} refused"


@check
def cupy_arrays(plan: Plan) -> str:
    import cupy

    engine = Engine(plan)
    want = engine(inputs(2))
    x = cupy.asarray(inputs(2))
    same(cupy.asarray(engine(x)).get(), want)
    same(cupy.from_dlpack(engine(x)).get(), want)

    class Old:  # the older of the two protocols alone
        __cuda_array_interface__ = x.__cuda_array_interface__

    same(engine(Old()).numpy(), want)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        y = engine.context(stream=stream)(x)
        same(cupy.asarray(y).get(), want)
    return "DLPack, CUDA array interface, its streams"


@check
def jax_arrays(plan: Plan) -> str:
    import jax

    engine = Engine(plan)
    x = jax.device_put(inputs(2))
    same(jax.dlpack.from_dlpack(engine(x)), engine(inputs(2)))
    return "in and out"


@check
def element_types(plan: Plan) -> str:
    """Every element type that a library has crosses by DLPack, in and out, bit by bit."""
    import ml_dtypes
    import torch
    from onnx import TensorProto, helper

    types = {
        "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64,
        "int8": torch.int8, "uint8": torch.uint8, "int16": torch.int16, "int32": torch.int32, "int64": torch.int64,
        "bool": torch.bool,
    }  # fmt: skip
    nodes, ins, outs = [], [], []
    for name in types:
        kind = getattr(TensorProto, name.upper().replace("FLOAT32", "FLOAT").replace("FLOAT64", "DOUBLE"))
        nodes.append(helper.make_node("Transpose", [name], [f"{name}_t"], perm=[1, 0]))
        ins.append(helper.make_tensor_value_info(name, kind, (5, 7)))
        outs.append(helper.make_tensor_value_info(f"{name}_t", kind, (7, 5)))
    graph = helper.make_graph(nodes, "types", ins, outs)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    engine = Engine(build_plan(made.SerializeToString(), BuildConfig(device="cuda", effort=0)).plan)
    drawn = torch.randint(0, 99, (5, 7), device="cuda")
    feeds = {name: (drawn % 2 if name == "bool" else drawn).to(t) for name, t in types.items()}
    got = engine(feeds)
    host = {n: x.cpu().numpy() for n, x in feeds.items() if n != "bfloat16"}
    host["bfloat16"] = feeds["bfloat16"].cpu().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    back = engine(host)
    assert isinstance(got, dict) and isinstance(back, dict)
    for name, x in feeds.items():
        y = torch.from_dlpack(got[f"{name}_t"])
        assert y.dtype == x.dtype and y.is_cuda
        assert torch.equal(y, x.t()), name
        assert back[f"{name}_t"].tobytes() == host[name].T.tobytes(), name
    return f"{len(types)}: {', '.join(types)}"
