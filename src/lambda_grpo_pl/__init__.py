"""λ-GRPO (arXiv 2510.06870) on PyTorch Lightning: GRPO, DAPO and Dr. GRPO as one objective with a learned length
preference.
"""

__version__ = "0.1.0"
