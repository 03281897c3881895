"""The `generator.finetune` section: how LoRA adapters of a pretrained generator are trained on the real images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ray_synth.config.section import Section

# Whole recipes of papers; what the file says beside them goes first.
PRESETS: dict[str, dict[str, Any]] = {
    # Kim et al., 2024 (DataDream), which Nguyen et al., 2025 adapt generators with.
    "datadream": {
        "r": 16, "lora_alpha": 16, "text_encoder": True, "epochs": 200, "batch_size": 8, "learning_rate": 1e-4,
        "warmup_steps": 100, "validation_fraction": 0.0,
    },
    # Yuan et al., 2024, Table 7 and Eq. 21. It gives no rank; 4 is that of its released code, which trains 100 epochs.
    "real_fake": {
        "r": 4, "lora_alpha": 4, "epochs": 300, "batch_size": 64, "learning_rate": 1e-4, "warmup_steps": 0,
        "min_snr_gamma": 0.75, "mmd": {"gamma": 0.05, "variant": "paper"}, "validation_fraction": 0.0,
    },
}  # fmt: skip


class Mmd(Section):
    """The distribution-matching term beside the denoising loss (Yuan et al., 2024, Eq. 7 and 21)."""

    gamma: float | None = Field(None, ge=0, le=1000, description="its weight; default .05 of paper, .003 of released")
    variant: Literal["paper", "released"] = Field(
        "paper", description="paper: of the mean error of a batch; released: of the sum, weighed by min-SNR"
    )


class PriorPreservation(Section):
    """Images of the model as it was, trained on beside the real ones, so that it keeps what it knew."""

    weight: float = Field(1.0, gt=0, le=100, description="of their loss")
    images_per_class: int = Field(16, ge=1, le=10_000)


class LoraTraining(Section):
    """LoRA adapters (peft) of the denoiser and, where asked, the text encoder."""

    preset: Literal["datadream", "real_fake"] | None = Field(
        None, description="the recipe of a paper; what stands beside it goes first"
    )
    adapters: Literal["dataset", "class"] = Field("dataset", description="one for all classes, or one for each")
    r: int = Field(16, ge=1, le=1024, description="rank")
    lora_alpha: int = Field(16, ge=1, le=10_000, description="scale; weights are multiplied by lora_alpha / r")
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: tuple[str, ...] = Field(
        ("to_q", "to_k", "to_v", "to_out.0"), min_length=1, strict=False, description="layers of the denoiser"
    )
    text_encoder: bool = Field(False, description="adapt the text encoder's attention too")
    epochs: int = Field(100, ge=1, le=1_000_000)
    steps: int | None = Field(None, ge=1, description="updates, in place of epochs")
    batch_size: int = Field(8, ge=1, le=4096)
    batches: Literal["mixed", "class"] = Field("mixed", description="images of a batch: of any class, or of one")
    learning_rate: float = Field(1e-4, gt=0, le=1)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = Field(100, ge=0)
    weight_decay: float = Field(0.01, ge=0, le=1)
    min_snr_gamma: float | None = Field(None, gt=0, le=1000, description="min-SNR weights (Hang et al., 2023); null: 1")
    mmd: Mmd | None = None
    prior_preservation: PriorPreservation | None = None
    prompt_dropout: float = Field(0.0, ge=0, lt=1, description="share of prompts left out, for guidance")
    ema_decay: float = Field(0.0, ge=0, lt=1, description="of an average of the weights; 0: none")
    cache_latents: bool = Field(True, description="look at each image once, and keep what the autoencoder sees in it")
    gradient_checkpointing: bool = Field(False, description="less memory, a third more time")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of matrix products; auto: bfloat16 on a GPU"
    )
    num_workers: int = Field(1, ge=1, description="Ray Train workers, a GPU each, that train an adapter together")
    validation_fraction: float = Field(
        0.1, ge=0, lt=1, description="real images held out of the training, for its validation loss"
    )
    checkpoint_steps: int = Field(100, ge=1, description="updates between two checkpoints, losses and sample pictures")
    samples: int = Field(4, ge=0, le=64, description="pictures at each checkpoint; 0: none")
    guidance_tokens: int = Field(1, ge=1, le=16, description="tokens that visual guidance is projected to")

    @model_validator(mode="before")
    @classmethod
    def _over_preset(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or given.get("preset") not in PRESETS:
            return given
        return {**PRESETS[given["preset"]], **given}

    @field_validator("target_modules")
    @classmethod
    def _named(cls, modules: tuple[str, ...]) -> tuple[str, ...]:
        if not all(modules):
            raise ValueError("target_modules must be names of layers, got an empty one; such as to_q")
        return modules

    @model_validator(mode="after")
    def _consistent(self) -> LoraTraining:
        if self.mmd is not None and self.batch_size < 2:
            raise ValueError(
                f"mmd compares batches, and batch_size must be >= 2 then, got {self.batch_size}; type --set "
                "generator.finetune.batch_size=8"
            )
        if self.batch_size < self.num_workers:
            raise ValueError(
                f"batch_size is shared by num_workers={self.num_workers} workers, and must be at least as large, got "
                f"{self.batch_size}; type --set generator.finetune.num_workers={self.batch_size}"
            )
        return self
