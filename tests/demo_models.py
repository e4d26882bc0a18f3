"""Random models on disk for the tests of the demo."""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
)
from safetensors.torch import save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from tap_ext.demo import bundled

WIDTH, BLOCKS, TOKENS, CAPTION = 32, 2, 144, 4
"""Of the bundle: channels, blocks, tokens of a picture and of its caption."""


def save_random_bundle(folder: Path) -> None:
    """A model of the bundled one's layout, untrained and much smaller."""
    torch.manual_seed(0)
    FluxTransformer2DModel(
        patch_size=1,
        in_channels=48,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=WIDTH,
        num_attention_heads=1,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        guidance_embeds=False,
        axes_dims_rope=(4, 14, 14),
    ).save_pretrained(folder)
    count = len(bundled.CLASSES)
    captions = {
        "prompt_embeds": torch.randn(count, CAPTION, 32),
        "pooled_prompt_embeds": torch.randn(count, 32),
    }
    save_file(captions, folder / bundled.EMBEDDINGS)


def save_random_checkpoint(folder: Path) -> None:
    """A FluxPipeline with every part it can have, untrained and tiny."""
    torch.manual_seed(0)
    clip = CLIPTextConfig(
        vocab_size=4,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=0,
        eos_token_id=2,
    )
    clip_tokenizer, t5_tokenizer = _tokenizers(folder)
    FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=AutoencoderKL(
            block_out_channels=(4,),
            latent_channels=1,
            norm_num_groups=1,
            shift_factor=0.1,
            scaling_factor=1.5,
        ),
        text_encoder=CLIPTextModel(clip),
        tokenizer=clip_tokenizer,
        text_encoder_2=T5EncoderModel(
            T5Config(vocab_size=8, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=4)
        ),
        tokenizer_2=t5_tokenizer,
        transformer=FluxTransformer2DModel(
            in_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=True,
        ),
    ).save_pretrained(folder)


def _tokenizers(folder: Path) -> tuple[CLIPTokenizer, T5TokenizerFast]:
    """From files, which transformers 4 and 5 read alike."""
    letters = {"<|startoftext|>": 0, "a</w>": 1, "<|endoftext|>": 2, "b</w>": 3}
    clip = folder / "tokenizer"
    clip.mkdir(parents=True)
    (clip / "vocab.json").write_text(json.dumps(letters))
    (clip / "merges.txt").write_text("#version: 0.2\n")
    words = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁a", -1.0), ("▁b", -1.0)]
    t5 = tokenizers.Tokenizer(tokenizers.models.Unigram(words, unk_id=2))
    t5.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    (folder / "tokenizer_2").mkdir()
    t5.save(str(folder / "tokenizer_2" / "tokenizer.json"))
    return (
        CLIPTokenizer.from_pretrained(clip, model_max_length=77),
        T5TokenizerFast.from_pretrained(folder / "tokenizer_2"),
    )
