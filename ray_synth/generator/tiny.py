"""A folder in, a tiny model with random weights in it out: of the classes that the full ones have, loaded as those are.

For tests, and for a smoke run, which has no model to download. The same weights every time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray_synth.features.clip import TINY, import_open_clip, quiet_log
from ray_synth.torch_ops import import_torchvision

WIDTH = 32  # of the text embeddings
FOLDER_IMAGES = 16  # of a class


def tiny_tokenizer() -> Any:
    """Bytes and nothing else: no merge, so a word has as many tokens as letters."""
    import_torchvision()
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=77)


def tiny_pipeline(folder: Path, *, seed: int = 0, width: int = WIDTH, channels: int = 16, sample_size: int = 8) -> Path:
    """Stable Diffusion of the usual classes: latents [4,8,8], images [3,16,16]."""
    import_torchvision()
    import torch
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=sample_size,
        block_out_channels=(channels, 2 * channels),
        layers_per_block=1,
        cross_attention_dim=width,
        attention_head_dim=4,
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if "attn2.to_v" in name or "attn2.to_out" in name:
                parameter *= 8  # else random weights hardly listen to the prompt
    vae = AutoencoderKL(
        block_out_channels=(16, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
        sample_size=2 * sample_size,
    )
    tokenizer = tiny_tokenizer()
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder, safe_serialization=True)
    (folder / "README.md").write_text("---\nlicense: creativeml-openrail-m\n---\n# tiny\n")
    return folder


def tiny_vision_encoder(folder: Path, *, width: int = WIDTH) -> Path:
    """A CLIPVisionModelWithProjection with its processor."""
    import_torchvision()
    import torch
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(2)
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, projection_dim=width, num_hidden_layers=1, num_attention_heads=2,
        image_size=16, patch_size=8,
    )  # fmt: skip
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16).save_pretrained(folder)
    return folder


def tiny_captioner(folder: Path) -> Path:
    """A BLIP of random weights: its captions are the same nonsense every time."""
    import_torchvision()
    import torch
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    torch.manual_seed(3)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "a", "photo", "of", "red", "blue", "cat", "sofa"]
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    text = {
        "vocab_size": len(words), "hidden_size": 16, "encoder_hidden_size": 16, "intermediate_size": 32,
        "num_hidden_layers": 1, "num_attention_heads": 2, "bos_token_id": 5, "eos_token_id": 3, "sep_token_id": 3,
        "pad_token_id": 0, "projection_dim": 16,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16,
        "patch_size": 8,
    }  # fmt: skip
    config = BlipConfig(text_config=text, vision_config=vision, projection_dim=16, image_text_hidden_size=16)
    model = BlipForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0, 4 if "crossattention" in name else 0.5)  # else every image gets one caption
        model.text_decoder.cls.predictions.bias[:6] = -100  # words, not marks
    model.save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size={"height": 16, "width": 16}), tokenizer).save_pretrained(folder)
    return folder


def tiny_open_clip(file: Path, pipeline: Path) -> Path:
    """Weights of the architecture that `import_open_clip` adds, for images that `tiny_pipeline` makes.

    Weights as they are drawn give every image nearly the same embedding, and a filter would keep one class and no
    other. So these see no mean of a patch, are eight times as large, and what their embeddings have in common is taken
    off: whatever the prompts and the prior, a class keeps one image in three, at worst one in fifteen.
    """
    open_clip = import_open_clip()
    import torch
    from diffusers import StableDiffusionPipeline
    from safetensors.torch import save_file

    pipe = StableDiffusionPipeline.from_pretrained(pipeline, safety_checker=None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    random = torch.Generator().manual_seed(4)
    images = pipe(["a photo"] * 32, num_inference_steps=4, generator=random, output_type="pt").images
    torch.manual_seed(4)
    with quiet_log():
        clip = open_clip.create_model(TINY).eval()
    seen: list[torch.Tensor] = []
    hook = clip.visual.ln_post.register_forward_hook(lambda module, inputs, output: seen.append(output[:, 0]))
    with torch.no_grad():
        clip.visual.conv1.weight -= clip.visual.conv1.weight.mean(dim=(2, 3), keepdim=True)
        clip.visual.positional_embedding *= 0.1
        for parameter in clip.visual.transformer.parameters():
            if parameter.ndim == 2:
                parameter *= 8
        side = clip.visual.image_size[0]
        clip.encode_image(torch.nn.functional.interpolate(images, (side, side), mode="bicubic") * 2 - 1)
        clip.visual.ln_post.bias -= seen[0].mean(dim=0)
    hook.remove()
    save_file({name: tensor.contiguous() for name, tensor in clip.state_dict().items()}, file)
    return file


def noisy_digits(folder: Path, seed: int = 0) -> None:
    """A folder of class folders: digits with noise on them, so that none is a copy of a real one."""
    import numpy as np
    from PIL import Image

    from ray_synth.data.readers import read_digits

    digits, random = read_digits(), np.random.default_rng(seed)
    for label, name in enumerate(digits.class_names):
        (folder / name).mkdir(parents=True)
        for i, image in enumerate(digits.pixels[digits.labels == label][:FOLDER_IMAGES]):
            noisy = np.clip(image[..., 0] + random.normal(0, 40, image.shape[:2]), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / name / f"{i:03d}.png")
