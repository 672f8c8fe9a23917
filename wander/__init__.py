"""What an adapted multimodal model is: its errors, signature, bundle, tasks, engines, adapters, backbones, checkpoints.

Knows no HTTP. torch is imported only inside `adapters`, `backbones`, `checkpoints` and `training`.
"""

__version__ = "0.1.0"
