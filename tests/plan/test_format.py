"""The .plan file: round trip, determinism, and an error for every kind of damage."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from temper.errors import BuildError, PlanError
from temper.ir.dims import Dim
from temper.plan import container
from temper.plan import file as plan_file
from temper.plan import format as plan_format
from temper.plan.format import Binding, HostStep, Launch, Plan, Ref
from tests.runtime.handmade import host_plan, make_plan


@pytest.fixture(scope="module")
def data() -> bytes:
    return plan_file.to_bytes(replace(host_plan(), graph=b"graph text"))


def _same(a: Plan, b: Plan) -> bool:
    return all(
        bytes(x) == bytes(y) if isinstance(x, memoryview) else x == y
        for x, y in ((getattr(a, f), getattr(b, f)) for f in vars(a))
    )


def _resealed(data: bytes, at: int, value: bytes) -> bytes:
    """The file with header bytes changed and the header's checksum made to match again."""
    changed = bytearray(data)
    changed[at : at + len(value)] = value
    end = struct.unpack_from("<I", data, 12)[0]
    changed[end - 4 : end] = struct.pack("<I", zlib.crc32(changed[: end - 4]))
    return bytes(changed)


def test_round_trip_through_file_and_bytes(tmp_path: Path, data: bytes) -> None:
    plan = replace(host_plan(), graph=b"graph text")
    plan_file.write(plan, tmp_path / "a.plan")
    assert (tmp_path / "a.plan").read_bytes() == data
    for read in (
        plan_file.read(tmp_path / "a.plan"),
        plan_file.from_bytes(data),
        plan_file.verify(tmp_path / "a.plan"),
    ):
        assert _same(read, plan)
        assert plan_file.to_bytes(read) == data


def test_equal_plans_give_equal_bytes_whatever_the_order_of_keys() -> None:
    a = make_plan(report={"b": 1, "a": {"y": 2, "x": 3}})
    b = make_plan(report={"a": {"x": 3, "y": 2}, "b": 1})
    assert plan_file.to_bytes(a) == plan_file.to_bytes(b)


def test_constants_are_mapped_page_aligned(tmp_path: Path) -> None:
    plan_file.write(make_plan(), tmp_path / "a.plan")
    constants = plan_file.read(tmp_path / "a.plan").constants
    assert np.frombuffer(constants, np.uint8).ctypes.data % container.CONSTANT_ALIGNMENT == 0
    with pytest.raises(TypeError):
        constants[0] = 1


def test_every_altered_byte_is_noticed(data: bytes) -> None:
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1 << (at % 8)
        with pytest.raises(PlanError, match="section|not a Temper plan|plan format|header"):
            plan_file.from_bytes(bytes(changed))


