"""Planner for OFT as PEFT 0.14 and 0.15 computed it: BOFT with one butterfly factor is the same to this day."""

from __future__ import annotations

from collections import defaultdict
from math import prod
from typing import Any

from adapter_doctor.facts import BaseModules, Missing
from adapter_doctor.formats.adapter_keys import AdapterKey, parse
from adapter_doctor.repair.plan import CannotMend, Case, Step
from adapter_doctor.repair.recipes import Joined, Permuted, Recipe

_OWN = {"r", "oft_block_size", "module_dropout", "coft", "eps", "block_share", "rank_pattern", "alpha_pattern"}
_RUN = "merge it with `pip install 'peft=={}' 'transformers=={}'`"


def turn_rotations(case: Case) -> Step | None:
    """Blocks of `oft_r` and the scales of `oft_s` as `boft_R` and `boft_s`.

    Both methods give diag(s) · W · Rᵀ, where R is block-diagonal with (I - S)(I + S)⁻¹ of S = (A - Aᵀ) / 2 for each block
    A of the file (`Linear.forward` in tuners/oft/layer.py of PEFT 0.15.2 and tuners/boft/layer.py of 0.21.2). OFT
    of 0.16 and later has no scale. That of 0.7 to 0.13 is D · W, with blocks on what the layer gives.
    """
    config, base = case.draft.config, case.facts.get(BaseModules)
    modules: dict[str, dict[str, AdapterKey]] = defaultdict(dict)
    for one in map(parse, case.draft.tensors):
        if one is not None and one.parameter in ("oft_r", "oft_s"):
            modules[one.module][one.parameter] = one
    if config.get("peft_type") != "OFT" or not modules or isinstance(base, Missing):
        return None
    if not any("oft_s" in own for own in modules.values()):
        raise CannotMend(
            "OFT of PEFT 0.7 to 0.13 rotated what a layer gives, and OFT and BOFT of today rotate what it takes: on the same"
            f" weights, none of these is the same update; {_RUN.format('0.13.2', '4.46.3')}"
        )
    if config.get("coft"):
        raise CannotMend(
            f"PEFT 0.14 and 0.15 shrink the rotations of `coft` at each use, and BOFT does not; {_RUN.format('0.15.2', '4.51.3')}"
        )
    if config.get("bias") not in (None, "none"):
        raise CannotMend(f"`bias` is {config.get('bias')!r}, and biases of OFT are not taken over")
    makes: dict[str, Recipe] = {}
    renames, sizes, numbers = {}, set[int](), set[int]()
    for name, own in modules.items():
        width = base.modules[name].width if name in base.modules else None
        if width is None or base.modules[name].kind not in ("linear", "conv1d"):
            raise CannotMend(f"{name} is no linear layer of the base")
        if own.keys() != {"oft_r", "oft_s"}:
            raise CannotMend(f"{name} has only one of `oft_r` and `oft_s`")
        blocks = case.draft.tensors[own["oft_r"].key]
        if len(blocks.shape) != 3 or 0 in blocks.shape:
            raise CannotMend(f"{name} has blocks of shape {list(blocks.shape)}, expected three sizes above 0")
        number, size, _ = blocks.shape
        if number == 1 and width[1] != size:  # shared by all blocks
            number = width[1] // size
            blocks = Joined((blocks,) * number)
        if number * size != width[1] or blocks.shape != (number, size, size):
            raise CannotMend(f"{name} takes {width[1]} values, and its blocks rotate {prod(blocks.shape[:2])}")
        makes[_renamed(own["oft_r"])] = Permuted(blocks, blocks.shape, (0, 1, 2), (1, *blocks.shape))
        renames[own["oft_s"].key] = _renamed(own["oft_s"])
        sizes.add(size)
        numbers.add(number)
    if len(sizes) > 1 and len(numbers) > 1:
        raise CannotMend(
            f"the layers have {len(sizes)} sizes of blocks and {len(numbers)} numbers of them, and BOFT has one"
        )
    shape: dict[str, Any] = {"boft_block_size": sizes.pop(), "boft_block_num": 0} if len(sizes) == 1 else {"boft_block_size": 0, "boft_block_num": numbers.pop()}  # fmt: skip
    return Step(
        "AD224",
        f"make the OFT of {len(modules)} layers BOFT with one butterfly factor, which computes what PEFT 0.14 and 0.15 did",
        renames,
        makes,
        frozenset(own["oft_r"].key for own in modules.values()),
        {"peft_type": "BOFT", **shape, "boft_n_butterfly_factor": 1, "boft_dropout": config.get("module_dropout", 0.0)},
        frozenset(_OWN & config.keys()),
    )


def _renamed(one: AdapterKey) -> str:
    return f"{one.prefix}{one.module}.b{one.parameter.replace('_r', '_R')}{one.tail}"
