"""The shared memory that the Triton kernels take, by compiling them for cards that are not here.

A kernel that asks for more than a card has fails when it is launched, in the first step of a trial;
and a data-centre card has twice as much as the cards people own.
"""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from workbench.footprint.model.linear_attention import CHUNK
from workbench.training.decode.kernels import cached_attention, nf4_product
from workbench.training.step.kernels import (
    attention,
    cross_entropy,
    delta_states,
    gated_linear,
    lora_down,
    lora_up,
    norm,
    partial_sums,
    rotary,
    triton_support,
)
from workbench.training.step.kernels.lora_down import GatedInput, NormedInput

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="compiles nothing"),
]
SHARED_KIB = {75: 64, 86: 99}
"""KiB by compute capability: a T4; a 3090, and as much on cards of 8.9 and 12.0."""
LAUNCHING = (
    attention, cached_attention, cross_entropy, delta_states, gated_linear, lora_down, lora_up,
    nf4_product, norm, rotary,
)  # fmt: skip
META = torch.device("meta")
DTYPES = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}
DTYPES |= {torch.int64: "*i64", torch.int32: "*i32", torch.uint8: "*u8"}


class Compiling:
    """Kernels whose launches compile for another card instead of running on this one."""

    def __init__(self, capability: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.capability = capability
        self.taken: dict[str, int] = {}
        """Bytes of shared memory, by kernel and variant."""
        self.code: dict[str, str] = {}
        """Triton's code for the card, by the same."""
        for module in (*LAUNCHING, partial_sums):
            for name, kernel in list(vars(module).items()):
                if name.endswith("_kernel"):
                    monkeypatch.setattr(module, name, _Launch(self, name, kernel))


class _Launch:
    def __init__(self, compiling: Compiling, name: str, kernel: Any) -> None:
        self.compiling, self.kernel = compiling, kernel
        self.name = name.removeprefix("_").removesuffix("_kernel")

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return self.compile

    def compile(self, *args: Any, **named: Any) -> None:
        from triton import compile as compiled
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        options = {key: named.pop(key) for key in ("num_warps", "num_stages") if key in named}
        given = dict(zip(self.kernel.arg_names, args, strict=False)) | named
        fixed = {p.name for p in self.kernel.params if p.is_constexpr}
        types, constants, aligned = {}, {}, {}
        for index, name in enumerate(self.kernel.arg_names):
            value = given[name]
            if name in fixed or _is_one(value):  # as Triton compiles a 1 in
                types[name], constants[(index,)] = "constexpr", value
                continue
            types[name] = _type(value)
            if isinstance(value, Tensor) or (isinstance(value, int) and value % 16 == 0):
                aligned[(index,)] = [["tt.divisibility", 16]]
        source = ASTSource(self.kernel, types, constants, aligned)
        target = GPUTarget("cuda", self.compiling.capability, 32)
        made: Any = compiled(source, target=target, options=options)
        taken = self.compiling.taken
        name = self.name + "".join(f" {how}" for how in ("GATED", "NORMED") if given.get(how))
        taken[name] = max(taken.get(name, 0), made.metadata.shared)
        self.compiling.code[name] = made.asm["ttgir"]


def _is_one(value: Any) -> bool:
    return isinstance(value, int) and value == 1


def _type(value: Any) -> str:
    if isinstance(value, Tensor):
        return DTYPES[value.dtype]
    return "fp32" if isinstance(value, float) else "i32"


CARDS = [(cc, dtype) for cc in (75, 86) for dtype in (torch.float16, torch.float32)]


@pytest.fixture(params=CARDS, ids=["T4", "T4 in fp32", "3090", "3090 in fp32"])
def card(request: pytest.FixtureRequest) -> tuple[int, torch.dtype]:
    result: tuple[int, torch.dtype] = request.param
    return result


@pytest.fixture
def compiling(card: tuple[int, torch.dtype], monkeypatch: pytest.MonkeyPatch) -> Compiling:
    pytest.importorskip("triton")
    capability = divmod(card[0], 10)
    monkeypatch.setattr(triton_support, "_compute_capability", lambda device: capability)
    return Compiling(card[0], monkeypatch)


def assert_fits(compiling: Compiling) -> None:
    limit = SHARED_KIB[compiling.capability] << 10
    assert compiling.taken
    assert {name: most for name, most in compiling.taken.items() if most > limit} == {}


@pytest.mark.parametrize("rank", [16, 32, 128, 256])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_low_rank_kernels_fit(
    compiling: Compiling, card: tuple[int, torch.dtype], rank: int, count: int
) -> None:
    dtype = card[1]
    x_TK, a_PRK = (
        torch.empty(*shape, dtype=dtype, device=META)
        for shape in ((2048, 14336), (count, rank, 14336))
    )
    keys = torch.empty(count, 2, dtype=torch.int64, device=META)
    lora_down.lora_down(x_TK, a_PRK, keys, 0.0, 2.0)
    low_PTR = lora_down.lora_down(x_TK, a_PRK, keys, 0.05, 2.0)
    more: tuple[Any, ...] = (low_PTR, a_PRK, a_PRK.float(), keys, 0.05, 2.0)
    rows_T, weight_K = (torch.empty(size, device=META) for size in (2048, 14336))
    for gemma in (False, True):
        normed = NormedInput(rstd_T=rows_T, weight_K=weight_K.to(dtype), gemma=gemma)
        for made in (None, normed):
            lora_down.lora_down_backward(x_TK, x_TK, *more, add=True, add_dx=True, made=made)
    for gelu in (False, True) if count == 1 else ():
        gated = GatedInput(up_TK=torch.empty_like(x_TK), gelu=gelu)
        for p in (0.0, 0.05):
            lora_down.lora_down(x_TK, a_PRK, keys, p, 2.0, gated=gated, made_TK=x_TK)
        lora_down.lora_down_backward(x_TK, x_TK, *more, add=True, add_dx=True, made=gated)
    all_TN = torch.empty(2048, count * 4096, dtype=dtype, device=META)
    b_NR = torch.empty(count * 4096, rank, dtype=dtype, device=META)
    dys = list(all_TN.split(4096, 1))  # type: ignore[no-untyped-call]
    lora_up.lora_up_backward(dys, low_PTR, b_NR, b_NR.float(), add=True)
    known = {"lora_down", "lora_down_backward", "lora_down_backward NORMED", "lora_up_backward"}
    known |= {"sum_parts"}
    known |= {"lora_down GATED", "lora_down_backward GATED"} if count == 1 else set()
    assert compiling.taken.keys() == known
    assert_fits(compiling)


@pytest.mark.parametrize("dropout", [0.0, 0.05])
def test_a_gated_input_is_made_once(dropout: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton makes a tile again for each layout that it is read in, unless that looks dear."""
    pytest.importorskip("triton")
    compiling = Compiling(86, monkeypatch)
    x_TK, up_TK = (torch.empty(2048, 14336, dtype=torch.bfloat16, device=META) for _ in range(2))
    a_PRK = torch.empty(1, 16, 14336, dtype=torch.bfloat16, device=META)
    keys, gated = (
        torch.empty(1, 2, dtype=torch.int64, device=META),
        GatedInput(up_TK=up_TK, gelu=False),
    )
    lora_down.lora_down(x_TK, a_PRK, keys, dropout, 2.0, gated=gated, made_TK=x_TK)
    assert compiling.code["lora_down GATED"].count("math.exp2") == 1


@pytest.mark.parametrize("tokens", [1, 150_000])
def test_low_rank_kernels_compile_for_one_token_and_for_two_billion_elements(
    tokens: int, compiling: Compiling, card: tuple[int, torch.dtype]
) -> None:
    dtype, width = card[1], 14336
    x_TK = torch.empty(tokens, width, dtype=dtype, device=META)
    a_PRK = torch.empty(4, 1, width, dtype=dtype, device=META)
    keys = torch.empty(4, 2, dtype=torch.int64, device=META)
    low_PTR = lora_down.lora_down(x_TK, a_PRK, keys, 0.05, 2.0)
    lora_down.lora_down_backward(
        x_TK, x_TK, low_PTR, a_PRK, a_PRK.float(), keys, 0.05, 2.0, add=True, add_dx=False
    )
    sizes = [8192, 4096, 32, 32]  # of Qwen 3.5's gated delta layers
    dys = list(torch.empty(tokens, sum(sizes), dtype=dtype, device=META).split(sizes, 1))  # type: ignore[no-untyped-call]
    b_NR = torch.empty(sum(sizes), 1, dtype=dtype, device=META)
    lora_up.lora_up_backward(dys, low_PTR, b_NR, b_NR.float(), add=True)
    assert_fits(compiling)


@pytest.mark.parametrize("tokens", [1, 64, 128])
@pytest.mark.parametrize("widths", [(14336, 14336), (8192, 4096, 32, 32)])
def test_products_with_4_bit_weights_fit(
    widths: tuple[int, ...], tokens: int, compiling: Compiling, card: tuple[int, torch.dtype]
) -> None:
    dtype, inputs, columns = card[1], 4096, 16 * len(widths)
    weights = [_packed_on_meta(width, inputs) for width in widths]
    product = nf4_product.Nf4Product([w for w, _ in weights], [s for _, s in weights], dtype)
    product._lookup = nf4_product.lookup_ptx(dtype)
    like: dict[str, Any] = {"dtype": dtype, "device": META}
    x_TK, a_CK = torch.empty(tokens, inputs, **like), torch.empty(columns, inputs, **like)
    b_NC, bias_N = (torch.empty(sum(widths), *size, **like) for size in ((columns,), ()))
    others_AC = torch.empty(2, columns, dtype=torch.bool, device=META)
    adapter_T = torch.empty(tokens, dtype=torch.int64, device=META)
    product.multiply(x_TK, a_CK, b_NC, bias_N, others_AC, adapter_T)
    assert compiling.taken.keys() == {"product", "outputs"}
    assert_fits(compiling)


def _packed_on_meta(outputs: int, inputs: int) -> tuple[Tensor, Any]:
    """Return a 4-bit weight and its QuantState, without values."""
    count = outputs * inputs
    absmax = torch.empty(count // 64, device=META)
    state = SimpleNamespace(shape=(outputs, inputs), blocksize=64, nested=False, absmax=absmax)
    return torch.empty(count // 2, dtype=torch.uint8, device=META), state


def test_kernels_of_the_delta_rules_states_fit(compiling: Compiling) -> None:
    heads = torch.empty(2, 8, CHUNK, delta_states.WIDEST_KEY, device=META)
    given = [heads.clone().requires_grad_() for _ in range(3)]
    kept = torch.empty(2, 8, device=META, requires_grad=True)
    states, written = delta_states.DeltaStates.apply(*given, kept, True)  # type: ignore[no-untyped-call]
    (states.sum() + written.sum()).backward()
    assert compiling.taken.keys() == {"states", "states_backward"}
    assert_fits(compiling)


def test_small_kernels_fit(compiling: Compiling) -> None:
    x, weight = torch.empty(1, 64, 8192, device=META), torch.empty(8192, device=META)
    x.requires_grad_()
    for gemma in (False, True):
        normed: Any = norm.RmsNorm.apply(x, weight, 1e-5, gemma)  # type: ignore[no-untyped-call]
        gated: Any = gated_linear.GatedLinear.apply(x, None, gemma)  # type: ignore[no-untyped-call]
        (normed[0].sum() + gated.sum()).backward()
    heads, turn = x.view(1, 64, 64, 128).transpose(1, 2), torch.empty(1, 64, 128, device=META)
    turned: Any = rotary.Rotary.apply(heads, turn, turn, False)  # type: ignore[no-untyped-call]
    turned.sum().backward()
    assert len(compiling.taken) == 5
    targets = torch.empty(64, dtype=torch.int64, device=META)
    logits_TV = torch.empty(64, 262144, dtype=torch.float16, device=META)
    cross_entropy.cross_entropy(logits_TV, targets, torch.empty((), device=META), 30.0, -100)
    assert_fits(compiling)


@pytest.mark.parametrize("width", [64, 96, 128, 256, 512])
@pytest.mark.parametrize("softcap", [None, 50.0])
def test_attention_fits(width: int, softcap: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    compiling = Compiling(86, monkeypatch)  # a T4 takes another kernel
    parts = torch.empty(512, 64 * width, dtype=torch.bfloat16, device=META, requires_grad=True)
    q_THD, k_TGD, v_TGD = (
        part.view(512, -1, width)
        for part in parts.split([32 * width, 16 * width, 16 * width], 1)  # type: ignore[no-untyped-call]
    )
    cu = torch.empty(6, dtype=torch.int32, device=META)
    out: Any = attention.ShortRowAttention.apply(  # type: ignore[no-untyped-call]
        q_THD, k_TGD, v_TGD, cu, 512, 0.1, 300, softcap
    )
    out.sum().backward()
    assert len(compiling.taken) == 3
    assert_fits(compiling)


@pytest.mark.parametrize("width", [64, 128, 256, 512])
def test_attention_of_new_tokens_fits(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    compiling = Compiling(86, monkeypatch)
    monkeypatch.setattr(triton_support, "is_usable", lambda device: True)
    q_BHD = torch.empty(4, 32, width, dtype=torch.bfloat16, device=META)
    keys = torch.empty(5, 8, 300, width, dtype=torch.bfloat16, device=META)
    slots_B = torch.empty(4, dtype=torch.int64, device=META)
    how: Any = {"scale": 0.1, "window": 100, "softcap": 50.0}
    cached_attention.cached_attention(q_BHD, keys, keys, slots_B, slots_B, **how)
    assert compiling.taken.keys() == {"cached_attention"}
    assert_fits(compiling)
