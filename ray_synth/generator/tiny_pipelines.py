"""The row of a pipeline class and a folder in, a tiny pipeline of that class with random weights in it out.

As in `tiny`: for tests and smoke runs, of the classes that the full ones have, the same weights every time. An image
has 16 pixels a side (Sana's 32), and a tokenizer knows letters and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray_synth.generator.tiny import tiny_pipeline, tiny_tokenizer
from ray_synth.torch_ops import import_torchvision

SIDE = 16  # of images
PRINTABLE = [chr(code) for code in range(33, 127)]
LATENTS = 4  # channels
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_of(name: str, folder: Path, *, seed: int = 0, width: int = 32) -> Path:
    """A tiny pipeline of a class that has a row. width: of the text embeddings, a multiple of 16."""
    import_torchvision()
    import diffusers
    import torch

    if name == "StableDiffusionPipeline":
        return tiny_pipeline(folder, seed=seed, width=width)
    torch.manual_seed(seed)
    parts = TINY[name](width)
    denoiser = parts["unet" if "unet" in parts else "transformer"]
    with torch.no_grad():
        for key, parameter in denoiser.named_parameters():
            parameter *= math.prod(factor for part, factor in HEARD[name].items() if part in key and "bias" not in key)
        if name == "QwenImagePipeline":
            parts["vae"].decoder.conv_out.weight *= 4  # its pictures are grey otherwise
    getattr(diffusers, name)(**parts).save_pretrained(folder, safe_serialization=True)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# tiny\n")
    return folder


# By how much the weights are larger that take a prompt in, by a part of their name: random ones hardly hear it.
CROSS: dict[str, float] = {"attn2.to_v": 4, "attn2.to_out": 4, "caption_projection": 4}
JOINT: dict[str, float] = {
    "context_embedder": 8,
    "txt_in": 8,
    "add_v_proj": 8,
    "norm1.linear": 8,
    "norm1_context.linear": 8,
}
HEARD: dict[str, dict[str, float]] = {
    "StableDiffusionXLPipeline": CROSS,
    "StableDiffusion3Pipeline": {"context_embedder": 4},
    "FluxPipeline": {**JOINT, "norm.linear": 8},
    "SanaPipeline": {**CROSS, "attn2.to_q": 4, "attn2.to_k": 4, "caption_norm": 8},
    "PixArtSigmaPipeline": CROSS,
    "ZImagePipeline": {"cap_embedder": 4},
    "QwenImagePipeline": {**JOINT, "txt_mod": 8, "img_mod": 8},
}


def _clip(width: int, *, projected: bool = False) -> tuple[Any, Any]:
    """(tokenizer, encoder)."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = tiny_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=32, projection_dim=width, num_hidden_layers=3,
        num_attention_heads=2, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return tokenizer, (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def _t5(width: int) -> tuple[Any, Any]:
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((letter, -3.0) for letter in PRINTABLE)]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    return tokenizer, T5EncoderModel(config)


def _gemma(width: int) -> tuple[Any, Any]:
    from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *(f"<0x{byte:02X}>" for byte in range(256)), *PRINTABLE]
    tokenizer = GemmaTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=4096)
    config = Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, head_dim=8, pad_token_id=0, eos_token_id=1, bos_token_id=2,
    )  # fmt: skip
    return tokenizer, Gemma2Model(config)


def _qwen_tokenizer() -> Any:
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    words = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(ByteLevel.alphabet())]
    tokenizer = Qwen2Tokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=4096)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHAT
    return tokenizer


def _qwen3(width: int) -> tuple[Any, Any]:
    from transformers import Qwen3Config, Qwen3Model

    tokenizer = _qwen_tokenizer()
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=1024,
    )  # fmt: skip
    return tokenizer, Qwen3Model(config)


def _qwen_vl(width: int) -> tuple[Any, Any]:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tokenizer, sections = _qwen_tokenizer(), [width // 8, width // 16, width // 16]
    text = {
        "vocab_size": len(tokenizer), "hidden_size": width, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 2048,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": sections},
        "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
    }  # fmt: skip
    seen = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": width}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=seen, image_token_id=1, video_token_id=1)
    return tokenizer, Qwen2_5_VLForConditionalGeneration(config)


def _vae(**settings: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(16, 16), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=8, sample_size=SIDE, latent_channels=LATENTS,
        **settings,
    )  # fmt: skip


def _flow_vae() -> Any:
    return _vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5)


def _flow(**settings: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**settings)


def _stable_diffusion_xl(width: int) -> dict[str, Any]:
    from diffusers import EulerDiscreteScheduler, UNet2DConditionModel

    (tokenizer, encoder), (tokenizer_2, encoder_2) = _clip(width), _clip(width, projected=True)
    unet = UNet2DConditionModel(
        sample_size=SIDE // 2, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
        cross_attention_dim=2 * width, attention_head_dim=(2, 4), use_linear_projection=True,
        transformer_layers_per_block=(1, 2), addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=width + 6 * 8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1
    )
    return {
        "unet": unet, "vae": _vae(force_upcast=False), "text_encoder": encoder, "text_encoder_2": encoder_2,
        "tokenizer": tokenizer, "tokenizer_2": tokenizer_2, "scheduler": scheduler, "add_watermarker": False,
    }  # fmt: skip


