"""Tiny models of each family, rows of unequal length, and the plain way to get their gradients."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoConfig

from workbench.training.model.linear_layers import outside_language_model
from workbench.training.model.targets import all_linear
from workbench.training.model.weights import model_loader
from workbench.training.step import Rows, Step, StepOptions, collate_rows
from workbench.training.step.kernels import triton_support
from workbench.training.step.kernels.masks import keep_mask, keep_scale, mask_keys, stacked_mask
from workbench.training.step.rows import IGNORE, split_examples

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MORE: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 6},
    "gemma2": {"sliding_window": 6, "query_pre_attn_scalar": 8},
    "gemma3_text": {"sliding_window": 6, "query_pre_attn_scalar": 8},
    "cwm": {"sliding_window": 6},
    "gemma4_text": {
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "sliding_window": 6,
        "global_head_dim": 16,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 97,
        "num_kv_shared_layers": 2,
        "rms_norm_eps": 1e-2,  # as for Qwen 3.5 (test_rounding_costs_what_it_costs_transformers)
    },
    "gemma4_unified_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 6,
        "global_head_dim": 16,
        "attention_k_eq_v": True,
        "num_global_key_value_heads": 1,
        "rms_norm_eps": 1e-2,
    },
    "qwen3_5_text": {
        "layer_types": ["linear_attention", "full_attention"],
        "head_dim": 32,
        "linear_num_value_heads": 16,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 16,
        # Heads read values near 0, whose rounding a norm multiplies: with 1e-6 the gradients of
        # transformers themselves are right to 5e-5 alone (compared with float64).
        "rms_norm_eps": 1e-2,
    },
    "exaone4": {"sliding_window": 6, "sliding_window_pattern": 2},
    "glm4": {"partial_rotary_factor": 0.5},
    "granite": {
        "attention_multiplier": 0.2,
        "embedding_multiplier": 12.0,
        "logits_scaling": 8.0,
        "residual_multiplier": 0.22,
    },
    "ministral3": {
        "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 1e4, "factor": 16.0, "mscale": 1.0,
            "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1,
            "original_max_position_embeddings": 4,
        }
    },
    "olmo3": {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]},
    "seed_oss": {"attention_dropout": 0.0, "residual_dropout": 0.0},
    "smollm3": {"no_rope_layer_interval": 2},
}  # fmt: skip
"""Settings in which a family differs from a Llama, where its defaults would not show it."""
FUSED_FAMILIES = [
    "llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "gemma3", "gemma4_text",
    "gemma4", "gemma4_unified_text", "gemma4_unified", "phi3", "cwm", "exaone4", "glm4",
    "granite", "ministral3", "mistral3", "olmo2", "olmo3", "qwen3_5_text", "seed_oss", "smollm3",
]  # fmt: skip
EYES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
EYES |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}
EYES |= {"position_embedding_size": 8, "mm_posemb_size": 8, "mm_embed_dim": 16}
SEEING = {
    "gemma3": "gemma3_text",
    "gemma4": "gemma4_text",
    "gemma4_unified": "gemma4_unified_text",
    "mistral3": "ministral3",
}
"""Families that see, too, and the text model inside."""
ModelOf = Callable[..., PeftModel]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def build_model(
    family: str = "llama", sizes: dict[str, Any] | None = None, **lora: Any
) -> PeftModel:
    """Return a tiny fp32 model of a family with these sizes and settings of LoRA, LoRA not 0."""
    torch.manual_seed(0)
    settings = SIZES | MORE.get(family, {}) | (sizes or {})
    if family in SEEING:
        inside = SEEING[family]
        text = {"model_type": inside, **SIZES, **MORE.get(inside, {}), **(sizes or {})}
        settings = {"text_config": text, "vision_config": EYES, "mm_tokens_per_image": 4}
        settings["tie_word_embeddings"] = family != "mistral3"
    config = AutoConfig.for_model(family, **settings)
    base = model_loader(family).from_config(config, attn_implementation="eager")
    for name, param in base.named_parameters():
        if "norm" in name:
            nn.init.normal_(param, 0.5, 0.2)
        elif name.endswith("bias"):
            nn.init.normal_(param, 0.0, 0.2)
        elif name.endswith("A_log"):  # states that outlive a few tokens, as trained ones do
            nn.init.normal_(param, -2.0, 0.5)
        elif "conv1d" in name:  # with less, what is left of queries is mostly rounding
            nn.init.normal_(param, 0.0, 1.0)
    lora = {"target_modules": all_linear(base), **lora}
    # With this rank, adapters of a group lie together in the flat buffer and are stacked.
    lora = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, **lora}
    lora["exclude_modules"] = outside_language_model(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks by an old name
        model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **lora))
    for name, param in model.named_parameters():
        if param.requires_grad and "lora_B" in name:
            nn.init.normal_(param, 0.0, 0.3)
    return model


def pack_weights(model: PeftModel) -> PeftModel:
    """Put bitsandbytes' 4-bit layers in the place of all frozen linear layers but the head."""
    pack: Any = pytest.importorskip("bitsandbytes").nn
    for parent in list(model.modules()):
        for name, linear in list(parent.named_children()):
            if type(linear) is not nn.Linear or isinstance(parent, nn.ModuleDict):
                continue
            if name == "lm_head":
                continue
            packed = pack.Linear4bit(
                linear.in_features, linear.out_features, bias=linear.bias is not None,
                compute_dtype=torch.float32, quant_type="nf4", compress_statistics=True,
            )  # fmt: skip
            packed.load_state_dict(linear.state_dict())
            packed.__dict__["support_avx512bf16_for_cpu"] = False
            setattr(parent, name, packed.to("cpu"))
    return model


