"""The priors of unCLIP, Kandinsky 2 and Shap-E."""

from __future__ import annotations

import torch
from torch import nn

from tests.models.base import Arguments, Tiny, available, diffusers_class

TEXT = 7


def _prior() -> nn.Module:
    return diffusers_class("PriorTransformer")(
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=3,
        embedding_dim=12,
        num_embeddings=TEXT,
        additional_embeddings=4,
    )


def _inputs(generator: torch.Generator, batch: int) -> Arguments:
    mask = torch.ones(batch, TEXT, dtype=torch.bool)
    mask[0, -2:] = False
    return {
        "hidden_states": torch.randn(batch, 12, generator=generator),
        "proj_embedding": torch.randn(batch, 12, generator=generator),
        "encoder_hidden_states": torch.randn(batch, TEXT, 12, generator=generator),
        "attention_mask": mask,
    }


def _shap_e() -> nn.Module:
    return diffusers_class("PriorTransformer")(
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=3,
        embedding_dim=12,
        num_embeddings=9,
        additional_embeddings=0,
        time_embed_act_fn="gelu",
        norm_in_type="layer",
        embedding_proj_norm_type="layer",
        encoder_hid_proj_type=None,
        added_emb_type=None,
        embedding_proj_dim=10,
        clip_embed_dim=24,
    )


def _shap_e_inputs(generator: torch.Generator, batch: int) -> Arguments:
    return {
        "hidden_states": torch.randn(batch, 9, 12, generator=generator),
        "proj_embedding": torch.randn(batch, 10, generator=generator),
    }


def _time(sigma: float, batch: int) -> Arguments:
    return {"timestep": torch.tensor(int(1000 * sigma))}


MODELS = available(
    Tiny("PriorTransformer", _prior, _inputs, _time),
    Tiny("PriorTransformer+shap_e", _shap_e, _shap_e_inputs, _time),
)
