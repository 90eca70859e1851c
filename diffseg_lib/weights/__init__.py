"""Weights as people have them: single files, LoRA files, and settings that tell models apart."""