@pytest.fixture
def model_of() -> ModelOf:
    return build_model


@pytest.fixture(scope="module", params=FUSED_FAMILIES)
def fused_model(request: pytest.FixtureRequest) -> PeftModel:
    """A model of each family, for tests that leave it as it was."""
    return build_model(request.param)


@pytest.fixture(scope="module")
def fused_plain(fused_model: PeftModel, rows: Rows) -> tuple[float, Any]:
    """Its loss and gradients by plain transformers and PEFT."""
    return plain_gradients(fused_model, rows, [])


@pytest.fixture(scope="module")
def rows() -> Rows:
    """Return four rows of 5 to 17 tokens; the first half of two of them carries no loss."""
    chance = torch.Generator().manual_seed(1)
    examples = []
    for index, length in enumerate((5, 17, 9, 12)):
        ids = torch.randint(3, 97, (length,), generator=chance).tolist()
        hidden = length // 2 if index % 2 else 0
        examples.append({"input_ids": ids, "labels": [IGNORE] * hidden + ids[hidden:]})
    return collate_rows(examples)


class KnownDropout(nn.Module):
    """An nn.Dropout with a given mask; `at` is where in the batch the running row starts."""

    def __init__(self, mask_TD: Tensor, p: float) -> None:
        super().__init__()
        self.mask_TD, self.p, self.at = mask_TD, p, 0

    def forward(self, x_1TD: Tensor) -> Tensor:
        mask = self.mask_TD[self.at : self.at + x_1TD.shape[1]]
        return x_1TD * mask / (1 - self.p)


def options(**changes: Any) -> StepOptions:
    settings: dict[str, Any] = {
        "precision": "fp32",
        "rows_per_micro": 4,
        "max_grad_norm": None,
        "seed": 7,
    }
    return StepOptions(**(settings | changes))


def plain_gradients(model: PeftModel, rows: Rows, drops: list[KnownDropout]) -> tuple[float, Any]:
    """Return (loss, gradients by name) by plain transformers and PEFT, one row at a time."""
    model.train()
    total, at = 0.0, 0
    for example in split_examples(rows):
        for drop in drops:
            drop.at = at
        ids, labels = (torch.tensor([example[key]]) for key in ("input_ids", "labels"))
        logits = model(input_ids=ids, use_cache=False).logits.float()
        nats = nn.functional.cross_entropy(
            logits[0, :-1], labels[0, 1:], ignore_index=IGNORE, reduction="sum"
        )
        loss = nats / rows.targets
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
        at += len(example["input_ids"])
    named = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return total, named


def with_known_masks(model: PeftModel, step: Step, rows: Rows) -> list[KnownDropout]:
    """Put the masks that the step draws in its first micro-step into PEFT's modules."""
    assert step._fused is not None
    sites = torch.arange(step._fused.sites)
    keys_S2 = mask_keys(torch.tensor(step.options.seed), torch.tensor(0), sites)
    drops = []
    hashed = triton_support.is_usable(step.device)
    for group in step._fused.groups:
        for stack in group.stacks:
            for at, (index, adapter) in enumerate(zip(stack.members, stack.adapters, strict=True)):
                if adapter.dropout == 0:
                    continue
                module: Any = group.projections[index].module
                shape = (rows.tokens, module.get_base_layer().in_features)
                if hashed:
                    mask = stacked_mask(shape, keys_S2[stack.site :], adapter.dropout, at)
                else:
                    mask = keep_mask(shape, keys_S2[adapter.site], adapter.dropout)
                share = 1 - 1 / keep_scale(adapter.dropout) if hashed else adapter.dropout
                drops.append(KnownDropout(mask, share))
                module.lora_dropout["default"] = drops[-1]
    return drops


def assert_same_gradients(
    model: PeftModel,
    rows: Rows,
    step: Step,
    *,
    limit: float = 1e-5,
    plain: tuple[float, Any] | None = None,
) -> None:
    """Assert that loss and gradients are plain ones, to `limit` of each gradient's norm.

    `plain` are those, where they are known; a model with dropout needs the step's masks for them.
    """
    loss = float(step.forward_backward(rows))
    names = {id(param): name for name, param in model.named_parameters()}
    ours = {names[id(param)]: step.flat.grad(param).clone() for param in step.flat.params}
    drops = with_known_masks(model, step, rows) if step._fused else []
    step.restore()
    plain_loss, expected = plain or plain_gradients(model, rows, drops)
    assert loss == pytest.approx(plain_loss, rel=1e-5)
    assert ours.keys() == expected.keys()
    if triton_support.is_usable(step.device):  # kernels sum in another order
        limit = max(limit, 3e-5)
    for name, grad in expected.items():
        error = (ours[name] - grad).norm() / grad.norm().clamp(min=1e-12)
        assert float(error) < limit, name
