"""Where the generator's files lie in the run folder; light, so that looking costs no import of torch."""

CONFIG = "generator/config.json"
WEIGHTS = "generator/diffusion_pytorch_model.safetensors"
DIGEST = "generator/digest.json"  # what it is, with the hash of its weights
CHECKPOINT = "generator/checkpoint.safetensors"