def _stable_diffusion_3(width: int) -> dict[str, Any]:
    from diffusers import SD3Transformer2DModel

    # Both CLIPs side by side are as wide as T5.
    half = width // 2
    (tokenizer, encoder), (tokenizer_2, encoder_2) = _clip(half, projected=True), _clip(half, projected=True)
    tokenizer_3, encoder_3 = _t5(width)
    transformer = SD3Transformer2DModel(
        sample_size=SIDE // 2, patch_size=2, in_channels=LATENTS, out_channels=LATENTS, num_layers=2,
        attention_head_dim=8, num_attention_heads=4, joint_attention_dim=width, caption_projection_dim=32,
        pooled_projection_dim=width, pos_embed_max_size=16, qk_norm="rms_norm",
    )  # fmt: skip
    return {
        "transformer": transformer, "vae": _flow_vae(), "scheduler": _flow(shift=3.0), "text_encoder": encoder,
        "text_encoder_2": encoder_2, "text_encoder_3": encoder_3, "tokenizer": tokenizer, "tokenizer_2": tokenizer_2,
        "tokenizer_3": tokenizer_3,
    }  # fmt: skip


def _flux(width: int, *, guidance_embeds: bool = False) -> dict[str, Any]:
    from diffusers import FluxTransformer2DModel

    (tokenizer, encoder), (tokenizer_2, encoder_2) = _clip(width), _t5(width)
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=4 * LATENTS, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=width, pooled_projection_dim=width, axes_dims_rope=(4, 4, 8),
        guidance_embeds=guidance_embeds,
    )  # fmt: skip
    return {
        "transformer": transformer, "vae": _flow_vae(), "scheduler": _flow(shift=1.0), "text_encoder": encoder,
        "text_encoder_2": encoder_2, "tokenizer": tokenizer, "tokenizer_2": tokenizer_2,
    }  # fmt: skip


def _sana(width: int) -> dict[str, Any]:
    from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaTransformer2DModel

    tokenizer, encoder = _gemma(width)
    transformer = SanaTransformer2DModel(
        patch_size=1, in_channels=LATENTS, out_channels=LATENTS, num_layers=1, num_attention_heads=2,
        attention_head_dim=8, num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16,
        caption_channels=width, sample_size=SIDE,
    )  # fmt: skip
    vae = AutoencoderDC(
        in_channels=3, latent_channels=LATENTS, attention_head_dim=4, encoder_block_types=("ResBlock",) * 2,
        decoder_block_types=("ResBlock",) * 2, encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1), encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()), scaling_factor=0.4,
    )  # fmt: skip
    scheduler = DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0, algorithm_type="dpmsolver++"
    )
    return {
        "transformer": transformer, "vae": vae, "scheduler": scheduler, "text_encoder": encoder, "tokenizer": tokenizer
    }  # fmt: skip


def _pixart_sigma(width: int) -> dict[str, Any]:
    from diffusers import DPMSolverMultistepScheduler, PixArtTransformer2DModel

    tokenizer, encoder = _t5(width)
    transformer = PixArtTransformer2DModel(
        sample_size=SIDE // 2, num_layers=1, patch_size=2, attention_head_dim=8, num_attention_heads=2,
        caption_channels=width, in_channels=LATENTS, out_channels=2 * LATENTS, cross_attention_dim=16,
    )  # fmt: skip
    scheduler = DPMSolverMultistepScheduler(beta_schedule="linear", beta_start=0.0001, beta_end=0.02)
    return {
        "transformer": transformer, "vae": _vae(), "scheduler": scheduler, "text_encoder": encoder,
        "tokenizer": tokenizer,
    }  # fmt: skip


def _z_image(width: int) -> dict[str, Any]:
    from diffusers import ZImageTransformer2DModel

    tokenizer, encoder = _qwen3(width)
    transformer = ZImageTransformer2DModel(
        in_channels=LATENTS, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=width,
        axes_dims=[8, 4, 4], axes_lens=[1024, 32, 32],
    )  # fmt: skip
    return {
        "transformer": transformer, "vae": _flow_vae(), "scheduler": _flow(shift=3.0), "text_encoder": encoder,
        "tokenizer": tokenizer,
    }  # fmt: skip


def _qwen_image(width: int) -> dict[str, Any]:
    from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel

    tokenizer, encoder = _qwen_vl(width)
    transformer = QwenImageTransformer2DModel(
        in_channels=4 * LATENTS, out_channels=LATENTS, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=width, axes_dims_rope=(8, 4, 4),
    )  # fmt: skip
    vae = AutoencoderKLQwenImage(
        base_dim=8, z_dim=LATENTS, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[False],
        latents_mean=[0.1] * LATENTS, latents_std=[1.5] * LATENTS,
    )  # fmt: skip
    scheduler = _flow(use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, shift_terminal=0.02)
    return {
        "transformer": transformer, "vae": vae, "scheduler": scheduler, "text_encoder": encoder, "tokenizer": tokenizer
    }  # fmt: skip


TINY: dict[str, Callable[[int], dict[str, Any]]] = {
    "StableDiffusionXLPipeline": _stable_diffusion_xl,
    "StableDiffusion3Pipeline": _stable_diffusion_3,
    "FluxPipeline": _flux,
    "SanaPipeline": _sana,
    "PixArtSigmaPipeline": _pixart_sigma,
    "ZImagePipeline": _z_image,
    "QwenImagePipeline": _qwen_image,
}