def test_the_damaged_section_is_named(data: bytes) -> None:
    entry = struct.Struct("<16sQQII32s")
    count = struct.unpack_from("<I", data, 16)[0]
    for i in range(count):
        name, offset, length, _, _, _ = entry.unpack_from(data, 32 + i * entry.size)
        changed = bytearray(data)
        changed[offset + length // 2] ^= 0x10
        with pytest.raises(PlanError, match=f"section '{name.rstrip(bytes(1)).decode()}'.*build the plan anew"):
            plan_file.from_bytes(bytes(changed))


def test_every_truncation_is_noticed(data: bytes) -> None:
    for length in [*range(600), *range(600, len(data), 37), len(data) - 1]:
        with pytest.raises(PlanError):
            plan_file.from_bytes(data[:length])
    with pytest.raises(PlanError, match="bytes"):
        plan_file.from_bytes(data + b"\0")


def test_damage_in_a_big_section(tmp_path: Path) -> None:
    constants = np.arange(3 << 20, dtype=np.uint32).tobytes() + b"tail"
    path = tmp_path / "big.plan"
    plan_file.write(make_plan(constants=constants), path)
    plan_file.read(path)
    size = path.stat().st_size
    with open(path, "r+b") as f:
        for at in (size - 1, size - len(constants), size - len(constants) // 2, size - (4 << 20), size - (8 << 20) - 1):
            f.seek(at)
            old = f.read(1)
            f.seek(at)
            f.write(bytes([old[0] ^ 1]))
            f.flush()
            with pytest.raises(PlanError, match="'constants'"):
                plan_file.read(path)
            f.seek(at)
            f.write(old)
            f.flush()
    plan_file.read(path)


def test_another_version_is_told_apart_from_damage(data: bytes) -> None:
    with pytest.raises(PlanError, match="plan format 99.*reads format 3"):
        plan_file.from_bytes(_resealed(data, 8, struct.pack("<I", 99)))


def test_sections_outside_the_file_and_foreign_names(data: bytes) -> None:
    for at, value in ((32 + 16, struct.pack("<Q", 1 << 40)), (32 + 24, struct.pack("<Q", 1 << 40)), (32, b"weights\0")):
        with pytest.raises(PlanError, match="section"):
            plan_file.from_bytes(_resealed(data, at, value))


def test_verify_also_checks_sha256(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.plan"
    path.write_bytes(_resealed(data, 32 + 40, bytes(32)))
    plan_file.read(path)
    with pytest.raises(PlanError, match="SHA-256 of section 'manifest'"):
        plan_file.verify(path)


@pytest.mark.parametrize("content", [b"", b"x", b"\x7fELF" + bytes(500), b"onnx" * 100])
def test_files_that_are_no_plans(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.plan"
    path.write_bytes(content)
    with pytest.raises(PlanError, match="other.plan"):
        plan_file.read(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"none\.plan"):
        plan_file.read(tmp_path / "none.plan")
    with pytest.raises(PlanError, match="cannot read"):
        plan_file.read(tmp_path)


def test_unwritable_targets_leave_nothing(tmp_path: Path) -> None:
    plan = make_plan()
    with pytest.raises(BuildError, match="does not exist"):
        plan_file.write(plan, tmp_path / "no" / "a.plan")
    with pytest.raises(BuildError, match="not a regular file"):
        plan_file.write(plan, tmp_path)
    with pytest.raises(BuildError, match="not a regular file"):
        plan_file.write(plan, "/dev/full")
    with pytest.raises(BuildError, match="cannot write"):
        plan_file.write(plan, "/proc/a.plan")
    assert list(tmp_path.iterdir()) == []


def test_symlink_targets_are_replaced_not_the_link(tmp_path: Path) -> None:
    (tmp_path / "real.plan").write_bytes(b"old")
    (tmp_path / "link.plan").symlink_to("real.plan")
    plan_file.write(make_plan(), tmp_path / "link.plan")
    assert (tmp_path / "link.plan").is_symlink()
    plan_file.read(tmp_path / "real.plan")


def test_no_space_left_keeps_the_old_plan(tmp_path: Path) -> None:
    """A file-size limit stops the write half-way, as a full disk does."""
    (tmp_path / "a.plan").write_bytes(b"old")
    code = (
        "import resource, signal, sys\n"
        "from tests.runtime.handmade import make_plan; from temper.plan import file as f\n"
        "from temper.errors import BuildError\n"
        "plan = make_plan(constants=bytes(1 << 20)); signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, 1 << 18))\n"
        "try: f.write(plan, sys.argv[1])\n"
        "except BuildError as e: print(e)\n"
        "else: sys.exit('no error')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.plan")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "cannot write" in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["a.plan"]
    assert (tmp_path / "a.plan").read_bytes() == b"old"


def test_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BuildError, match="disk is full"):
        plan_file.write(make_plan(), tmp_path / "a.plan")
    assert list(tmp_path.iterdir()) == []


def test_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        plan_file.write(make_plan(), tmp_path / "a.plan")
    assert list(tmp_path.iterdir()) == []


def test_attributes_survive() -> None:
    n = Dim.symbol("N")
    attrs = {
        "axis": -1,
        "alpha": 0.1,
        "big": float("inf"),
        "mode": "linear",
        "pads": (0, 1, (2, 3)),
        "flag": True,
        "size": (n * 2, 4),
        "table": np.arange(6, dtype=np.int8).reshape(2, 3),
        "none": (),
        "scalar": np.float32(0.5),
    }
    back = plan_format.unpack_attrs(plan_format.pack_attrs(attrs), {"N": 5})
    table = back.pop("table")
    assert table.dtype == np.int8 and np.array_equal(table, attrs.pop("table"))
    assert back == {**attrs, "size": (10, 4), "scalar": 0.5}
    with pytest.raises(TypeError, match="body"):
        plan_format.pack_attrs({"body": object()})


def test_contradictions_are_refused_when_made() -> None:
    with pytest.raises(ValueError, match="kind of reference"):
        Ref("register")
    with pytest.raises(ValueError, match="at least one entry"):
        Launch((), ())
    with pytest.raises(ValueError, match="barrier"):
        Launch(("k",), (Ref("shared"),), barrier=False)
    with pytest.raises(ValueError, match="profile"):
        make_plan(buffers=())


def test_manifest_that_contradicts_itself(data: bytes) -> None:
    plan = make_plan()
    broken = replace(
        plan, inputs=(Binding("x", "float32", ("N", 16)),), programs=((HostStep("Relu", {}, (), (), "r"),),)
    )
    text = plan_file.to_bytes(broken).replace(b'"host":["Relu"', b'"huts":["Relu"')
    with pytest.raises(PlanError):
        plan_file.from_bytes(text)
    offset = struct.unpack_from("<Q", text, 48)[0]
    span = text[offset : struct.unpack_from("<Q", text, 48 + 72)[0]]
    with pytest.raises(PlanError, match="'manifest' contradicts itself"):
        plan_file.from_bytes(_resealed(text, 32 + 32, struct.pack("<I", container.checksum(span))))
